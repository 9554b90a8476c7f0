# SPDX-License-Identifier: Apache-2.0
"""What keeps trouble small: circuit breakers as an operator sees them, limits of parked requests, bounded memory for bodies."""
import json
import random
import socket
import threading

import pytest

from broker import free_port
from gateway import BIND, QR_TOKEN, Gateway, copy_routes
from http_client import RawConnection, raw_request
from legacy_stub import LegacyStub
from process import eventually
from service import Service, answer, bind_response
from tokens import bearer

BIND_ROUTE, UNBIND_ROUTE = "bindDeviceQR", "unbindDevice"


@pytest.fixture(scope="module")
def legacy():
    stub = LegacyStub()
    yield stub
    stub.close()


@pytest.fixture
def start(legacy, stoppable):
    def make(**settings):
        env = {"KAFKA_BROKERS": "embedded", "FEATURE_KAFKA_EVENTS": "true", "LEGACY_URL": legacy.url, **settings}
        return stoppable(Guarded(**env))

    return make


class Guarded(Gateway):
    def breakers(self):
        """{operationId, or "cluster": its row}"""
        rows = self.admin_get("/admin/breakers").json()["breakers"]
        assert all(row["scope"] == ("route" if "operationId" in row else "cluster") for row in rows)
        return {row.get("operationId", "cluster"): row for row in rows}

    def breaker_lines(self):
        return [line for line in self.logs() if str(line.get("msg")).startswith("breaker ")]

    def exchange_of(self, answer_):
        return self.wait_log("exchange", correlationId=answer_.header("X-Correlation-Id"))

    def body_bytes(self):
        return self.metrics().sum("syncgate_body_bytes")

    def is_quiet(self):
        metrics = self.metrics()
        names = ("active_requests", "parked_requests", "route_parked_requests", "body_bytes")
        return not any(metrics.sum("syncgate_" + name) for name in names)


class Together:
    """Calls at the same time; answers() waits for all of them."""

    def __init__(self):
        self.results, self.threads = [], []

    def call(self, function, *args, **kwargs):
        place = len(self.results)
        self.results.append(None)

        def run():
            self.results[place] = function(*args, **kwargs)

        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()

    def answers(self):
        for thread in self.threads:
            thread.join(60)
        return self.results


def impatient(route):
    route["timeoutMs"] = 1700


def bind_body(device_id, padding=0):
    return json.dumps({"qrData": {"deviceId": device_id, "bindingToken": QR_TOKEN}}).encode() + b" " * padding


def begin_upload(gateway, length=None, sent=b'{"qrData":', **headers):
    """A bind whose body does not come, but for its beginning. length None: in chunks."""
    connection = RawConnection(gateway.address)
    headers = {**bearer(), "Content-Type": "application/json", **headers}
    headers.update({"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": length})
    if length is None and sent:
        sent = b"%x\r\n%s\r\n" % (len(sent), sent)
    connection.send(raw_request("POST", BIND, headers) + sent)
    return connection


# ---- breakers ----

def test_a_silent_service_opens_the_breaker_of_its_route(start, device_id):
    gateway = start(routes=copy_routes(impatient), KAFKA_MESSAGE_TIMEOUT="600ms", SYNCGATE_BREAKER_MIN_CALLS=4,
                    SYNCGATE_BREAKER_OPEN="1s", SYNCGATE_BREAKER_PROBES=1)
    assert {row["state"] for row in gateway.breakers().values()} == {"closed"}
    assert set(gateway.breakers()) >= {"cluster", BIND_ROUTE, UNBIND_ROUTE}
    with Service(gateway.bootstrap()) as service:
        calls = Together()
        for number in range(4):
            calls.call(gateway.bind, f"{device_id}-{number}")
        assert [answer_.status for answer_ in calls.answers()] == [504] * 4
        row = gateway.breakers()[BIND_ROUTE]
        assert (row["state"], row["reason"], row["calls"], row["timeouts"]) == ("open", "reply_timeouts", 4, 4)
        assert (row["produceFailures"], row["opened"]) == (0, 1) and 0 < row["nextProbeMs"] <= 1200
        answer_ = gateway.bind(device_id)
        assert answer_.json()["legacy"] and gateway.exchange_of(answer_)["fallback"] == "breaker_open"
        metrics = gateway.metrics()
        assert metrics.sum("syncgate_breaker_state", route=BIND_ROUTE, scope="route", state="open") == 1
        assert metrics.sum("syncgate_breaker_state", state="closed", scope="cluster") == 1
        assert metrics.sum("syncgate_breaker_state", state="closed") == len(gateway.breakers()) - 1
        assert metrics.sum("syncgate_breaker_opened_total") == 1
        assert 0 < metrics.sum("syncgate_breaker_next_probe_seconds", route=BIND_ROUTE) <= 1.2
        assert metrics.sum("syncgate_fallbacks_total", reason="breaker_open") == 1
        assert metrics.sum("syncgate_parked_requests") == 0
        service.on(device_id, answer(bind_response))
        eventually(lambda: gateway.bind(device_id).json().get("legacy") is None, "a probe that succeeds")
        assert gateway.breakers()[BIND_ROUTE] == {
            "scope": "route", "operationId": BIND_ROUTE, "state": "closed", "reason": "none", "nextProbeMs": 0,
            "calls": 0, "produceFailures": 0, "timeouts": 0, "opened": 1}
    gateway.wait_log("breaker closed")
    lines = gateway.breaker_lines()
    assert [line["msg"] for line in lines] == ["breaker open", "breaker half-open", "breaker closed"]
    assert all((line["scope"], line["route"]) == ("route", BIND_ROUTE) for line in lines)
    assert [line["reason"] for line in lines] == ["reply_timeouts", "reply_timeouts", "none"]
    assert (lines[0]["calls"], lines[0]["timeouts"], lines[0]["produceFailures"]) == (4, 4, 0)
    assert 0 < lines[0]["nextProbeMs"] <= 1200 and lines[0]["level"] == "warn"


def test_breakers_can_be_looked_at_only(start):
    gateway = start()
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert gateway_admin(gateway, method) == 405
    assert gateway_admin(gateway, "GET") == 200


def gateway_admin(gateway, method):
    with RawConnection(gateway.admin) as connection:
        connection.send(raw_request(method, "/admin/breakers", {}))
        return connection.read_response().status


class Relay:
    """Takes connections at a port and passes them on to another address."""

    def __init__(self, port, target):
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", port))
        self.sockets = [self.listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        try:
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(self.target)
                self.sockets += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()
        except OSError:
            pass

    @staticmethod
    def _pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        for sock in self.sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()


def test_no_broker_opens_the_breaker_of_the_cluster_until_one_is_back(start, device_id):
    port = free_port()
    gateway = start(KAFKA_BROKERS=f"127.0.0.1:{port}", wait_kafka=False, SYNCGATE_BREAKER_PROBES=1,
                    SYNCGATE_BREAKER_OPEN="2s", FEATURE_KAFKA_EVENTS_UNBIND_DEVICE="true")
    line = gateway.wait_log("breaker open")
    assert (line["scope"], line["reason"]) == ("cluster", "unreachable") and line["route"] is None
    row = gateway.breakers()["cluster"]
    assert (row["state"], row["reason"], row["opened"]) == ("open", "unreachable", 1)
    metrics = gateway.metrics()
    assert metrics.sum("syncgate_breaker_state", scope="cluster", state="open") == 1
    assert metrics.sum("syncgate_breaker_state", scope="route", state="open") == 0
    for _ in range(3):
        assert gateway.bind(device_id).json()["legacy"]
    assert metrics.sum("syncgate_kafka_reachable") == 0
    broker = start()
    host, broker_port = broker.bootstrap().split(",")[0].rsplit(":", 1)
    relay = Relay(port, (host, int(broker_port)))
    try:
        with Service(broker.bootstrap()) as service:
            service.on(device_id, answer(bind_response))
            eventually(lambda: gateway.bind(device_id).json().get("legacy") is None, "the way over Kafka", 60)
            gateway.wait_log("breaker closed")
            assert gateway.breakers()["cluster"]["state"] == "closed"
            assert [entry["msg"] for entry in gateway.breaker_lines()] == [
                "breaker open", "breaker half-open", "breaker closed"]
            assert {entry["scope"] for entry in gateway.breaker_lines()} == {"cluster"}
    finally:
        gateway.stop()
        relay.close()


def test_the_first_call_without_a_broker_opens_the_breaker_of_the_cluster(start, device_id):
    broker = start()
    host, port = broker.bootstrap().split(",")[0].rsplit(":", 1)
    gateway = start(KAFKA_BROKERS=f"{host}:{port}")
    broker.stop()
    gateway.wait_log("kafka unreachable")
    answer_ = gateway.bind(device_id)
    assert answer_.json()["legacy"] and gateway.exchange_of(answer_)["fallback"] == "unreachable"
    assert [(line["scope"], line["reason"]) for line in gateway.breaker_lines()] == [("cluster", "unreachable")]


def test_without_legacy_an_open_breaker_says_when_to_come_back(start, device_id):
    gateway = start(KAFKA_BROKERS=f"127.0.0.1:{free_port()}", wait_ready=False, FEATURE_KAFKA_EVENTS="only",
                    LEGACY_URL=None, SYNCGATE_BREAKER_OPEN="1m")
    eventually(lambda: gateway.breakers()["cluster"]["state"] == "open", "no broker")
    answer_ = gateway.bind(device_id)
    assert answer_.status == 503 and answer_.json()["code"] == "KAFKA_UNAVAILABLE", answer_
    assert gateway.exchange_of(answer_)["fallback"] == "unreachable"
    row = gateway.breakers()["cluster"]
    assert row["state"] == "open" and row["nextProbeMs"] <= int(answer_.header("Retry-After")) * 1000 <= 73000


# ---- limits of parked requests ----

def one_place(route):
    if route["operationId"] == BIND_ROUTE:
        route["maxInFlight"] = 1


LIMITS = [
    ("total", {"SYNCGATE_MAX_PARKED": 1, "SYNCGATE_LOOPS": 1}, None, False),
    ("per route", {"SYNCGATE_MAX_PARKED_PER_ROUTE": 1}, None, True),
    ("of the route", {}, one_place, True),
    ("of the route, not the common one", {"SYNCGATE_MAX_PARKED_PER_ROUTE": 3}, one_place, True),
]


@pytest.mark.parametrize("settings, change, others_work", [case[1:] for case in LIMITS], ids=[case[0] for case in LIMITS])
@pytest.mark.parametrize("flag", ["only", "true"])
def test_the_excess_is_refused_or_takes_legacy(start, device_id, flag, settings, change, others_work):
    gateway = start(FEATURE_KAFKA_EVENTS=flag, routes=copy_routes(change) if change else None, **settings)
    with Service(gateway.bootstrap()) as service:
        parked = Together()
        parked.call(gateway.bind, device_id)
        command = service.wait_command(device_id)
        assert gateway.metrics().sum("syncgate_route_parked_requests", route=BIND_ROUTE) == 1
        for _ in range(3):
            expect_excess(gateway, gateway.bind(device_id + "-excess"), flag)
        if others_work:
            parked.call(gateway.unbind, device_id + "-other")
            service.wait_command(device_id + "-other")
            assert gateway.metrics().sum("syncgate_route_parked_requests", route=UNBIND_ROUTE) == 1
        else:
            expect_excess(gateway, gateway.unbind(device_id + "-other"), flag)
        service.send(bind_response(command))
        eventually(lambda: gateway.metrics().sum("syncgate_route_parked_requests", route=BIND_ROUTE) == 0, "the place")
        # The place is free again, and nobody's command was sent meanwhile.
        service.on(device_id + "-next", answer(bind_response))
        assert gateway.bind(device_id + "-next").status == 200
        assert service.commands_of(device_id + "-excess") == []
        for other in service.commands_of(device_id + "-other"):
            service.send({**bind_response(other), "eventType": "device.response.unbind"})
        assert [answer_.status for answer_ in parked.answers()][0] == 200
    eventually(gateway.is_quiet, "nothing left")


def expect_excess(gateway, answer_, flag):
    if flag == "only":
        assert answer_.status == 503 and answer_.json()["code"] == "OVERLOADED", answer_
        assert int(answer_.header("Retry-After")) >= 1
    else:
        assert answer_.status == 200 and answer_.json()["legacy"], answer_
    assert gateway.exchange_of(answer_)["fallback"] == "overloaded"


# ---- limit of calls to legacy ----

def test_a_slow_backend_takes_its_share_of_calls_and_no_more(start, device_id):
    """The excess is refused at once, also as a fallback, and reaches nobody; the Kafka path does not feel it."""
    slow, free = LegacyStub(), threading.Event()
    slow.respond = lambda request: free.wait(60) and LegacyStub.default_answer(request)
    gateway = start(LEGACY_URL=slow.url, LEGACY_MAX_REQUESTS=2, SYNCGATE_LOOPS=1, FEATURE_KAFKA_EVENTS_UNBIND_DEVICE="off",
                    SYNCGATE_MAX_PARKED_PER_ROUTE=1)
    calls = Together()
    try:
        with Service(gateway.bootstrap()) as service:
            for path in ("/api/first", "/api/second"):
                calls.call(gateway.call, "GET", path)
            eventually(lambda: gateway.metrics().sum("syncgate_legacy_active_requests") == 2, "the backend is busy")
            calls.call(gateway.bind, device_id)
            command = service.wait_command(device_id)  # Kafka's place is taken as well
            refused = [gateway.call("GET", "/api/third"), gateway.unbind(device_id + "-unbind"),
                       gateway.bind(device_id + "-fallback")]
            for answer_ in refused:
                assert answer_.status == 503 and answer_.json()["code"] == "OVERLOADED", answer_
                assert int(answer_.header("Retry-After")) >= 1
            assert [gateway.exchange_of(answer_).get("fallback") for answer_ in refused] == [None, None, "overloaded"]
            service.send(bind_response(command))
            eventually(lambda: gateway.metrics().sum("syncgate_parked_requests") == 0, "the Kafka path goes on")
            free.set()
            assert [answer_.status for answer_ in calls.answers()] == [200] * 3
            assert gateway.call("GET", "/api/third").status == 200
            assert [len(slow.requests_with(text)) for text in ("/api/third", "-unbind", "-fallback")] == [1, 0, 0]
            assert service.commands_of(device_id + "-fallback") == []
        eventually(gateway.is_quiet, "nothing left")
    finally:
        free.set()
        gateway.stop()
        slow.close()


# ---- memory for bodies ----

def expect_refused_at_once(gateway, length):
    """A client that waits for 100 Continue is spared its upload; others get the same answer behind it."""
    with begin_upload(gateway, length, b"", Expect="100-continue") as connection:
        response = connection.read_response()
        assert response.status == 503 and response.json()["code"] == "OVERLOADED", response
        assert int(response.header("Retry-After")) >= 1


SMALL = {"SYNCGATE_BODY_MEMORY": "64KiB", "SYNCGATE_BODY_LIMIT": "60KiB"}


@pytest.mark.parametrize("flag", ["only", "true"])
def test_slow_uploads_fill_the_budget_and_give_it_back(start, legacy, device_id, flag):
    gateway = start(FEATURE_KAFKA_EVENTS=flag, **SMALL)
    with Service(gateway.bootstrap()) as service:
        service.on(device_id, answer(bind_response))
        body = bind_body(device_id, 50000)
        slow = begin_upload(gateway, len(body), body[:100])
        eventually(lambda: gateway.body_bytes() == len(body), "the slow upload")
        assert gateway.bind(device_id).status == 200, "a small one finds room"
        large = bind_body(device_id, 16000)
        excess = gateway.call("POST", BIND, large, {**bearer(), "Content-Type": "application/json"})
        expect_excess(gateway, excess, flag)
        if flag == "true":
            assert [r["body"] for r in legacy.requests_with(device_id)] == [large]
        # Refused, or on its way to legacy, while its body has not come yet. In chunks it may grow up to the limit.
        for length in (16000, None):
            if flag == "only":
                expect_refused_at_once(gateway, length)
            else:
                with begin_upload(gateway, length):
                    eventually(lambda: gateway.metrics().sum("syncgate_legacy_active_requests") == 1, "the streamed upload")
                eventually(lambda: gateway.metrics().sum("syncgate_legacy_active_requests") == 0, "its end")
        assert gateway.body_bytes() == len(body)
        slow.send(body[100:])
        assert slow.read_response().status == 200
        slow.close()
        eventually(lambda: gateway.body_bytes() == 0, "the budget is whole again")
        answer_ = gateway.call("POST", BIND, large, {**bearer(), "Content-Type": "application/json"})
        assert gateway.exchange_of(answer_)["path"] == "kafka"
    eventually(gateway.is_quiet, "nothing left")


def test_a_chunked_upload_reserves_the_limit(start, device_id):
    gateway = start(SYNCGATE_BODY_LIMIT="60KiB", SYNCGATE_BODY_MEMORY="130KiB", FEATURE_KAFKA_EVENTS="only")
    with Service(gateway.bootstrap()) as service:
        service.on(device_id, answer(bind_response))
        first = begin_upload(gateway, None, b"")
        eventually(lambda: gateway.body_bytes() == 60 * 1024, "the first upload")
        with begin_upload(gateway, None):
            eventually(lambda: gateway.body_bytes() == 120 * 1024, "the second upload")
            expect_refused_at_once(gateway, None)
        eventually(lambda: gateway.body_bytes() == 60 * 1024, "the second client is gone")
        body = bind_body(device_id)
        first.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        assert first.read_response().status == 200
        first.close()
    eventually(gateway.is_quiet, "nothing left")


@pytest.mark.parametrize("flag", ["only", "true"])
def test_whatever_ends_a_call_gives_its_memory_back(start, device_id, flag):
    """A storm of calls that end in all ways; then nothing is parked, active or reserved, and the budget can be used."""
    gateway = start(FEATURE_KAFKA_EVENTS=flag, routes=copy_routes(impatient), KAFKA_MESSAGE_TIMEOUT="600ms",
                    SYNCGATE_MAX_PARKED_PER_ROUTE=6, SYNCGATE_BODY_TIMEOUT="300ms", SYNCGATE_BREAKER_MIN_CALLS=10,
                    SYNCGATE_BREAKER_OPEN="100ms", SYNCGATE_BREAKER_OPEN_MAX="200ms", SYNCGATE_IDLE_TIMEOUT="1s", **SMALL)
    json_type = {"Content-Type": "application/json"}
    seen, lock = {}, threading.Lock()

    def finish(connection):
        response = connection.read_response()
        connection.close()
        return response.status if response else 0

    def leave(connection, wait=False):
        if wait:  # until it is parked, or something else has become of it
            eventually(lambda: not gateway.metrics().sum("syncgate_active_requests")
                       or gateway.metrics().sum("syncgate_parked_requests"), "the call has begun")
        connection.close()
        return "left"

    def send_all(data):
        connection = RawConnection(gateway.address)
        try:
            connection.send(data)
        except OSError:  # refused before the body was read
            pass
        return connection

    ends = [
        lambda: gateway.bind(device_id).status,
        lambda: gateway.call("POST", BIND, bind_body(device_id, 20000), {**bearer(), **json_type}).status,
        lambda: gateway.bind(device_id, headers={}).status,
        lambda: gateway.call("POST", BIND, b'{"qrData":', {**bearer(), **json_type}).status,
        lambda: gateway.call("POST", BIND, b"{}", {**bearer(), **json_type}).status,
        lambda: gateway.bind(device_id + "-silent").status,
        lambda: finish(send_all(raw_request("POST", BIND, {**bearer(), **json_type}, b"x" * 70000))),
        lambda: finish(begin_upload(gateway, None, b"x" * 70000)),
        lambda: finish(begin_upload(gateway, 1000)),
        lambda: leave(begin_upload(gateway, 30000)),
        lambda: leave(begin_upload(gateway, None)),
        lambda: leave(send_all(raw_request("POST", BIND, {**bearer(), **json_type}, bind_body(device_id + "-silent"))), True),
        lambda: leave(send_all(raw_request("POST", BIND, {**bearer(), **json_type}, bind_body(device_id)))),
    ]

    def client(number):
        choice = random.Random(number)
        for _ in range(2):
            for end in choice.sample(range(len(ends)), len(ends)):
                result = ends[end]()
                with lock:
                    seen.setdefault(end, set()).add(result)

    with Service(gateway.bootstrap()) as service:
        service.on(device_id, answer(bind_response))
        storm = Together()
        for number in range(6):
            storm.call(client, number)
        storm.answers()
        assert all(not thread.is_alive() for thread in storm.threads)
        assert set(seen) == set(range(len(ends))), seen
        eventually(gateway.is_quiet, f"nothing left; {seen}")
        # The whole budget is there: two uploads that need nearly all of it.
        uploads = [begin_upload(gateway, 32000) for _ in range(2)]
        eventually(lambda: gateway.body_bytes() in (0, 64000), "the uploads")
        for upload in uploads:
            upload.close()
    eventually(gateway.is_quiet, "nothing left")
