# SPDX-License-Identifier: Apache-2.0
"""Traffic is moved between the two paths while the program runs: the flag's values, the admin port, SIGHUP, the flags file."""
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

from gateway import BIND, UNBIND, Gateway, copy_routes
from http_client import request
from legacy_stub import LegacyStub
from process import eventually
from service import Service, answer, bind_response
from tokens import SECRET, bearer

ALICE, BOB = "alice-token-0123456789", "bob-token-01234567890"
TOKENS = f"alice:{ALICE},bob:{BOB}"
COMMON, OPERATION = "/admin/flags", "/admin/flags/bindDeviceQR"


def auth(token=ALICE):
    return {"Authorization": "Bearer " + token}


class Switched(Gateway):
    def flag(self, method, path, value=None, token=ALICE):
        body = None if value is None else {"value": value}
        return request(self.admin, method, path, body, auth(token) if token else {})

    def set(self, path, value):
        answer_ = self.flag("PUT", path, value)
        assert answer_.status == 200, answer_
        return answer_.json()

    def reload(self, ok=True):
        msg = "configuration reloaded" if ok else "configuration not reloaded, the old one stays"
        before = len([line for line in self.logs() if line.get("msg") == msg])
        self.popen.send_signal(signal.SIGHUP)
        eventually(lambda: len([line for line in self.logs() if line.get("msg") == msg]) > before, msg)
        return [line for line in self.logs() if line.get("msg") == msg][-1]

    def path_of(self, answer_):
        """The path that the log says a call took."""
        wanted = answer_.header("X-Correlation-Id")
        return self.wait_log("exchange", correlationId=wanted)["path"]


@pytest.fixture(scope="module")
def legacy():
    stub = LegacyStub()
    yield stub
    stub.close()


@pytest.fixture
def config(tmp_path):
    """write(**content) writes the configuration file, and returns its name."""
    path = tmp_path / "syncgate.json"

    def write(**content):
        path.write_text(json.dumps(content))
        return str(path)

    write()
    return write


@pytest.fixture
def start(legacy, stoppable):
    def make(file=None, **settings):
        env = {"KAFKA_BROKERS": "embedded", "FEATURE_KAFKA_EVENTS": "true", "LEGACY_URL": legacy.url,
               "SYNCGATE_ADMIN_TOKENS": TOKENS, **settings}
        return stoppable(Switched(config=file, **env))

    return make


class Answering(Service):
    """Answers every bind, whatever the device."""

    class All(dict):
        def get(self, _key, _default=None):
            return answer(bind_response)

    def __init__(self, bootstrap):
        super().__init__(bootstrap)
        self.handlers = self.All()


# ---- values ----

@pytest.mark.parametrize("value, path", [("off", "legacy"), ("false", "legacy"), ("split:0", "legacy"),
                                         ("split:100", "kafka"), ("true", "kafka"), ("primary", "kafka"),
                                         ("only", "kafka")])
def test_a_value_of_the_flag_is_a_path(start, value, path):
    gateway = start(FEATURE_KAFKA_EVENTS=value, wait_kafka=path == "kafka")
    with Answering(gateway.bootstrap()):
        assert gateway.path_of(gateway.bind("GH-1")) == path


def users(count):
    return [f"{number:08x}-0000-4000-8000-000000000000" for number in range(count)]


def split_paths(gateway, subjects):
    """{subject: path}. Tokens that are wrong on purpose: the choice comes before their check."""
    paths = {}
    for subject in subjects:
        answer_ = gateway.bind("GH-1", headers=bearer(subject))
        paths[subject] = gateway.path_of(answer_)
    return paths


def test_a_split_is_sticky_grows_only_and_is_the_same_everywhere(start):
    subjects = users(120)
    first = start(FEATURE_KAFKA_EVENTS="split:30")
    with Answering(first.bootstrap()):
        at_30 = split_paths(first, subjects)
        assert 20 <= sum(path == "kafka" for path in at_30.values()) <= 55
        assert split_paths(first, subjects[:40]) == {s: at_30[s] for s in subjects[:40]}
        first.set(COMMON, "split:60")
        at_60 = split_paths(first, subjects)
    moved = [s for s in subjects if at_30[s] != at_60[s]]
    assert moved and all(at_60[s] == "kafka" for s in moved)
    second = start(FEATURE_KAFKA_EVENTS="split:30")
    with Answering(second.bootstrap()):
        assert split_paths(second, subjects) == at_30


def test_without_a_subject_the_address_splits(start, legacy):
    gateway = start(FEATURE_KAFKA_EVENTS="split:50", TRUSTED_PROXIES="127.0.0.1,10.0.0.0/8")

    def path(forwarded, **headers):
        answer_ = gateway.call("POST", BIND, {"qrData": {}}, {"X-Forwarded-For": forwarded, **headers})
        return gateway.path_of(answer_)

    addresses = [f"192.0.2.{n}" for n in range(40)]
    paths = {a: path(a) for a in addresses}
    assert set(paths.values()) == {"kafka", "legacy"}
    for address in addresses[:20]:
        assert path(address + ":4711") == paths[address]
        assert path(address + ", 10.1.2.3") == paths[address], "a trusted proxy's own address does not count"
        assert path("203.0.113.9, " + address) == paths[address], "what the client wrote to the left is not believed"
        assert path(address, Authorization="Bearer not.a.token") == paths[address]
    six = {n: path(f"2001:db8::{n:x}") for n in range(1, 20)}
    assert set(six.values()) == {"kafka", "legacy"}
    assert all(path(f"[2001:DB8:0::{n:x}]:99") == six[n] for n in six)


def test_an_untrusted_forwarded_address_does_not_count(start):
    gateway = start(FEATURE_KAFKA_EVENTS="split:50")
    paths = {gateway.path_of(gateway.call("POST", BIND, {}, {"X-Forwarded-For": f"192.0.2.{n}"})) for n in range(20)}
    assert len(paths) == 1


def test_a_preflight_of_only_needs_no_legacy(start):
    """Else no browser could call the route while the legacy backend is away."""
    gateway = start(FEATURE_KAFKA_EVENTS_BIND_DEVICE_QR="only", LEGACY_URL="http://127.0.0.1:1")
    asked = {"Origin": "http://shop.example", "Access-Control-Request-Method": "POST"}
    got = gateway.call("OPTIONS", BIND.upper() + "/", headers=asked)
    assert got.status == 204 and got.header("Access-Control-Allow-Origin") == "*"
    assert got.header("Access-Control-Allow-Methods") == "GET,HEAD,PUT,PATCH,POST,DELETE"
    assert got.header("Access-Control-Allow-Headers") == "Content-Type, Authorization"
    for path, headers in ((UNBIND, asked), (BIND, {**asked, "Access-Control-Request-Method": "GET"}), (BIND, {}), ("/x", asked)):
        assert gateway.call("OPTIONS", path, headers=headers).status == 502, (path, headers)
    gateway.set(COMMON, "primary")
    assert gateway.call("OPTIONS", BIND, headers=asked).status == 502


# ---- the admin port ----

def test_flags_need_a_token(start):
    gateway = start()
    for token in (None, "wrong-token-0123456789", ALICE + "x", ALICE[:-1]):
        for method in ("GET", "PUT", "DELETE"):
            assert gateway.flag(method, COMMON, "off" if method == "PUT" else None, token).status == 401
    assert gateway.flag("GET", COMMON, token=BOB).status == 200
    assert gateway.bind("GH-1", qr={"deviceId": 1}).status == 400
    closed = start(SYNCGATE_ADMIN_TOKENS=None)
    assert closed.flag("GET", COMMON).status == 403
    assert closed.flag("PUT", COMMON, "off").status == 403


def test_no_name_is_not_every_name(start):
    """What a script sends whose variable is not set must not move the traffic of all operations."""
    gateway = start()
    before = gateway.flag("GET", COMMON).json()
    for path in (COMMON + "/", COMMON + "/?", COMMON + "?operation=bindDeviceQR", COMMON + "//", COMMON + "s"):
        for method, value in (("GET", None), ("PUT", "off"), ("DELETE", None)):
            assert gateway.flag(method, path, value).status in (404, 405), (method, path)
    assert gateway.flag("GET", COMMON).json() == before


def test_an_operation_is_named_with_or_without_percent_escapes(start):
    gateway = start()
    gateway.set("/admin/flags/%62indDevice%51%52", "off")
    assert gateway.flag("GET", OPERATION).json()["value"] == "off"
    for name in ("bindDeviceQR%00", "bindDeviceQR%", "bindDeviceQR%4", "bindDeviceQ%5", "bindDevice%5zR", "%00"):
        assert gateway.flag("PUT", COMMON + "/" + name, "only").status == 404, name
    head = gateway.flag("HEAD", COMMON)
    assert head.status == 200 and head.body == b""


def test_put_and_delete_move_traffic_at_once_and_leave_an_audit_line(start):
    gateway = start()
    with Answering(gateway.bootstrap()):
        assert gateway.path_of(gateway.bind("GH-1")) == "kafka"
        assert gateway.set(OPERATION, "off") == {
            "operationId": "bindDeviceQR", "value": "off", "source": "admin", "own": True}
        assert gateway.path_of(gateway.bind("GH-1")) == "legacy"
        line = gateway.wait_log("flag changed", operation="bindDeviceQR")
        assert (line["who"], line["before"], line["after"]) == ("alice", "primary", "off")
        assert line["level"] == "audit"
        assert line["peer"] == "127.0.0.1"
        assert gateway.flag("DELETE", OPERATION, token=BOB).json()["source"] == "configured"
        line = gateway.wait_log("flag changed", operation="bindDeviceQR", who="bob")
        assert (line["before"], line["after"]) == ("off", "primary")
        assert gateway.path_of(gateway.bind("GH-1")) == "kafka"


def test_the_common_value_of_the_admin_port_beats_what_is_configured(start):
    gateway = start(FEATURE_KAFKA_EVENTS_UNBIND_DEVICE="only")
    listing = gateway.set(COMMON, "off")
    assert listing["common"] == {"value": "off", "source": "admin"}
    assert {op["value"] for op in listing["operations"]} == {"off"}
    gateway.set("/admin/flags/unbindDevice", "split:12.5")
    values = {op["operationId"]: op for op in gateway.flag("GET", COMMON).json()["operations"]}
    assert values["unbindDevice"] == {"operationId": "unbindDevice", "value": "split:12.5", "source": "admin", "own": True}
    assert values["bindDeviceQR"] == {"operationId": "bindDeviceQR", "value": "off", "source": "admin", "own": False}
    assert gateway.metrics().sum("syncgate_route_kafka_ratio", route="unbindDevice") == 0.125
    gateway.flag("DELETE", COMMON)
    assert gateway.flag("GET", OPERATION).json()["value"] == "primary"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"value":1}', b'{"value":"of"}', b'{"value":"split:101"}', b'{"v":"off"}',
                                  b'{"value":"split:-1"}', b'{"value":null}'])
def test_a_bad_value_changes_nothing(start, body):
    gateway = start()
    answer_ = request(gateway.admin, "PUT", COMMON, body, auth())
    assert answer_.status == 400 and answer_.json()["message"], answer_
    assert gateway.flag("GET", COMMON).json()["common"] == {"value": "primary", "source": "configured"}


def test_what_cannot_be_served_is_refused(start):
    gateway = start(LEGACY_URL=None, FEATURE_KAFKA_EVENTS="only")
    answer_ = gateway.flag("PUT", COMMON, "off")
    assert answer_.status == 409 and "LEGACY_URL" in answer_.json()["message"]
    assert gateway.flag("GET", COMMON).json()["common"]["value"] == "only"
    assert gateway.flag("PUT", "/admin/flags/nobody", "off").status == 404
    assert gateway.flag("GET", "/admin/flags/nobody").status == 404
    assert gateway.flag("POST", COMMON, "off").status == 405
    without_kafka = start(KAFKA_BROKERS=None, FEATURE_KAFKA_EVENTS="off")
    answer_ = without_kafka.flag("PUT", OPERATION, "true")
    assert answer_.status == 409 and "KAFKA_BROKERS" in answer_.json()["message"]


def test_a_gateway_that_started_off_can_be_switched_on(start):
    gateway = start(FEATURE_KAFKA_EVENTS="off")
    with Answering(gateway.bootstrap()):
        assert gateway.path_of(gateway.bind("GH-1")) == "legacy"
        gateway.wait_kafka()
        gateway.set(COMMON, "only")
        answer_ = gateway.bind("GH-2")
        assert answer_.status == 200 and gateway.path_of(answer_) == "kafka"


def test_a_parked_call_ends_on_the_path_it_began(start, device_id):
    """Switched off, and then reloaded, while a call waits: its reply still finishes it."""
    gateway = start()
    with Service(gateway.bootstrap()) as service:
        results = []
        thread = threading.Thread(target=lambda: results.append(gateway.bind(device_id)))
        thread.start()
        command = service.wait_command(device_id)
        gateway.set(COMMON, "off")
        gateway.reload()
        service.send(bind_response(command))
        thread.join(10)
        assert results[0].status == 200 and gateway.path_of(results[0]) == "kafka"
        assert gateway.path_of(gateway.bind("GH-2")) == "legacy"


# ---- SIGHUP ----

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
