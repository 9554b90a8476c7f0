# SPDX-License-Identifier: Apache-2.0
"""Clients and backends that do what nobody should: bodies that never end, framing with two meanings, answers in the middle
of an upload, requests while the gateway stops."""
import json
import re
import signal
import socket
import threading

import pytest

from gateway import BIND, QR_TOKEN, Gateway, copy_routes
from http_client import RawConnection, raw_request
from legacy_stub import LegacyStub
from process import eventually
from tokens import bearer

JSON = {"Content-Type": "application/json"}
BIND_BODY = json.dumps({"qrData": {"deviceId": "GH-1", "bindingToken": QR_TOKEN}}).encode()


class RawBackend:
    """A backend of raw sockets: talk(connection) is called in a thread for each connection."""

    def __init__(self, talk):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        self.talk = talk
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection):
        with connection:
            try:
                self.talk(connection)
            except OSError:
                pass

    def stop(self):
        self.listener.close()


def read_head(connection):
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(1)
    return head


@pytest.fixture(scope="module")
def legacy():
    stub = LegacyStub()
    yield stub
    stub.close()


@pytest.fixture(scope="module")
def gateway(legacy):
    gateway = Gateway(KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="true", LEGACY_URL=legacy.url,
                      SYNCGATE_BODY_TIMEOUT="500ms")
    yield gateway
    gateway.stop()


def read_all(connection):
    answer = b""
    while True:
        try:
            piece = connection.socket.recv(65536)
        except ConnectionResetError:
            return answer
        if not piece:
            return answer
        answer += piece


@pytest.mark.parametrize("framing", [{"Content-Length": "5000"}, {"Content-Length": "5000", "Expect": "100-continue"},
                                     {"Transfer-Encoding": "chunked"}], ids=["length", "expect", "chunked"])
def test_a_body_that_does_not_come_is_answered_with_408(gateway, framing):
    with RawConnection(gateway.address) as connection:
        connection.send(raw_request("POST", BIND, {**JSON, **bearer(), **framing}))
        assert connection.read_response().status == 408
        assert connection.is_closed_by_peer()


@pytest.fixture(scope="module")
def impatient(legacy):
    gateway = Gateway(FEATURE_KAFKA_EVENTS="false", LEGACY_URL=legacy.url, SYNCGATE_IDLE_TIMEOUT="1s")
    yield gateway
    gateway.stop()


HEAD = b"GET /head HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("begin, drop", [(b"", b"G"), (b"\r\n", b"\r\n"), (HEAD, b"X: a\r\n"), (HEAD + b"\r\n", b"G"),
                                         (HEAD + b"\r\n" + HEAD, b"X")],
                         ids=["first line", "empty lines", "headers", "second line", "second head"])
def test_a_head_that_comes_in_drops_does_not_keep_its_connection(impatient, begin, drop):
    with RawConnection(impatient.address, timeout_s=0.1) as connection:
        connection.send(begin)
        for _ in range(80):
            try:
                connection.send(drop)
                if connection.socket.recv(65536) == b"":
                    return
            except TimeoutError:
                pass
            except (BrokenPipeError, ConnectionResetError):
                return
        pytest.fail("open after 8 s")


def test_the_time_for_a_head_is_not_that_of_requests(impatient, legacy):
    """An answer takes longer than it, and the connection lives on."""
    released = threading.Event()

    def respond(request):
        released.wait(2.5)
        return legacy.default_answer(request)

    legacy.respond = respond
    try:
        with RawConnection(impatient.address) as connection:
            connection.send(HEAD + b"\r\n")
            assert connection.read_response().status == 200
            released.set()
            for _ in range(2):
                connection.send(HEAD + b"\r\n")
                assert connection.read_response().status == 200
    finally:
        legacy.respond = legacy.default_answer


def test_the_rest_of_a_refused_body_is_not_waited_for(gateway):
    with RawConnection(gateway.address) as connection:
        connection.send(raw_request("POST", "/x", {"Upgrade": "x", "Connection": "upgrade", "Content-Length": "5000"}))
        assert read_all(connection) == b""


AMBIGUOUS = {
    "two lengths": b"Content-Length: 0\r\nContent-Length: 0\r\n",
    "both": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "blank before the colon": b"Content-Length : 5\r\n",
    "folded length": b"Content-Lengt: 5\r\n h\r\n",
    "folded encoding": b"Transfer-Encoding:\r\n chunked\r\n",
    "folded other": b"X: a\r\n b\r\n",
    "no token": b"A@b: 1\r\n",
}


@pytest.mark.parametrize("headers", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_ambiguous_framing_reaches_nobody(gateway, legacy, headers, device_id):
    path = f"/ambiguous/{device_id}".encode()
    with RawConnection(gateway.address) as connection:
        connection.send(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + headers +
                        b"\r\n0\r\n\r\nGET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert re.findall(rb"HTTP/1.1 (\d+)", read_all(connection)) == [b"400"]
    assert not legacy.requests_with(path.decode())


def test_a_transfer_coding_in_http_10_is_refused(gateway):
    with RawConnection(gateway.address) as connection:
        connection.send(b"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert connection.read_response().status == 400


def test_tabs_and_blanks_before_a_value_are_no_folding(gateway):
    with RawConnection(gateway.address) as connection:
        connection.send(b"GET /blanks HTTP/1.1\r\nHost:x\r\nA: \t b\r\nC:\r\nD:e\r\n\r\n")
        assert connection.read_response().status == 200


def test_metrics_asked_for_with_a_large_body_are_answered_once(gateway):
    for _ in range(30):
        with RawConnection(gateway.admin) as connection:
            connection.send(raw_request("GET", "/metrics", {"Expect": "100-continue"}, b"x" * 70000))
            assert connection.read_response().status == 200


def test_an_upload_goes_on_while_its_answer_has_begun(stoppable):
    def talk(connection):
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n")
        rest = b""
        while not rest.endswith(b"\r\n0\r\n\r\n"):
            rest += connection.recv(65536)
        connection.sendall(b"5\r\n:done\r\n0\r\n\r\n")

    backend = RawBackend(talk)
    gateway = stoppable(Gateway(wait_kafka=False, FEATURE_KAFKA_EVENTS="false", LEGACY_URL=backend.url))
    with RawConnection(gateway.address) as connection:
        connection.send(raw_request("POST", "/convert", {"Transfer-Encoding": "chunked"}) + b"1\r\na\r\n")
        for _ in range(100):
            connection.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        connection.send(b"0\r\n\r\n")
        assert connection.read_response().body == b"begun:done"
    backend.stop()


def test_an_upload_held_back_by_its_own_answer_is_given_up(stoppable):
    def talk(connection):
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"1000\r\n" + b"y" * 4096 + b"\r\n")

    backend = RawBackend(talk)
    gateway = stoppable(Gateway(wait_kafka=False, FEATURE_KAFKA_EVENTS="false", LEGACY_URL=backend.url,
                                SYNCGATE_BODY_TIMEOUT="300ms"))
    with RawConnection(gateway.address) as connection:
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.send(raw_request("POST", "/echo", {}, b"x" * (64 << 20)))
    with RawConnection(gateway.address) as connection:  # and the client that leaves meanwhile
        connection.socket.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.send(raw_request("POST", "/echo", {}, b"x" * (64 << 20)))
    eventually(lambda: len([line for line in gateway.logs() if line.get("msg") == "exchange"]) == 2, "both have ended")
    backend.stop()


def test_requests_while_the_gateway_stops_become_nothing(legacy, device_id):
    """The broker cannot be reached, so that the Kafka clients take their time to end."""
    gateway = Gateway(KAFKA_BROKERS="127.0.0.1:1", wait_ready=False, FEATURE_KAFKA_EVENTS="true", LEGACY_URL=legacy.url)
    idle = [RawConnection(gateway.address) for _ in range(50)]
    for connection in idle:
        connection.send(raw_request("GET", "/idle", {}))
        assert connection.read_response().status == 200
    gateway.signal(signal.SIGTERM)
    gateway.wait_log("stopped")
    for connection in idle:
        try:
            connection.send(raw_request("POST", f"/late/{device_id}", {}))
        except (BrokenPipeError, ConnectionResetError):
            pass
    gateway.stop()
    for connection in idle:
        connection.close()
    assert not legacy.requests_with(f"/late/{device_id}")


def test_many_parked_clients_that_leave_at_once(stoppable):
    gateway = stoppable(Gateway(copy_routes(lambda route: None), KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="only"))
    parked = [RawConnection(gateway.address) for _ in range(700)]  # three packs
    for connection in parked:
        connection.send(raw_request("POST", BIND, {**JSON, **bearer()}, BIND_BODY))
    eventually(lambda: gateway.metrics().sum("syncgate_parked_requests") == 700, "all are parked")
    for connection in parked:
        connection.close()
    eventually(lambda: gateway.metrics().sum("syncgate_parked_requests") == 0, "none is parked")
    eventually(lambda: gateway.metrics().sum("syncgate_awaiter_wins_total", winner="client_gone") == 700, "all were noticed")


def test_clients_that_leave_in_the_middle_of_a_request_leave_nothing(gateway):
    """Data and the end of file come together: libmicrohttpd alone would not look at the latter."""
    whole = raw_request("POST", BIND, {**JSON, **bearer()}, BIND_BODY)
    before = gateway.metrics().sum("syncgate_connections")
    for length in range(0, len(whole), 3):
        with RawConnection(gateway.address) as connection:
            connection.send(whole[:length])
    eventually(lambda: gateway.metrics().sum("syncgate_connections") <= before, "all connections are closed", 10)
    eventually(lambda: gateway.metrics().sum("syncgate_active_requests") == 0, "no request is left", 10)
