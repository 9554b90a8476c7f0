# SPDX-License-Identifier: Apache-2.0
"""The real program with the embedded broker: both paths, the races of the awaiter, health, metrics, logs and the end."""
import json
import signal
import socket
import threading
import time
import uuid

import pytest

from contract import MESSAGES, check_command, error_answer
from gateway import BIND, QR_TOKEN, UNBIND, Gateway, copy_routes
from http_client import RawConnection, raw_request
from legacy_stub import LegacyStub
from process import BUILD, eventually
from service import Service, answer, bind_response, bound_event, envelope, failure, unbound_event
from tokens import USER, bearer, token

JSON = {"Content-Type": "application/json"}
TIMEOUT_MS = 2000
# Deadlines hold within 20 ms in the program as it is shipped; a sanitizer costs some.
LATENESS_MS = 20 if "san" not in BUILD else 300
MINIMAL_QR = {"deviceId": "GH-1", "fingerprint": "5A:0C:91"}
HASH_QR = {"deviceId": "GH-1", "fingerprint": "5A:0C:91", "keyHash": "sha256-abc"}


def short_timeout(route):
    route["timeoutMs"] = TIMEOUT_MS


@pytest.fixture(scope="module")
def legacy():
    stub = LegacyStub()
    yield stub
    stub.close()


@pytest.fixture(scope="module")
def gateway(legacy):
    gateway = Gateway(copy_routes(short_timeout), KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="true",
                      LEGACY_URL=legacy.url, KAFKA_MESSAGE_TIMEOUT="500ms")
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def service(gateway):
    with Service(gateway.bootstrap()) as service:
        yield service


class Call(threading.Thread):
    """A request that is on its way while the test does something else."""

    def __init__(self, function, *args, **kwargs):
        super().__init__(daemon=True)
        self.function, self.args, self.kwargs = function, args, kwargs
        self.result = self.error = None
        self.start()

    def run(self):
        try:
            self.result = self.function(*self.args, **self.kwargs)
        except Exception as error:  # pylint: disable=broad-except # raised again by wait()
            self.error = error

    def wait(self, timeout_s=30):
        self.join(timeout_s)
        assert not self.is_alive(), "no answer"
        if self.error:
            raise self.error
        return self.result


def replies(gateway, result):
    return gateway.metrics().sum("syncgate_replies_total", result=result)


def wins(gateway, winner):
    return gateway.metrics().sum("syncgate_awaiter_wins_total", winner=winner)


def parked(gateway):
    return gateway.metrics().sum("syncgate_parked_requests")


# --- the Kafka path -------------------------------------------------------------------------------------------------


def test_bind_becomes_a_command_and_its_reply_the_answer(gateway, service, device_id):
    service.on(device_id, answer(lambda command: bind_response(command, boundAt="2025-09-01T08:15:30.455Z")))
    response = gateway.bind(device_id)
    assert response.status == 200, response
    assert response.json() == {"message": MESSAGES["bound"], "device": {
        "deviceId": device_id, "userId": USER, "boundAt": "2025-09-01T08:15:30.455Z", "status": "bound"}}
    assert response.header("Content-Type") == "application/json; charset=utf-8"
    command = service.wait_command(device_id)
    check_command(command, "device.command.bind", {"deviceId": device_id, "userId": USER, "bindingToken": QR_TOKEN})
    assert response.header("X-Correlation-Id") == command.id


def test_unbind_is_finished_by_its_event(gateway, service, device_id):
    service.on(device_id, answer(unbound_event))
    response = gateway.unbind(device_id, reason="moved")
    assert response.status == 200, response
    assert response.json() == {"message": MESSAGES["unbound"], "deviceId": device_id}
    check_command(service.wait_command(device_id), "device.command.unbind",
                  {"deviceId": device_id, "requestedBy": USER, "reason": "moved"})


def test_traceparent_goes_on(gateway, service, device_id):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    service.on(device_id, answer(bind_response))
    gateway.bind(device_id, {**bearer(), "traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    assert service.wait_command(device_id).headers["traceparent"].decode().split("-")[1] == trace


def test_an_idempotency_key_is_forwarded(gateway, service, device_id):
    service.on(device_id, answer(bind_response))
    gateway.bind(device_id, {**bearer(), "Idempotency-Key": "key-42"})
    headers = {name.lower(): value for name, value in service.wait_command(device_id).headers.items()}
    assert headers["idempotency-key"] == b"key-42"


def test_requests_on_one_connection(gateway, service, device_id):
    service.on(device_id, answer(lambda command: failure(command, "ALREADY_BOUND")))
    body = json.dumps({"qrData": {"deviceId": device_id, "bindingToken": QR_TOKEN}}).encode()
    with RawConnection(gateway.address) as connection:
        for _ in range(20):
            connection.send(raw_request("POST", BIND, {**JSON, **bearer()}, body))
            assert connection.read_response().status == 409
        connection.send(raw_request("POST", BIND, {**JSON, **bearer()}, body) * 3)
        assert [connection.read_response().status for _ in range(3)] == [409] * 3


def test_a_chunked_body_becomes_a_command(gateway, service, device_id):
    service.on(device_id, answer(bind_response))
    body = json.dumps({"qrData": {"deviceId": device_id, "bindingToken": QR_TOKEN}}).encode()
    with RawConnection(gateway.address) as connection:
        connection.send(raw_request("POST", BIND, {**JSON, **bearer(), "Transfer-Encoding": "chunked"}))
        for at in range(0, len(body), 10):
            part = body[at:at + 10]
            connection.send(b"%x\r\n%s\r\n" % (len(part), part))
        connection.send(b"0\r\n\r\n")
        assert connection.read_response().status == 200


def test_many_at_once_each_gets_its_own(gateway, service, device_id):
    ids = [f"{device_id}-{number}" for number in range(100)]
    for name in ids:
        service.on(name, answer(bind_response))
    calls = [Call(gateway.bind, name) for name in ids]
    for name, call in zip(ids, calls):
        response = call.wait()
        assert response.status == 200 and response.json()["device"]["deviceId"] == name


# --- which reply counts ---------------------------------------------------------------------------------------------


def test_a_duplicate_is_counted_and_answers_nobody(gateway, service, device_id):
    before = replies(gateway, "duplicate") + replies(gateway, "late")

    def twice(service, command):
        service.send(bind_response(command))
        service.send(bind_response(command))

    service.on(device_id, twice)
    assert gateway.bind(device_id).status == 200
    eventually(lambda: replies(gateway, "duplicate") + replies(gateway, "late") == before + 1, "one duplicate counted")


def test_a_late_reply_is_counted_and_answers_nobody(gateway, service, device_id):
    before = replies(gateway, "late")
    started = time.monotonic()
    response = gateway.bind(device_id)
    took_ms = (time.monotonic() - started) * 1000
    error_answer(504, "REPLY_TIMEOUT", response)
    assert TIMEOUT_MS <= took_ms + 2 and took_ms < TIMEOUT_MS + LATENESS_MS + 30, took_ms
    service.send(bind_response(service.wait_command(device_id)))
    eventually(lambda: replies(gateway, "late") == before + 1, "one late reply counted")


def test_a_strangers_reply_is_counted_and_answers_nobody(gateway, service, device_id):
    before = replies(gateway, "unmatched")

    def stranger_first(service, command):
        foreign = bind_response(command, userId=str(uuid.uuid4()))
        foreign["correlationId"] = str(uuid.uuid4())
        service.send(foreign)
        service.send(bind_response(command))

    service.on(device_id, stranger_first)
    response = gateway.bind(device_id)
    assert response.status == 200 and response.json()["device"]["userId"] == USER
    eventually(lambda: replies(gateway, "unmatched") == before + 1, "one unmatched reply counted")


def other_type(command):
    return envelope("device.response.ota", command.id, {"deviceId": command.device_id, "status": "started"}, success=True)


def other_id_in_the_body(command):
    return {**bind_response(command), "correlationId": str(uuid.uuid4())}


@pytest.mark.parametrize("make", [other_type, other_id_in_the_body])
def test_a_reply_that_disagrees_is_counted_and_ignored(gateway, service, device_id, make):
    """Header = fast path, body = authority."""
    before = replies(gateway, "mismatched")

    def wrong_first(service, command):
        wrong = make(command)
        # One key, one partition: the order is kept.
        service.send(wrong, headers={"correlation-id": command.id, "kafka_correlationId": command.id}, key=device_id)
        service.send(bind_response(command), key=device_id)

    service.on(device_id, wrong_first)
    assert gateway.bind(device_id).status == 200
    assert replies(gateway, "mismatched") == before + 1


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 5000, b'{"eventType":1,"success":"x"}'],
                         ids=["empty", "cut", "array", "null", "no text", "deep", "other types"])
def test_a_reply_that_is_no_message_is_counted_and_ignored(gateway, service, device_id, raw):
    before = replies(gateway, "invalid") + replies(gateway, "mismatched")

    def garbage_first(service, command):
        service.send(raw, topic="device.commands.responses.v1",
                     headers={"correlation-id": command.id, "kafka_correlationId": command.id}, key=device_id)
        service.send(bind_response(command), key=device_id)

    service.on(device_id, garbage_first)
    assert gateway.bind(device_id).status == 200
    assert replies(gateway, "invalid") + replies(gateway, "mismatched") == before + 1


def test_a_reply_on_the_wrong_topic_is_ignored(gateway, service, device_id):
    def wrong_topic_first(service, command):
        service.send({**failure(command, "NOT_FOUND")}, topic="device.events.v1")
        service.send(bind_response(command))

    service.on(device_id, wrong_topic_first)
    assert gateway.bind(device_id).status == 200


def test_without_headers_the_body_decides(gateway, service, device_id):
    service.on(device_id, answer(bind_response, headers={}))
    assert gateway.bind(device_id).status == 200


def test_event_and_response_both_arrive(gateway, service, device_id):
    def both(service, command):
        service.send(bound_event(command))
        service.send(bind_response(command))

    service.on(device_id, both)
    assert gateway.bind(device_id).status == 200


def test_legacy_events_with_foreign_ids_finish_nothing(gateway, service, device_id):
    """Finishing by fields is off as shipped."""
    service.on(device_id, answer(lambda command: bound_event(command, "bind_1756714530455_k3v9d0x2a")))
    error_answer(504, "REPLY_TIMEOUT", gateway.bind(device_id))


# --- the awaiter ----------------------------------------------------------------------------------------------------


def test_a_client_that_goes_away_frees_its_entry(gateway, service, device_id):
    gone = wins(gateway, "client_gone")
    body = json.dumps({"qrData": {"deviceId": device_id, "bindingToken": QR_TOKEN}}).encode()
    connection = RawConnection(gateway.address)
    connection.send(raw_request("POST", BIND, {**JSON, **bearer()}, body))
    command = service.wait_command(device_id)
    eventually(lambda: parked(gateway) >= 1, "parked")
    connection.close()
    eventually(lambda: wins(gateway, "client_gone") == gone + 1 and parked(gateway) == 0, "the entry is free", 2)
    late = replies(gateway, "late") + replies(gateway, "duplicate")
    service.send(bind_response(command))
    eventually(lambda: replies(gateway, "late") + replies(gateway, "duplicate") == late + 1, "its reply is counted")


def test_each_call_has_one_winner(gateway):
    metrics = gateway.metrics()
    kafka_calls = metrics.sum("syncgate_requests_total", path="kafka")
    assert kafka_calls > 0
    assert metrics.sum("syncgate_awaiter_wins_total") >= metrics.sum("syncgate_awaiter_wins_total", winner="reply") > 0
    assert parked(gateway) == 0


# --- the flag -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qr", [MINIMAL_QR, HASH_QR])
def test_what_fits_no_command_takes_legacy(gateway, legacy, device_id, qr):
    response = gateway.bind(device_id, qr={**qr, "deviceId": device_id})
    assert response.status == 200 and response.json()["legacy"] is True
    [request] = legacy.requests_with(device_id)
    assert json.loads(request["body"])["qrData"]["deviceId"] == device_id


def test_a_user_that_is_no_uuid_takes_legacy(gateway, legacy, device_id):
    assert gateway.bind(device_id, bearer(sub="alice")).json()["legacy"] is True
    assert len(legacy.requests_with(device_id)) == 1


def test_unknown_paths_pass_through(gateway, legacy, device_id):
    path = f"/api/devices/{device_id}/status?b=2&a=%2F&a=1"
    response = gateway.call("GET", path, headers={"Accept": "x/y", "X-Forwarded-For": "1.2.3.4", "Connection": "X-Hop",
                                                  "X-Hop": "drop me", "Cookie": "a=b"})
    assert response.status == 200 and response.json() == {"legacy": True, "path": path}
    [request] = legacy.requests_with(device_id)
    headers = {name.lower(): value for name, value in request["headers"]}
    assert headers["accept"] == "x/y" and headers["cookie"] == "a=b"
    assert "x-hop" not in headers and "keep-alive" not in headers
    assert headers["x-forwarded-for"].endswith("127.0.0.1")
    assert headers["x-forwarded-proto"] == "http" and headers["x-forwarded-host"] == gateway.address


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST"])
def test_bodies_reach_legacy_unchanged(gateway, legacy, device_id, method):
    body = device_id.encode() + bytes(range(256)) * 4000
    response = gateway.call(method, "/api/other", body, {"Content-Type": "application/octet-stream"})
    assert response.status == 200
    [request] = legacy.requests_with(device_id)
    assert request["body"] == body and request["method"] == method


def test_a_large_answer_is_streamed(gateway, legacy, device_id):
    big = bytes(range(256)) * 20000
    legacy.respond = lambda request: (203, [("Content-Type", "a/b"), ("ETag", 'W/"1"'), ("Set-Cookie", "a=1"),
                                            ("Set-Cookie", "b=2"), ("Connection", "X-Hop"), ("X-Hop", "1")], big)
    try:
        response = gateway.call("GET", f"/api/big/{device_id}")
    finally:
        legacy.respond = legacy.default_answer
    assert response.status == 203 and response.body == big
    assert response.header("ETag") == 'W/"1"' and response.header("X-Hop") is None
    assert [value for name, value in response.headers if name == "Set-Cookie"] == ["a=1", "b=2"]


def test_head_and_204(gateway, legacy):
    assert gateway.call("HEAD", "/api/health").body == b""
    legacy.respond = lambda request: (204, [], b"")
    try:
        response = gateway.call("DELETE", "/api/x")
    finally:
        legacy.respond = legacy.default_answer
    assert response.status == 204 and response.body == b""


def test_false_sends_everything_to_legacy(stoppable, legacy, device_id):
    gateway = stoppable(Gateway(FEATURE_KAFKA_EVENTS="false", LEGACY_URL=legacy.url))
    body = b'{"not":"checked by the gateway'
    response = gateway.call("POST", BIND + "?" + device_id, body, JSON)
    assert response.status == 200 and response.json()["legacy"] is True
    [request] = legacy.requests_with(device_id)
    assert request["body"] == body
    assert response.header("X-Correlation-Id")
    metrics = gateway.metrics()
    assert metrics.sum("syncgate_requests_total", path="legacy", status="200") == 1


def test_one_operation_has_its_own_flag(stoppable, legacy, device_id):
    gateway = stoppable(Gateway(KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="true", LEGACY_URL=legacy.url,
                                FEATURE_KAFKA_EVENTS_BIND_DEVICE_QR="false"))
    with Service(gateway.bootstrap()) as service:
        service.on(device_id, answer(unbound_event))
        assert gateway.unbind(device_id).status == 200
        assert gateway.bind(device_id).json()["legacy"] is True
        assert len(service.commands_of(device_id)) == 1


def test_only_has_no_way_to_legacy(stoppable, device_id):
    gateway = stoppable(Gateway(KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="only"))
    for qr in (MINIMAL_QR, HASH_QR):
        error_answer(501, "NO_KAFKA_COMMAND", gateway.bind(device_id, qr=qr))
    error_answer(501, "NO_KAFKA_COMMAND", gateway.bind(device_id, bearer(sub="alice")))
    with Service(gateway.bootstrap()) as service:
        service.on(device_id, answer(bind_response))
        assert gateway.bind(device_id).status == 200


def test_without_a_broker_calls_fall_back(stoppable, legacy, device_id):
    gateway = stoppable(Gateway(wait_kafka=False, KAFKA_BROKERS="127.0.0.1:9", FEATURE_KAFKA_EVENTS="true",
                                LEGACY_URL=legacy.url))
    for number in range(3):
        name = f"{device_id}-{number}"
        response = gateway.bind(name)
        assert response.status == 200 and response.json()["legacy"] is True
        assert len(legacy.requests_with(name)) == 1
    assert gateway.metrics().sum("syncgate_fallbacks_total") == 3


def test_without_a_broker_only_is_unavailable(stoppable, device_id):
    gateway = stoppable(Gateway(wait_ready=False, KAFKA_BROKERS="127.0.0.1:9", FEATURE_KAFKA_EVENTS="only"))
    response = gateway.bind(device_id)
    error_answer(503, "KAFKA_UNAVAILABLE", response)
    assert int(response.header("Retry-After")) > 0
    assert gateway.admin_get("/health/live").status == 200
    assert gateway.admin_get("/health/ready").status == 503


def test_legacy_unreachable_and_too_slow(stoppable, device_id):
    gateway = stoppable(Gateway(FEATURE_KAFKA_EVENTS="false", LEGACY_URL="http://127.0.0.1:9"))
    error_answer(502, "LEGACY_UNREACHABLE", gateway.bind(device_id))
    line = gateway.wait_log("legacy call failed", code="legacy_unreachable")
    assert "connect" in line["reason"] and line["text"] == "Connection refused"
    slow = LegacyStub()
    release = threading.Event()

    def hang(request):
        release.wait(30)
        return LegacyStub.default_answer(request)

    slow.respond = hang
    try:
        gateway = stoppable(Gateway(FEATURE_KAFKA_EVENTS="false", LEGACY_URL=slow.url, LEGACY_TIMEOUT="300ms"))
        error_answer(504, "LEGACY_TIMEOUT", gateway.bind(device_id))
        assert len(slow.requests_with(device_id)) == 1
    finally:
        release.set()
        slow.close()


# --- seeing ---------------------------------------------------------------------------------------------------------


def test_health_says_that_the_broker_is_embedded(gateway):
    assert gateway.admin_get("/health/live").status == 200
    ready = gateway.admin_get("/health/ready")
    assert ready.status == 200
    assert "embedded" in gateway.admin_get("/health").body.decode()
    assert gateway.wait_log("embedded broker")["level"] in ("warn", "warning")


def test_health_and_metrics_are_not_on_the_public_port(gateway, legacy):
    for path in ("/metrics", "/health/live"):
        assert gateway.call("GET", path).json() == {"legacy": True, "path": path}


def test_metrics(gateway, service, device_id):
    service.on(device_id, answer(bind_response))
    labels = {"path": "kafka", "status": "200"}
    before = gateway.metrics().sum("syncgate_requests_total", **labels)
    gateway.bind(device_id)
    answer_ = gateway.admin_get("/metrics")
    assert answer_.header("Content-Type").startswith("text/plain")
    metrics = gateway.metrics()
    assert metrics.sum("syncgate_requests_total", **labels) == before + 1
    assert metrics.types["syncgate_requests_total"] == "counter"
    assert metrics.types["syncgate_parked_requests"] == "gauge"
    assert metrics.types["syncgate_request_duration_seconds"] == "histogram"
    for name in ("syncgate_fallbacks_total", "syncgate_replies_total", "syncgate_awaiter_wins_total"):
        assert metrics.types[name] == "counter"
    buckets = [(labels["le"], value) for name, labels, value in metrics.samples
               if name == "syncgate_request_duration_seconds_bucket" and labels["path"] == "kafka"
               and "bind" in labels["route"].lower() and "unbind" not in labels["route"].lower()]
    values = [value for _, value in buckets]
    assert buckets[-1][0] == "+Inf" and values == sorted(values)
    assert metrics.sum("syncgate_request_duration_seconds_count", path="kafka") >= before + 1
    assert metrics.sum("syncgate_replies_total", result="matched") > 0


def test_scrapers_that_do_not_wait(gateway):
    """A client that leaves while its numbers are being gathered costs itself the answer, and nobody anything else."""
    host, port = gateway.admin.rsplit(":", 1)
    rounds = []

    def scrape_and_leave():
        for _ in range(60):
            connections = [socket.create_connection((host, int(port)), timeout=30) for _ in range(10)]
            for connection in connections:
                connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: admin\r\n\r\n")
            for connection in connections:
                connection.close()
            rounds.append(1)

    threads = [threading.Thread(target=scrape_and_leave) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rounds) == 240 and gateway.popen.poll() is None, gateway.tail()
    assert gateway.metrics().sum("syncgate_info") == 1


def test_one_log_line_an_exchange_without_secrets(gateway, service, device_id):
    service.on(device_id, answer(bind_response))
    secret_token = token(jti=device_id)
    response = gateway.bind(device_id, {"Authorization": "Bearer " + secret_token})
    correlation_id = response.header("X-Correlation-Id")
    gateway.wait_line(gateway.stderr, lambda line: True if correlation_id in line else None, "log line of the call")
    lines = [entry for entry in gateway.logs() if entry.get("correlationId") == correlation_id]
    assert len(lines) == 1
    assert lines[0]["status"] == 200 and lines[0]["path"] == "kafka" and lines[0]["route"]
    text = "\n".join(gateway.stderr.all)
    assert secret_token not in text and secret_token.split(".")[2] not in text and QR_TOKEN not in text


def test_every_answer_has_a_correlation_id(gateway):
    for response in (gateway.call("GET", "/api/x"), gateway.bind("GH-1", {}), gateway.call("POST", UNBIND, b"{", JSON)):
        assert response.header("X-Correlation-Id")
        exposed = (response.header("Access-Control-Expose-Headers") or "").lower()
        assert "x-correlation-id" in exposed and "retry-after" in exposed


# --- the end --------------------------------------------------------------------------------------------------------


def test_sigterm_lets_parked_calls_finish(stoppable, device_id):
    gateway = stoppable(Gateway(KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="only", SHUTDOWN_DELAY="1s"))
    with Service(gateway.bootstrap()) as service:
        call = Call(gateway.bind, device_id)
        command = service.wait_command(device_id)
        gateway.signal(signal.SIGTERM)
        eventually(lambda: gateway.admin_get("/health/ready").status == 503, "not ready any more")
        # Still accepting, and telling clients to go elsewhere.
        assert gateway.bind("GH-1", {}).header("Connection").lower() == "close"
        service.send(bind_response(command))
        response = call.wait()
        assert response.status == 200 and response.json()["device"]["deviceId"] == device_id
    gateway.stop()


def test_sigterm_is_bounded(stoppable, device_id):
    gateway = stoppable(Gateway(KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="only", SHUTDOWN_TIMEOUT="300ms"))
    with Service(gateway.bootstrap()) as service:
        call = Call(gateway.bind, device_id)
        service.wait_command(device_id)
        gateway.signal(signal.SIGTERM)
        response = call.wait()
        # The command is in Kafka, so the outcome is unknown.
        assert response.status in (503, 504) and response.json()["code"] in ("SHUTTING_DOWN", "REPLY_TIMEOUT")
    gateway.stop()


def test_a_second_gateway_process_does_not_disturb_the_first(stoppable, gateway, service, device_id):
    """Two gateways on one broker read the same reply topics; each answers its own calls only."""
    second = stoppable(Gateway(KAFKA_BROKERS=gateway.bootstrap(), FEATURE_KAFKA_EVENTS="only"))
    for number, one in enumerate((gateway, second) * 5):
        name = f"{device_id}-{number}"
        service.on(name, answer(bind_response))
        assert one.bind(name).json()["device"]["deviceId"] == name


# --- finishing by fields: off as shipped, a route may ask for it ------------------------------------------------------


def by_fields(route):
    short_timeout(route)
    if route["path"] == BIND:
        route["finishByFields"] = [{
            "topic": "device.events.v1", "eventType": "device.bound",
            "fields": [["${body.qrData.deviceId}", "${reply.payload.deviceId}"],
                       ["${claims.sub}", "${reply.payload.userId}"]]}]


@pytest.fixture(scope="module")
def by_fields_gateway():
    gateway = Gateway(copy_routes(by_fields), KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="only",
                      KAFKA_MESSAGE_TIMEOUT="500ms")
    with Service(gateway.bootstrap()) as service:
        yield gateway, service
    gateway.stop()


LEGACY_ID = "bind_1756714530455_k3v9d0x2a"


def test_an_event_of_the_legacy_backend_finishes_by_fields(by_fields_gateway, device_id):
    gateway, service = by_fields_gateway
    service.on(device_id, answer(lambda command: bound_event(command, LEGACY_ID), headers={}))
    response = gateway.bind(device_id)
    assert response.status == 200 and response.json()["device"]["deviceId"] == device_id


@pytest.mark.parametrize("change", [
    lambda event: event["payload"].update(userId=str(uuid.uuid4())),
    lambda event: event["payload"].update(deviceId="another"),
    lambda event: event["payload"].pop("userId"),
    lambda event: event.update(timestamp="2025-09-01T08:15:30.456Z"),
    lambda event: event.update(eventType="device.unbound"),
])
def test_an_event_that_does_not_fit_finishes_nothing_by_fields(by_fields_gateway, device_id, change):
    gateway, service = by_fields_gateway

    def handle(service, command):
        event = bound_event(command, LEGACY_ID)
        change(event)
        service.send(event, headers={})

    service.on(device_id, handle)
    error_answer(504, "REPLY_TIMEOUT", gateway.bind(device_id))


def test_two_calls_with_the_same_fields_are_finished_by_neither(by_fields_gateway, device_id):
    gateway, service = by_fields_gateway
    calls = [Call(gateway.bind, device_id), Call(gateway.bind, device_id)]
    eventually(lambda: len(service.commands_of(device_id)) == 2, "both commands")
    service.send(bound_event(service.wait_command(device_id), LEGACY_ID), headers={})
    for call in calls:
        error_answer(504, "REPLY_TIMEOUT", call.wait())
