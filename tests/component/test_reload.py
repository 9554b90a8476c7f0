# SPDX-License-Identifier: Apache-2.0
"""SIGHUP: settings, routes, flags and keys are read again while the program runs."""
import collections
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading
import time

import pytest

from gateway import copy_routes
from process import eventually
from service import Service, answer, bind_response
from switching import COMMON, OPERATION, Answering, auth, config, legacy, start
from tokens import SECRET, bearer


def test_sighup_reads_file_flags_and_routes(start, config, tmp_path, device_id):
    routes = os.path.join(tmp_path, "routes")
    shutil.copytree(copy_routes(lambda route: None), routes)
    flags = tmp_path / "flags"
    flags.write_text("# phase A\nFEATURE_KAFKA_EVENTS=off\n")
    file = config(feature={"file": str(flags)})
    gateway = start(file, routes=routes, FEATURE_KAFKA_EVENTS=None)
    assert gateway.flag("GET", OPERATION).json() == {
        "operationId": "bindDeviceQR", "value": "off", "source": "file", "own": False}
    with Service(gateway.bootstrap()) as service:
        gateway.wait_kafka()
        flags.write_text("FEATURE_KAFKA_EVENTS=off\nFEATURE_KAFKA_EVENTS_BIND_DEVICE_QR=true\n")
        assert gateway.path_of(gateway.bind("GH-1")) == "legacy", "nothing is read before SIGHUP"
        gateway.reload()
        line = gateway.wait_log("flag changed", operation="bindDeviceQR")
        assert (line["who"], line["before"], line["after"]) == ("reload", "off", "primary")
        service.on(device_id, answer(bind_response))
        assert gateway.path_of(gateway.bind(device_id)) == "kafka"
        # A route file: the answer changes, and so do topics that nobody has seen before.
        change_route(routes, "bindDeviceQR", lambda route: [rule.update(status=418) for rule in route["replies"]])
        gateway.reload()
        assert gateway.bind(device_id).status == 418
    assert gateway.metrics().sum("syncgate_config_reloads_total", result="ok") == 2


def change_route(routes, operation, change):
    for name in os.listdir(routes):
        path = os.path.join(routes, name)
        if not name.endswith(".json"):
            continue
        with open(path, encoding="utf-8") as file:
            route = json.load(file)
        if route["operationId"] == operation:
            change(route)
            with open(path, "w", encoding="utf-8") as file:
                json.dump(route, file, ensure_ascii=False)


def test_a_reload_brings_new_topics(start, tmp_path, device_id):
    """The command goes to a topic that did not exist, and its reply comes on another one; nothing is refused meanwhile."""
    routes = os.path.join(tmp_path, "routes")
    shutil.copytree(copy_routes(lambda route: None), routes)
    gateway = start(routes=routes, FEATURE_KAFKA_EVENTS="only", LEGACY_URL=None)
    with Service(gateway.bootstrap()) as service:
        service.on(device_id, lambda s, command: s.send(bind_response(command), topic="new.replies"))

        def move(route):
            for rule in route["replies"]:
                if rule["topic"] == "device.commands.responses.v1":
                    rule["topic"] = "new.replies"

        change_route(routes, "bindDeviceQR", move)
        gateway.reload()
        statuses = [gateway.bind(device_id).status for _ in range(5)]
    assert statuses == [200] * 5


def test_a_reload_renames_topics_and_enables_routes(start, config, tmp_path, device_id):
    routes = os.path.join(tmp_path, "routes")
    shutil.copytree(copy_routes(lambda route: None), routes)
    gateway = start(config(), routes=routes)
    assert gateway.flag("GET", "/admin/flags/createUser").status == 404, "a disabled route has no flag"
    config(topicNames="device.commands.responses.v1=new.replies")
    change_route(routes, "createUser", lambda route: route.update(enabled=True))
    gateway.reload()
    assert gateway.flag("GET", "/admin/flags/createUser").json()["value"] == "primary"
    with Service(gateway.bootstrap()) as service:
        service.on(device_id, lambda s, command: s.send(bind_response(command), topic="new.replies"))
        assert gateway.bind(device_id).status == 200
        assert service.wait_command(device_id).headers["kafka_replyTopic"] == b"new.replies"


BROKEN = [
    ("config", lambda c, r, f: c(limits=1), "limits"),
    ("json", lambda c, r, f: pathlib.Path(c()).write_text("{", encoding="utf-8"), "JSON"),
    ("flag", lambda c, r, f: c(feature={"kafkaEvents": "maybe"}), "maybe"),
    ("flag of nobody", lambda c, r, f: c(feature={"operations": {"nobody": "true"}}), "NOBODY"),
    ("flags file", lambda c, r, f: f.write_text("FEATURE_KAFKA_EVENTS=on\n"), "'on'"),
    ("flags file, name", lambda c, r, f: f.write_text("KAFKA=true\nFEATURE_KAFKA_EVENTS=true\n"), "flags:1"),
    ("flags file, twice", lambda c, r, f: f.write_text("FEATURE_KAFKA_EVENTS=true\nFEATURE_KAFKA_EVENTS=off\n"), "flags:2"),
    ("flags file gone", lambda c, r, f: f.unlink(), "cannot read"),
    ("route", lambda c, r, f: change_route(r, "bindDeviceQR", lambda route: route.update(topik=1)), "topik"),
    ("timeout", lambda c, r, f: change_route(r, "bindDeviceQR", lambda route: route.update(timeoutMs=2500)), "2500"),
    ("topic name", lambda c, r, f: c(topicNames="device.command=x"), '"device.command"'),
    ("disabled", lambda c, r, f: change_route(r, "bindDeviceQR", lambda route: route.update(enabled=False)),
     "disabledBecause"),
    ("no routes", lambda c, r, f: shutil.rmtree(r), "routes"),
]


def test_a_broken_configuration_changes_nothing_and_says_why(start, config, tmp_path):
    routes = os.path.join(tmp_path, "routes")
    pristine = copy_routes(lambda route: None)
    shutil.copytree(pristine, routes)
    flags = tmp_path / "flags"
    flags.write_text("FEATURE_KAFKA_EVENTS=true\n")
    good = {"feature": {"file": str(flags)}}
    gateway = start(config(**good), routes=routes, FEATURE_KAFKA_EVENTS=None)
    for name, breaks, word in BROKEN:
        before = gateway.flag("GET", COMMON).json()
        config(**good)
        flags.write_text("FEATURE_KAFKA_EVENTS=true\n")
        shutil.rmtree(routes, ignore_errors=True)
        shutil.copytree(pristine, routes)
        breaks(lambda **more: config(**{**good, **more}), routes, flags)
        line = gateway.reload(ok=False)
        assert word in line["error"], (name, line)
        assert gateway.flag("GET", COMMON).json() == before, name
    assert gateway.metrics().sum("syncgate_config_reloads_total", result="failed") == len(BROKEN)
    with Answering(gateway.bootstrap()):
        assert gateway.path_of(gateway.bind("GH-1")) == "kafka"


def test_settings_that_need_a_restart_are_named_and_keep_their_value(start, config):
    gateway = start(config(bodyLimit="10KiB", logLevel="info"))
    config(bodyLimit="1KiB", logLevel="debug", kafka={"properties": {"linger.ms": 5}})
    gateway.reload()
    gateway.reload()

    def told():
        return [line["settings"] for line in gateway.logs() if line.get("msg") == "settings that changed need a restart"]

    eventually(lambda: len(told()) == 2, "as often as the files are read")
    assert told() == ["SYNCGATE_BODY_LIMIT, kafka.properties"] * 2
    answer_ = gateway.bind("GH-1", qr={"deviceId": "x" * 5000, "fingerprint": "y"}, headers={})
    assert answer_.status == 401, "the body limit is the one it started with"


def test_keys_are_reloaded(start, config):
    gateway = start(config(auth={"hs256Secret": SECRET}), AUTH_HS256_SECRET=None)
    other = "another-secret-of-the-tests-0123456789"
    assert gateway.bind("GH-1", qr={"deviceId": 1}).status == 400
    assert gateway.bind("GH-1", qr={"deviceId": 1}, headers=bearer(secret=other)).status == 401
    config(auth={"hs256Secret": other})
    gateway.reload()
    assert gateway.bind("GH-1", qr={"deviceId": 1}, headers=bearer(secret=other)).status == 400
    assert gateway.bind("GH-1", qr={"deviceId": 1}).status == 401


def test_a_start_that_waits_for_kafka_can_be_mended_by_a_reload(start, tmp_path):
    flags = tmp_path / "flags"
    flags.write_text("only\n")
    gateway = start(KAFKA_BROKERS="127.0.0.1:1", FEATURE_KAFKA_EVENTS_FILE=str(flags), wait_ready=False)
    assert gateway.admin_get("/health/ready").status == 503
    flags.write_text("off\n")
    gateway.reload()
    gateway.wait_ready()
    assert gateway.path_of(gateway.bind("GH-1")) == "legacy"


def test_a_reload_while_it_shuts_down_is_refused_and_said(start):
    gateway = start(SHUTDOWN_DELAY="10m")
    gateway.popen.send_signal(signal.SIGTERM)
    gateway.wait_log("shutting down")
    assert "shutting down" in gateway.reload(ok=False)["error"]
    gateway.popen.send_signal(signal.SIGTERM)


def test_what_the_admin_port_set_outlives_a_reload(start, config):
    gateway = start(config())
    gateway.set(OPERATION, "split:7")
    gateway.reload()
    assert gateway.flag("GET", OPERATION).json() == {
        "operationId": "bindDeviceQR", "value": "split:7", "source": "admin", "own": True}


def test_reloading_under_load_drops_nothing(start, legacy, tmp_path):
    """Reloads and switches, one after the other, while clients call: every call has the answer of one of the paths, and was
    executed by one of them, once."""
    routes = os.path.join(tmp_path, "routes")
    shutil.copytree(copy_routes(lambda route: None), routes)
    gateway = start(routes=routes)
    stop, failures, count = threading.Event(), [], [0]
    executed, wanted = collections.Counter(), set()

    def client(number):
        for call in itertools.takewhile(lambda _: not stop.is_set(), itertools.count(1)):
            device = f"LOAD-{number}-{call:06}"
            answer_ = gateway.bind(device)
            count[0] += 1
            wanted.add(device)
            if answer_.status != 200:
                failures.append(answer_)

    with Answering(gateway.bootstrap()) as service:
        threads = [threading.Thread(target=client, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for round_ in range(6):
            gateway.set(COMMON, ("off", "true", "split:50")[round_ % 3])
            change_route(routes, "bindDeviceQR", lambda route, r=round_: route.update(timeoutMs=20000 + r))
            gateway.reload()
            seen = count[0]
            eventually(lambda seen=seen: count[0] > seen + 40 or failures, "calls after the reload")
        stop.set()
        for thread in threads:
            thread.join(20)
        executed.update(command.device_id for command in service.commands)
    executed.update(json.loads(request_["body"])["qrData"]["deviceId"] for request_ in legacy.requests_with("LOAD-"))
    assert not failures, failures[:3]
    assert executed == collections.Counter(wanted), executed - collections.Counter(wanted)
    eventually(lambda: gateway.metrics().sum("syncgate_active_requests") == 0, "all calls ended")


@pytest.mark.once
def test_a_storm_of_sighup_does_not_keep_the_newest_configuration_from_being_used(start, config, tmp_path):
    """Main's loop goes on: it answers, and it uses what it has read, while signals come faster than files are read."""
    flags = tmp_path / "flags"
    flags.write_text("off\n")
    gateway = start(config(feature={"file": str(flags)}), FEATURE_KAFKA_EVENTS=None)
    flags.write_text("split:7\n")
    storm = ["sh", "-c", f"while kill -HUP {gateway.popen.pid}; do :; done"]
    senders = [subprocess.Popen(storm, stderr=subprocess.DEVNULL) for _ in range(4)]
    try:
        started = time.monotonic()
        for answers in range(100):
            assert gateway.admin_get("/health/live").status == 200
            assert time.monotonic() - started < 20, answers
        assert gateway.flag("GET", COMMON).json()["common"]["value"] == "split:7"
    finally:
        for sender in senders:
            sender.kill()
            sender.wait()


@pytest.mark.once
def test_sighup_again_does_not_make_a_configuration_wait_for_its_topics_anew(start, config, tmp_path):
    flags = tmp_path / "flags"
    flags.write_text("true\n")
    gateway = start(config(feature={"file": str(flags)}), wait_kafka=False, FEATURE_KAFKA_EVENTS=None,
                    SYNCGATE_REPLY_TOPIC="device.commands.responses.v1", SYNCGATE_REPLY_PARTITION=99)
    flags.write_text("split:7\n")

    def is_used():
        gateway.popen.send_signal(signal.SIGHUP)
        return gateway.flag("GET", COMMON).json()["common"]["value"] == "split:7"

    eventually(is_used, "it waits 5 s at most", 15)


@pytest.mark.once
def test_a_broken_configuration_does_not_take_back_one_that_waits_for_its_topics(start, config, tmp_path):
    flags = tmp_path / "flags"
    flags.write_text("true\n")
    gateway = start(config(feature={"file": str(flags)}), wait_kafka=False, FEATURE_KAFKA_EVENTS=None,
                    SYNCGATE_REPLY_TOPIC="device.commands.responses.v1", SYNCGATE_REPLY_PARTITION=99)
    flags.write_text("split:7\n")
    gateway.popen.send_signal(signal.SIGHUP)
    status = pathlib.Path(f"/proc/{gateway.popen.pid}/status")
    eventually(lambda: re.search(r"^ShdPnd:\s*0+$", status.read_text(), re.M), "the signal is taken")
    assert gateway.admin_get("/health/live").status == 200, "main's loop has read the files when it answers"
    flags.unlink()
    gateway.reload(ok=False)
    eventually(lambda: gateway.flag("GET", COMMON).json()["common"]["value"] == "split:7", "the first one is used", 15)
