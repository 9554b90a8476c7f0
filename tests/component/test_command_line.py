# SPDX-License-Identifier: Apache-2.0
"""The program without traffic: its commands, and a start that is refused with a message that names the mistake."""
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess

import pytest

from gateway import Gateway, copy_routes
from process import PATIENCE_S, ROOT, SANITIZER_WORDS, clean_environment, eventually, program
from tokens import SECRET

pytestmark = pytest.mark.once

GOOD = {"SYNCGATE_LISTEN": "127.0.0.1:0", "SYNCGATE_ADMIN_LISTEN": "127.0.0.1:0", "AUTH_HS256_SECRET": SECRET,
        "KAFKA_BROKERS": "embedded", "FEATURE_KAFKA_EVENTS": "true", "LEGACY_URL": "http://127.0.0.1:9"}


def run(*arguments, **settings):
    env = clean_environment({**GOOD, **settings})
    done = subprocess.run([program("syncgate"), *arguments], env=env, cwd=ROOT, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE_S, check=False)
    text = done.stderr.decode()
    assert not any(words in text for words in SANITIZER_WORDS), text
    assert done.returncode >= 0, f"killed by signal {-done.returncode}: {text}"
    return done.returncode, done.stdout.decode(), text


def test_help_names_every_setting_of_the_interface():
    status, out, _ = run("--help")
    assert status == 0
    for name in ("SYNCGATE_LISTEN", "SYNCGATE_ADMIN_LISTEN", "SYNCGATE_ROUTES", "KAFKA_BROKERS", "LEGACY_URL",
                 "FEATURE_KAFKA_EVENTS", "AUTH_JWKS", "AUTH_HS256_SECRET", "AUTH_PUBLIC_KEY", "AUTH_ISSUER",
                 "AUTH_AUDIENCE", "AUTH_ALGORITHMS", "AUTH_REQUIRE_EXP", "TRUSTED_PROXIES"):
        assert name in out


def test_version():
    status, out, _ = run("--version")
    assert status == 0 and any(char.isdigit() for char in out)


def test_unknown_argument():
    status, _, err = run("--no-such-option")
    assert status != 0 and "no-such-option" in err


def test_check_accepts_what_is_shipped():
    status, out, err = run("check")
    assert status == 0, out + err


def test_routes_prints_a_table():
    status, out, err = run("routes")
    assert status == 0, err
    for words in ("POST", "/api/devices/bind-qr", "/api/devices/unbind", "device.commands.v1", "device.response.bind",
                  "device.bound", "device.unbound"):
        assert words in out, out


def test_routes_tells_why_a_route_is_disabled():
    _, out, _ = run("routes")
    [line] = [line for line in out.splitlines() if "/api/users " in line]
    assert "disabled" in line.split() and "user.command.create" in line and "user.created@user.events.v1" in line
    assert "createUser is disabled: user.command.create has no field for" in out


def test_topics_have_the_names_of_the_installation():
    names = "device.commands.v1=mine.in,device.events.v1=mine.out"
    status, out, err = run("routes", SYNCGATE_TOPIC_NAMES=names)
    assert status == 0, err
    assert " mine.in " in out and "device.bound@mine.out" in out
    assert "device.commands.v1" not in out and "device.events.v1" not in out
    status, _, err = run("check", SYNCGATE_TOPIC_NAMES=names + ",no.such=x")
    assert status == 1 and 'uses the topic "no.such"' in err


def broken_routes(change=None, text=None):
    folder = copy_routes(change or (lambda route: None))
    if text is not None:
        with open(os.path.join(folder, "zz-broken.json"), "w", encoding="utf-8") as file:
            file.write(text)
    return folder


@pytest.mark.parametrize("change, text, words", [
    (None, "{", "zz-broken.json"),
    (None, '{"operationId":1}', "zz-broken.json"),
    (lambda route: route.update(surprise=1), None, "surprise"),
    (lambda route: route.update(operationId="nobodyKnowsThis"), None, "nobodyKnowsThis"),
    (lambda route: route["command"].update(payload={"a": "${body.}"}), None, ".json"),
    (lambda route: route["command"].update(payload={"a": "${nothing.of.this}"}), None, "nothing"),
])
def test_check_names_a_broken_route_file(change, text, words):
    folder = broken_routes(change, text)
    status, out, err = run("check", SYNCGATE_ROUTES=folder)
    assert status == 1
    assert words in out + err
    status, _, err = run("serve", SYNCGATE_ROUTES=folder)
    assert status not in (0, None) and words in err


@pytest.mark.parametrize("settings, words", [
    ({"FEATURE_KAFKA_EVENTS": "maybe"}, "FEATURE_KAFKA_EVENTS"),
    ({"FEATURE_KAFKA_EVENTS_BIND_DEVICE_QR": "perhaps"}, "BIND_DEVICE_QR"),
    ({"SYNCGATE_LISTEN": "nowhere at all"}, "SYNCGATE_LISTEN"),
    ({"SYNCGATE_LISTEN": "127.0.0.1:99999"}, "SYNCGATE_LISTEN"),
    ({"SYNCGATE_LOOPS": "-1"}, "SYNCGATE_LOOPS"),
    ({"SYNCGATE_LOOPS": "many"}, "SYNCGATE_LOOPS"),
    ({"SHUTDOWN_DELAY": "soon"}, "SHUTDOWN_DELAY"),
    ({"LEGACY_URL": "ftp://backend"}, "LEGACY_URL"),
    ({"LEGACY_URL": None}, "LEGACY_URL"),
    ({"KAFKA_BROKERS": None}, "KAFKA_BROKERS"),
    ({"KAFKA_NO_SUCH_PROPERTY": "1"}, "no.such.property"),
    ({"KAFKA_ACKS": "0"}, "acks"),
    ({"KAFKA_RETRIES": "3"}, "retries"),
    ({"AUTH_PUBLIC_KEY": "-----BEGIN PUBLIC KEY-----"}, "AUTH_"),
    ({"AUTH_HS256_SECRET": None}, "AUTH_"),
    ({"AUTH_ALGORITHMS": "none"}, "AUTH_ALGORITHMS"),
    ({"SYNCGATE_ENV": "production"}, "embedded"),
    ({"SYNCGATE_ROUTES": "/nonexistent"}, "/nonexistent"),
    ({"SYNCGATE_TOPIC_NAMES": "device.command.v1=mine"}, "SYNCGATE_TOPIC_NAMES: no route file"),
    ({"FEATURE_KAFKA_EVENTS_CREATE_USER": "true"}, "CREATE_USER: the route is disabled in its file"),
    ({"KAFKA_MESSAGE_TIMEOUT": "60s"}, "KAFKA_MESSAGE_TIMEOUT"),
    ({"SYNCGATE_BODY_MEMORY": "99KiB"}, "SYNCGATE_BODY_LIMIT"),
])
def test_a_bad_setting_stops_the_start(settings, words):
    status, out, err = run("serve", **settings)
    assert status not in (0, None), out
    assert words.lower() in err.lower(), err
    assert SECRET not in err


def test_a_config_file_and_the_environment_beats_it(tmp_path):
    path = tmp_path / "syncgate.json"
    path.write_text(json.dumps({"logLevel": "info", "feature": {"kafkaEvents": "nonsense"}}))
    status, _, err = run("check", "--config", str(path), FEATURE_KAFKA_EVENTS=None)
    assert status == 1 and "syncgate.json" in err
    status, _, err = run("check", "--config", str(path), FEATURE_KAFKA_EVENTS="true")
    assert status == 0, err


@pytest.mark.parametrize("setting", ["SYNCGATE_LISTEN", "SYNCGATE_ADMIN_LISTEN"])
def test_a_busy_port_is_a_start_error(setting):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, err = run("serve", **{setting: f"127.0.0.1:{port}"})
    assert status not in (0, None)
    assert str(port) in err


def test_with_the_flag_off_no_broker_is_needed(stoppable):
    gateway = stoppable(Gateway(FEATURE_KAFKA_EVENTS="false", LEGACY_URL="http://127.0.0.1:9"))
    assert gateway.admin_get("/health/live").status == 200
    assert gateway.call("GET", "/api/anything").status == 502


def test_sighup_while_the_settings_are_read_does_not_end_the_start(tmp_path):
    """It is served as a reload afterwards. A named pipe keeps the start where it reads."""
    pipe = tmp_path / "syncgate.json"
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)
    env = clean_environment({**GOOD, "SHUTDOWN_DELAY": "0"})
    argv = [program("syncgate"), "--config", str(pipe)]
    with subprocess.Popen(argv, env=env, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as gateway:
        try:
            eventually(lambda: str(pipe) in opened_files(gateway.pid), "it reads")
            gateway.send_signal(signal.SIGHUP)
            os.write(writer, b"{}")
            os.close(writer)
            lines = (json.loads(line)["msg"] for line in gateway.stderr)
            assert "configuration not reloaded, the old one stays" in lines, "the pipe is empty the second time"
            gateway.terminate()
            assert "stopped" in lines
        finally:
            gateway.kill()


def opened_files(pid):
    names = []
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since
            names.append(os.readlink(entry))
    return names
