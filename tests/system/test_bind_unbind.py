# SPDX-License-Identifier: Apache-2.0
"""bind-qr and unbind over Apache Kafka: the command on the wire, every error code of contract section 4.2, every form of
reply that a service may send, and the same story told by both paths."""
import time
import uuid

import pytest

from contract import MESSAGES, check_command, error_answer
from device_service import DeviceService
from gateway import QR_TOKEN, Gateway, copy_routes
from service import (RESPONSES, Service, answer, bind_response, bound_event, envelope, failure, now_text,
                     unbound_event)
from tokens import STRANGER, USER, bearer

TIMEOUT_MS = 2500


def short_timeout(route):
    route["timeoutMs"] = TIMEOUT_MS


@pytest.fixture(scope="module")
def gateway(kafka):
    gateway = Gateway(copy_routes(short_timeout), KAFKA_BROKERS=kafka.bootstrap, FEATURE_KAFKA_EVENTS="only",
                      KAFKA_MESSAGE_TIMEOUT="1s")
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def service(kafka, gateway):
    with Service(kafka.bootstrap) as service:
        yield service


# --- success --------------------------------------------------------------------------------------------------------


def test_bind(gateway, service, device_id):
    service.on(device_id, answer(lambda command: bind_response(command, boundAt="2025-09-01T08:15:30.455Z")))
    response = gateway.bind(device_id)
    assert response.status == 200, response
    assert response.json() == {"message": MESSAGES["bound"], "device": {
        "deviceId": device_id, "userId": USER, "boundAt": "2025-09-01T08:15:30.455Z", "status": "bound"}}
    assert response.header("Content-Type") == "application/json; charset=utf-8"
    check_command(service.wait_command(device_id), "device.command.bind",
                  {"deviceId": device_id, "userId": USER, "bindingToken": QR_TOKEN})


def test_the_user_is_the_tokens(gateway, service, device_id):
    service.on(device_id, answer(bind_response))
    assert gateway.bind(device_id, bearer(sub=STRANGER)).json()["device"]["userId"] == STRANGER


def test_unbind(gateway, service, device_id):
    service.on(device_id, answer(unbound_event))
    response = gateway.unbind(device_id)
    assert response.status == 200, response
    assert response.json() == {"message": MESSAGES["unbound"], "deviceId": device_id}
    check_command(service.wait_command(device_id), "device.command.unbind",
                  {"deviceId": device_id, "requestedBy": USER})


def test_unbind_drops_unknown_keys_and_carries_the_reason(gateway, service, device_id):
    service.on(device_id, answer(unbound_event))
    assert gateway.unbind(device_id, reason="переезд", unknown=[1], requestedBy=STRANGER).status == 200
    check_command(service.wait_command(device_id), "device.command.unbind",
                  {"deviceId": device_id, "requestedBy": USER, "reason": "переезд"})


def test_each_command_has_an_id_of_its_own(gateway, service, device_id):
    service.on(device_id, answer(bind_response))
    ids = {gateway.bind(device_id).header("X-Correlation-Id") for _ in range(20)}
    assert len(ids) == 20
    assert ids == {command.id for command in service.commands_of(device_id)}


# --- forms of a reply -----------------------------------------------------------------------------------------------


def without(value, *names):
    return {name: part for name, part in value.items() if name not in names}


BIND_SUCCESS = {
    "response": (bind_response, None),
    "event": (bound_event, None),
    "response without headers": (bind_response, {}),
    "event without headers": (bound_event, {}),
    "only the header names of the contract's example": (bind_response, "correlation-id"),
    "only the header names of Spring and NestJS": (bind_response, "kafka_correlationId"),
    "integer timestamp": (lambda c: {**bind_response(c), "timestamp": int(time.time() * 1000)}, None),
    "unknown keys everywhere": (lambda c: {**bind_response(c, extra={"a": [1]}), "extra": None}, None),
    "without version": (lambda c: without(bind_response(c), "__version"), None),
    "correlation id in capitals": (lambda c: {**bind_response(c), "correlationId": c.id.upper()}, {}),
}


@pytest.mark.parametrize("name", BIND_SUCCESS)
def test_forms_of_success(gateway, service, device_id, name):
    make, headers = BIND_SUCCESS[name]

    def handle(service, command):
        service.send(make(command), headers={headers: command.id} if isinstance(headers, str) else headers)

    service.on(device_id, handle)
    response = gateway.bind(device_id)
    assert response.status == 200, response
    device = response.json()["device"]
    assert device["deviceId"] == device_id and device["userId"] == USER and device["status"] == "bound"
    assert device["boundAt"].endswith("Z")


def test_missing_fields_have_their_defaults(gateway, service, device_id):
    """Missing userId: the token's sub; missing boundAt: the reply's timestamp."""
    service.on(device_id, answer(lambda command: {
        **envelope("device.response.bind", command.id, {"deviceId": device_id}, success=True),
        "timestamp": "2025-09-01T08:15:30.480Z"}))
    assert gateway.bind(device_id).json()["device"] == {
        "deviceId": device_id, "userId": USER, "boundAt": "2025-09-01T08:15:30.480Z", "status": "bound"}


def test_a_missing_bound_at_from_an_integer_timestamp(gateway, service, device_id):
    service.on(device_id, answer(lambda command: {
        **envelope("device.response.bind", command.id, {"deviceId": device_id}, success=True),
        "timestamp": 1756714530480}))
    assert gateway.bind(device_id).json()["device"]["boundAt"] == "2025-09-01T08:15:30.480Z"


@pytest.mark.parametrize("make", [
    unbound_event,
    lambda c: envelope("device.response.unbind", c.id, {"deviceId": c.device_id}, success=True),
    lambda c: {**unbound_event(c), "timestamp": int(time.time() * 1000)},
])
def test_unbind_by_event_or_response(gateway, service, device_id, make):
    service.on(device_id, answer(make))
    assert gateway.unbind(device_id).json() == {"message": MESSAGES["unbound"], "deviceId": device_id}


# --- error codes (contract section 4.2) -----------------------------------------------------------------------------

NOT_FOUND = {"message": MESSAGES["not found"]}
TEXT = "text of the service"
BIND_ERRORS = {
    "DEVICE_NOT_FOUND": (404, NOT_FOUND),
    "NOT_FOUND": (404, NOT_FOUND),
    "ALREADY_BOUND": (409, {"message": MESSAGES["already bound"], "code": "ALREADY_BOUND"}),
    "INVALID_QR": (400, {"message": TEXT, "code": "INVALID_QR"}),
    "INVALID_TOKEN": (400, {"message": TEXT, "code": "INVALID_QR"}),
    "FORBIDDEN": (403, {"message": TEXT, "code": "FORBIDDEN"}),
    "NOT_OWNER": (403, {"message": TEXT, "code": "FORBIDDEN"}),
    "VALIDATION_FAILED": (422, {"message": TEXT, "code": "VALIDATION_FAILED"}),
    "UNAUTHORIZED": (401, {"message": TEXT, "code": "UNAUTHORIZED"}),
    "EXECUTION_FAILED": (400, {"message": TEXT}),
    "SOMETHING_NEW": (400, {"message": TEXT}),
    "": (400, {"message": TEXT}),
}
UNBIND_ERRORS = {
    "DEVICE_NOT_FOUND": (404, NOT_FOUND),
    "NOT_FOUND": (404, NOT_FOUND),
    "ALREADY_UNBOUND": (400, {"message": TEXT}),
    "NOT_OWNER": (400, {"message": TEXT}),
    "FORBIDDEN": (400, {"message": TEXT}),
    "INVALID_QR": (400, None),
    "INVALID_TOKEN": (400, None),
    "VALIDATION_FAILED": (400, None),
    "UNAUTHORIZED": (401, None),
    "EXECUTION_FAILED": (400, {"message": TEXT}),
    "SOMETHING_NEW": (400, {"message": TEXT}),
}


@pytest.mark.parametrize("code", BIND_ERRORS)
def test_bind_error_codes(gateway, service, device_id, code):
    service.on(device_id, answer(lambda command: failure(command, code, TEXT)))
    response = gateway.bind(device_id)
    assert (response.status, response.json()) == BIND_ERRORS[code]


@pytest.mark.parametrize("code", UNBIND_ERRORS)
def test_unbind_error_codes(gateway, service, device_id, code):
    service.on(device_id, answer(lambda command: failure(command, code, TEXT, "unbind")))
    response = gateway.unbind(device_id)
    status, body = UNBIND_ERRORS[code]
    assert response.status == status, response
    assert response.json()["message"] == TEXT or body == NOT_FOUND
    assert body is None or response.json() == body


@pytest.mark.parametrize("make", [
    lambda c: without(failure(c, "X"), "error"),
    lambda c: {**failure(c, "X"), "error": {}},
    lambda c: {**failure(c, "X"), "error": {"code": "EXECUTION_FAILED", "message": ""}},
    lambda c: {**failure(c, "X"), "error": {"code": "EXECUTION_FAILED"}},
    lambda c: without(failure(c, "X"), "error", "payload"),
])
def test_a_failure_without_text_has_the_legacy_text(gateway, service, device_id, make):
    service.on(device_id, answer(make))
    response = gateway.bind(device_id)
    assert (response.status, response.json()) == (400, {"message": MESSAGES["bind failed"]})
    service.on(device_id, answer(lambda c: {**make(c), "eventType": "device.response.unbind"}))
    response = gateway.unbind(device_id)
    assert (response.status, response.json()) == (400, {"message": MESSAGES["unbind failed"]})


def test_a_failure_without_payload(gateway, service, device_id):
    service.on(device_id, answer(lambda command: without(failure(command, "DEVICE_NOT_FOUND"), "payload")))
    assert gateway.bind(device_id).status == 404


def test_any_text_of_the_service_arrives_unchanged(gateway, service, device_id):
    text = 'кавычки " и \\ и \n и \u0000 и \U0001f331 </script>'
    service.on(device_id, answer(lambda command: failure(command, "EXECUTION_FAILED", text)))
    assert gateway.bind(device_id).json() == {"message": text}


# --- which reply counts ---------------------------------------------------------------------------------------------


def test_timeout_then_the_late_reply_then_a_new_call(gateway, service, device_id):
    started = time.monotonic()
    response = gateway.bind(device_id)
    took_ms = (time.monotonic() - started) * 1000
    error_answer(504, "REPLY_TIMEOUT", response)
    # Deadlines hold within 20 ms; the rest is this test's own client.
    assert TIMEOUT_MS - 2 <= took_ms < TIMEOUT_MS + 20 + 30, took_ms
    late = gateway.metrics().sum("syncgate_replies_total", result="late")
    service.send(bind_response(service.wait_command(device_id)))
    service.on(device_id, answer(lambda command: failure(command, "ALREADY_BOUND")))
    assert gateway.bind(device_id).status == 409
    assert gateway.metrics().sum("syncgate_replies_total", result="late") == late + 1


def test_duplicates_and_strangers_answer_nobody(gateway, service, device_id):
    other = device_id + "-other"

    def crowd(service, command):
        stranger = bind_response(command, deviceId="stranger")
        for headers in (None, {}):
            service.send({**stranger, "correlationId": str(uuid.uuid4())}, headers=headers)
        for earlier in service.commands[-20:]:
            service.send(bind_response(earlier, deviceId="an earlier call's"))
        # One key: the reply comes before its duplicate, whatever the partitions.
        service.send(bind_response(command), key="one partition")
        service.send(bind_response(command, deviceId="duplicate"), key="one partition")

    service.on(device_id, crowd)
    service.on(other, crowd)
    for name in (device_id, other) * 3:
        response = gateway.bind(name)
        assert response.status == 200 and response.json()["device"]["deviceId"] == name


def test_a_reply_of_another_kind_is_not_ours(gateway, service, device_id):
    def handle(service, command):
        service.send(unbound_event(command))
        service.send({**failure(command, "NOT_FOUND"), "eventType": "device.response.ota"})
        service.send(bound_event(command), topic=RESPONSES)
        service.send(failure(command, "ALREADY_BOUND"))

    service.on(device_id, handle)
    assert gateway.bind(device_id).status == 409


# --- the example service: both paths tell the same story ------------------------------------------------------------


def story(gateway, device, number):
    """The answers to a life of one device, with what differs between runs replaced."""
    name = device.register(f"GH-story-{number}")
    short = {"deviceId": name, "bindingToken": "short"}
    calls = [
        lambda: gateway.bind(name),
        lambda: gateway.bind(name),
        lambda: gateway.bind(name, bearer(sub=STRANGER)),
        lambda: gateway.bind("GH-nobody"),
        lambda: gateway.bind(name, qr=short),
        lambda: gateway.bind(name, qr={"deviceId": name, "fingerprint": "a"}),
        lambda: gateway.bind(name, {}),
        lambda: gateway.unbind(name, bearer(sub=STRANGER)),
        lambda: gateway.unbind(name, reason=None),
        lambda: gateway.unbind(name, reason="moved"),
        lambda: gateway.unbind(name),
        lambda: gateway.unbind("GH-nobody"),
        lambda: gateway.call("GET", "/api/devices/my", headers=bearer()),
        lambda: gateway.call("POST", "/api/devices/bind-qr", b"{", {"Content-Type": "application/json"}),
        lambda: gateway.call("POST", "/api/devices/bind-qr", b"{}", {"Content-Type": "text/plain", **bearer()}),
        lambda: gateway.call("GET", "/api/devices/bind-qr", headers=bearer()),
        lambda: gateway.call("POST", "/api/devices/unbind", b'{"deviceId":"%ZZ"}', bearer()),
    ]
    told = []
    for call in calls:
        response = call()
        body = response.json()
        if "device" in body:
            assert abs(len(body["device"].pop("boundAt")) - len(now_text())) == 0
        told.append((response.status, response.header("Content-Type"),
                     repr(body).replace(name, "DEVICE")))
    return told


def test_both_paths_tell_the_same_story(kafka, stoppable):
    device = stoppable(DeviceService(kafka.bootstrap))
    answers = {}
    for number, flag in enumerate(("false", "true")):
        gateway = stoppable(Gateway(KAFKA_BROKERS=kafka.bootstrap, FEATURE_KAFKA_EVENTS=flag, LEGACY_URL=device.url))
        answers[flag] = story(gateway, device, number)
        by_kafka = gateway.metrics().sum("syncgate_requests_total", path="kafka", status="200")
        assert by_kafka == (2 if flag == "true" else 0)
    assert answers["true"] == answers["false"]
    assert [status for status, _, _ in answers["true"]][:5] == [200, 409, 409, 404, 400]
    assert not device.executions()["kafka"]["redelivered"]


@pytest.mark.parametrize("behaviour", [
    {"replyBy": "event"}, {"replyBy": "both"}, {"duplicate": True}, {"stranger": True}, {"noHeaders": True},
    {"intTimestamp": True}, {"replyDelayMs": 300},
])
def test_a_device_service_with_manners_of_its_own(kafka, stoppable, device_id, behaviour):
    device = stoppable(DeviceService(kafka.bootstrap))
    gateway = stoppable(Gateway(KAFKA_BROKERS=kafka.bootstrap, FEATURE_KAFKA_EVENTS="only"))
    device.behave(**behaviour)
    name = device.register(device_id)
    answers = [gateway.bind(name), gateway.bind(name), gateway.unbind(name)]
    assert [answer.status for answer in answers] == [200, 409, 200]
    counts = device.executions()
    assert counts["rest"] == {"bind": 0, "unbind": 0}
    # Others' commands may be on the topic, too.
    executed = counts["kafka"]["byCorrelationId"]
    assert [executed[answer.header("X-Correlation-Id")] for answer in answers] == [1, 1, 1]
