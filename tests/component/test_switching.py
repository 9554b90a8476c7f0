# SPDX-License-Identifier: Apache-2.0
"""Traffic is moved between the two paths while the program runs: the flag's values, and the admin port."""
import threading

import pytest

from gateway import BIND, UNBIND
from http_client import request
from service import Service, bind_response
from switching import ALICE, BOB, COMMON, OPERATION, Answering, Switched, auth, legacy, start
from tokens import bearer

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
