# SPDX-License-Identifier: Apache-2.0
"""One-way routes: the event is in Kafka when the call is answered. The program with the embedded broker."""
import json
import os
import re
import time

import pytest

from contract import DATE_TIME, TRACEPARENT, UUID, error_answer
from events import read_events
from gateway import Gateway, copy_routes
from legacy_stub import LegacyStub
from process import ROOT
from service import MQTT_EVENTS, TELEMETRY, USER_EVENTS
from tokens import USER, bearer

MESSAGES, MEASUREMENTS = "/api/webhooks/mqtt/messages", "/api/webhooks/mqtt/telemetry"
USERS = "/api/webhooks/users/"
ADMIN = {"realm_access": {"roles": ["admin"]}}
RECEIVED_MS, RECEIVED = 1756714530455, "2025-09-01T08:15:30.455Z"


@pytest.fixture(scope="module")
def legacy():
    stub = LegacyStub()
    yield stub
    stub.close()


@pytest.fixture(scope="module")
def gateway(legacy):
    gateway = Gateway(KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="true", LEGACY_URL=legacy.url)
    yield gateway
    gateway.stop()


def admin(**more):
    return {**bearer(**ADMIN), **more}


def topic_of(device_id, last="telemetry"):
    return f"users/{USER}/devices/{device_id}/{last}"


def message(device_id, **more):
    return {"event": "message.publish", "topic": topic_of(device_id, "status"), "payload": "online", "qos": 1,
            "clientid": "c-1", "flags": {"retain": False}, "publish_received_at": RECEIVED_MS, **more}


def the_event(gateway, answer, topic):
    """The only record of this call; it has to be there already."""
    found = [event for event in read_events(gateway.bootstrap(), topic) if event.id == answer.header("X-Correlation-Id")]
    assert len(found) == 1, found
    return found[0]


def check_headers(event, event_type):
    """Exactly those of an event: nobody is to answer it, and it is true for ever."""
    headers = dict(event.headers)
    assert len(headers) == len(event.headers)
    assert set(headers) - {"idempotency-key"} == {"content-type", "correlation-id", "event-type", "traceparent"}
    assert headers["content-type"] == "application/json"
    assert headers["event-type"] == event_type
    assert UUID.match(headers["correlation-id"]) and TRACEPARENT.match(headers["traceparent"])
    return headers


def check_accepted(answer):
    assert answer.status == 202, answer
    assert answer.header("Content-Type") == "application/json; charset=utf-8"
    assert answer.json() == {"correlationId": answer.header("X-Correlation-Id")}
    assert UUID.match(answer.json()["correlationId"])


# --- what is written ------------------------------------------------------------------------------------------------


def test_a_message_of_the_mqtt_broker(gateway, device_id):
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    answer = gateway.call("POST", MESSAGES, message(device_id, peerhost="192.0.2.7", username="u", id="0006"),
                          admin(**{"Idempotency-Key": "key-42", "traceparent": trace}))
    check_accepted(answer)
    event = the_event(gateway, answer, MQTT_EVENTS)
    headers = check_headers(event, "mqtt.message.received")
    assert headers["idempotency-key"] == "key-42" and headers["traceparent"] == trace
    assert event.key == device_id
    assert event.value == {
        "eventType": "mqtt.message.received", "correlationId": event.id, "timestamp": RECEIVED,
        "source": {"type": "device", "id": device_id}, "__version": "v1",
        "payload": {"deviceId": device_id, "topic": topic_of(device_id, "status"), "payload": "online", "qos": 1,
                    "retain": False, "receivedAt": RECEIVED, "clientId": "c-1", "username": "u",
                    "ipAddress": "192.0.2.7", "messageSize": 6}}


@pytest.mark.parametrize("decoded", [False, True], ids=["text", "decoded"])
def test_measurements_of_a_device(gateway, device_id, decoded):
    payload = {"temperature": 21.5, "humidity": 40, "batteryLevel": 87, "analogInputs": [{"id": "a", "value": 1}],
               "discreteInputs": {"not": "an array"}, "custom": {"note": "d\u00e9j\u00e0 \"vu\""}, "uptime": 7}
    answer = gateway.call("POST", MEASUREMENTS, {
        "topic": topic_of(device_id), "payload": payload if decoded else json.dumps(payload), "qos": 0,
        "timestamp": RECEIVED_MS}, admin())
    check_accepted(answer)
    event = the_event(gateway, answer, TELEMETRY)
    check_headers(event, "device.telemetry.received")
    assert event.key == device_id
    assert event.value == {
        "eventType": "device.telemetry.received", "correlationId": event.id, "timestamp": RECEIVED,
        "source": {"type": "device", "id": device_id}, "__version": "v1",
        "payload": {"deviceId": device_id, "receivedAt": RECEIVED, "telemetryType": "sensors",
                    "data": {name: payload[name] for name in ("temperature", "humidity", "batteryLevel", "analogInputs",
                                                              "custom")},
                    "metadata": {"protocol": "mqtt", "topic": topic_of(device_id), "qos": 1, "retain": False}}}


@pytest.mark.parametrize("path, event_type, time_name, fields", [
    ("authenticated", "user.authenticated", "authenticatedAt",
     {"sessionId": "s-1", "ipAddress": "192.0.2.7", "userAgent": "a", "method": "password"}),
    ("registered", "user.registered", "registeredAt", {"email": "ann@example.org", "firstName": "Ann"}),
    ("logged-out", "user.logged_out", "loggedOutAt", {"sessionId": "s-1", "reason": "manual"}),
    ("profile-updated", "user.profile_updated", "updatedAt",
     {"updatedBy": USER, "changes": [{"field": "firstName", "oldValue": "Ann", "newValue": None}]}),
])
def test_events_of_the_identity_provider(gateway, path, event_type, time_name, fields):
    answer = gateway.call("POST", USERS + path, {"userId": USER, "unknown": 1, **fields}, admin())
    check_accepted(answer)
    event = the_event(gateway, answer, USER_EVENTS)
    check_headers(event, event_type)
    assert event.key == USER
    value = event.value
    assert set(value) == {"eventId", "eventType", "timestamp", "version", "source", "payload"}
    assert (value["eventId"], value["eventType"], value["version"], value["source"]) == (
        event.id, event_type, "1.0", "rest-api-gateway")
    assert DATE_TIME.match(value["timestamp"])
    assert value["payload"] == {"userId": USER, time_name: value["timestamp"], **fields}


@pytest.mark.parametrize("at, told", [
    ("2025-09-01T10:15:30.4559+02:00", RECEIVED), (RECEIVED_MS, RECEIVED), ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
    ("9998-12-31T23:59:59-23:59", "9999-01-01T23:58:59.000Z")], ids=str)
def test_the_time_that_the_identity_provider_tells(gateway, at, told):
    answer = gateway.call("POST", USERS + "authenticated", {"userId": USER, "authenticatedAt": at}, admin())
    assert the_event(gateway, answer, USER_EVENTS).value["payload"]["authenticatedAt"] == told


# --- who may ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [MESSAGES, MEASUREMENTS] + [USERS + name for name in (
    "authenticated", "registered", "logged-out", "profile-updated")])
def test_only_the_admin_may(gateway, path):
    before = len(read_events(gateway.bootstrap(), MQTT_EVENTS, TELEMETRY, USER_EVENTS))
    assert gateway.call("POST", path, {}).status == 401
    assert gateway.call("POST", path, {}, bearer(secret="wrong" * 10, **ADMIN)).status == 401
    assert gateway.call("POST", path, {}, bearer()).status == 403
    assert gateway.call("POST", path, {}, admin()).status == 400
    assert len(read_events(gateway.bootstrap(), MQTT_EVENTS, TELEMETRY, USER_EVENTS)) == before


@pytest.mark.parametrize("path, change", [
    (MESSAGES, {"topic": "users/u/devices"}),
    (MESSAGES, {"topic": "$SYS/brokers"}),
    (MESSAGES, {"topic": "users/u/devices//status"}),
    (MESSAGES, {"event": "client.connected"}),
    (MESSAGES, {"payload": [1]}),
    (MESSAGES, {"qos": 3}),
    (MESSAGES, {"clientid": None}),
    (MESSAGES, {"publish_received_at": "now"}),
    (MESSAGES, {"publish_received_at": -1}),
    (MESSAGES, {"flags": {"retain": "yes"}}),
    (MEASUREMENTS, {"topic": "users/u/devices/d/status"}),
    (MEASUREMENTS, {"payload": None}),
    (USERS + "authenticated", {"userId": "ann"}),
    (USERS + "authenticated", {"userId": USER, "authenticatedAt": "yesterday"}),
    # Times that could not be told in the event: it would have the gateway's in their place.
    (USERS + "authenticated", {"userId": USER, "authenticatedAt": "2025-09-01t08:15:30Z"}),
    (USERS + "authenticated", {"userId": USER, "authenticatedAt": "2025-09-01T08:15:30z"}),
    (USERS + "authenticated", {"userId": USER, "authenticatedAt": "2016-12-31T23:59:60Z"}),
    (USERS + "authenticated", {"userId": USER, "authenticatedAt": "9999-12-31T23:59:59-01:00"}),
    (USERS + "authenticated", {"userId": USER, "authenticatedAt": "0000-01-01T00:00:00+01:00"}),
    (USERS + "registered", {"userId": USER, "email": "ann"}),
    (USERS + "profile-updated", {"userId": USER, "changes": [{}]}),
], ids=str)
def test_bad_input(gateway, path, change):
    body = {**message("GH-1"), "topic": topic_of("GH-1"), **change} if "mqtt" in path else change
    answer = gateway.call("POST", path, body, admin())
    assert answer.status == 400, answer


def test_a_payload_that_is_no_measurement_goes_to_legacy(gateway, legacy, device_id):
    """It forms no event; what the legacy backend says to such a path is what the broker hears."""
    answer = gateway.call("POST", MEASUREMENTS, {"topic": topic_of(device_id), "payload": "21.5 C"}, admin())
    assert answer.status == 200 and len(legacy.requests_with(device_id)) == 1
    line = gateway.wait_log("exchange", correlationId=answer.header("X-Correlation-Id"))
    assert line["path"] == "legacy" and line["fallback"] == "no_command"


# --- how it is counted -----------------------------------------------------------------------------------------------


def test_counted_and_logged_like_other_calls(gateway, device_id):
    def delivered():
        return gateway.metrics().sum("syncgate_awaiter_wins_total", winner="delivered")

    before = delivered()
    answer = gateway.call("POST", MESSAGES, message(device_id), admin())
    line = gateway.wait_log("exchange", correlationId=answer.header("X-Correlation-Id"))
    assert (line["route"], line["path"], line["status"]) == ("receiveMqttMessage", "kafka", 202)
    assert line["waitMs"] <= line["durationMs"] and "uncertain" not in line and "code" not in line
    assert delivered() == before + 1
    metrics = gateway.metrics()
    assert metrics.sum("syncgate_requests_total", route="receiveMqttMessage", path="kafka", status="202") >= 1
    assert metrics.sum("syncgate_parked_requests") == 0


def test_the_acknowledgement_is_not_waited_for_longer_than_needed(gateway, device_id):
    """Reports that nobody waits for may be 20 ms late; these are not. The fastest of many is not slowed by a noisy machine."""
    fastest = 1.0
    for _ in range(40):
        start = time.monotonic()
        assert gateway.call("POST", MESSAGES, message(device_id), admin()).status == 202
        fastest = min(fastest, time.monotonic() - start)
    assert fastest < 0.015


# --- without replies -------------------------------------------------------------------------------------------------


def only_one_way(route):
    route["description"] = "kept" if "accepted" in route else "dropped"


def test_a_gateway_of_one_way_routes_reads_no_topic(stoppable, device_id):
    """No reply topic, so nothing has to be read before the path is open."""
    routes = copy_routes(only_one_way)
    for name in os.listdir(routes):
        path = os.path.join(routes, name)
        if name.endswith(".json"):
            with open(path, encoding="utf-8") as file:
                dropped = json.load(file)["description"] == "dropped"
            if dropped:
                os.remove(path)
    gateway = stoppable(Gateway(routes, wait_kafka=False, KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="only"))
    answer = gateway.call("POST", MESSAGES, message(device_id), admin())
    check_accepted(answer)
    the_event(gateway, answer, MQTT_EVENTS)
    assert gateway.metrics().sum("syncgate_kafka_reply_partitions") == 0
    # What forms no event is refused where there is no other path.
    answer = gateway.call("POST", MEASUREMENTS, {"topic": topic_of(device_id), "payload": "21.5 C"}, admin())
    error_answer(501, "NO_KAFKA_COMMAND", answer)


def test_the_answer_may_be_the_route_s_own(stoppable, device_id):
    def change(route):
        if route["operationId"] == "receiveMqttMessage":
            route["accepted"] = {"status": 201, "headers": {"Location": "/messages/${correlationId}", "X-None": "${query.q}"},
                                 "body": {"size": "${body.payload | length}", "by": "${claims.sub}"}}

    gateway = stoppable(Gateway(copy_routes(change), KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="only"))
    answer = gateway.call("POST", MESSAGES, message(device_id), admin())
    assert answer.status == 201 and answer.json() == {"size": 6, "by": USER}, answer
    assert answer.header("Location") == "/messages/" + answer.header("X-Correlation-Id")
    assert answer.header("X-None") is None


def test_an_answer_without_room_is_told(stoppable, device_id):
    """The headers of a rule share the connection's memory with the head of the request: the event is written by then."""
    def change(route):
        if route["operationId"] == "receiveMqttMessage":
            route["accepted"] = {"status": 201, "headers": {"X-Long": "${query.q}"}, "body": {}}

    gateway = stoppable(Gateway(copy_routes(change), KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="only"))
    for filler, status in ((100, 201), (6000, 500)):
        answer = gateway.call("POST", f"{MESSAGES}?q={'x' * 5000}", message(device_id), admin(Filler="f" * filler))
        assert answer.status == status, answer
    error_answer(500, "INTERNAL", answer)
    the_event(gateway, answer, MQTT_EVENTS)


def test_the_openapi_document_has_the_answers():
    with open(os.path.join(ROOT, "openapi", "openapi.json"), encoding="utf-8") as file:
        paths = json.load(file)["paths"]
    for path in paths:
        if re.match("/api/webhooks/", path):
            assert {"202", "400", "401", "403", "503", "504"} <= set(paths[path]["post"]["responses"])
