# SPDX-License-Identifier: Apache-2.0
"""A legacy backend that misbehaves on the wire. It counts what it has read: whatever happens to a connection, a request
that is not idempotent reaches it at most once (libcurl would send it again), and bodies are streamed, not collected."""
import os
import socket
import threading

import pytest

from contract import error_answer
from gateway import BIND, Gateway
from http_client import RawConnection, raw_request
from process import eventually
from tokens import bearer

KEEP = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
MIB = 1 << 20


class RawBackend:
    """behave(connection, request line, reader) is called for each request head; True keeps the connection."""

    def __init__(self, behave):
        self.behave = behave
        self.requests, self.connections = [], 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self):
        return "http://127.0.0.1:%d" % self.listener.getsockname()[1]

    def count(self, method):
        with self.lock:
            return sum(line.startswith(method + " ") for line in self.requests)

    def close(self):
        self.listener.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            with connection, connection.makefile("rb") as reader:
                while True:
                    line = reader.readline().decode("latin-1").strip()
                    if not line:
                        return
                    headers = {}
                    for raw in iter(reader.readline, b"\r\n"):
                        if not raw:
                            return
                        name, _, value = raw.decode("latin-1").partition(":")
                        headers[name.lower()] = value.strip()
                    if not self.behave(connection, line, headers, reader):
                        return
        except OSError:
            pass

    def seen(self, line):
        with self.lock:
            self.requests.append(line)


def read_body(headers, reader):
    """The number of bytes of the body."""
    if "chunked" not in headers.get("transfer-encoding", ""):
        left = length = int(headers.get("content-length", 0))
        while left:
            part = reader.read(min(left, 65536))
            if not part:
                raise OSError("cut")
            left -= len(part)
        return length
    total = 0
    while True:
        size = int(reader.readline().split(b";")[0], 16)
        reader.read(size + 2)
        if size == 0:
            return total
        total += size


@pytest.fixture
def start(stoppable):
    """start(behave): a backend that behaves so, and a gateway in front of it with the flag off."""
    backends = []

    def make(behave, **settings):
        backend = RawBackend(behave)
        backends.append(backend)
        gateway = stoppable(Gateway(FEATURE_KAFKA_EVENTS="false", LEGACY_URL=backend.url, SYNCGATE_LOOPS=1, **settings))
        return backend, gateway

    yield make
    for backend in backends:
        backend.close()


@pytest.mark.parametrize("method, body", [("POST", b'{"a":1}'), ("POST", None), ("PATCH", b"x" * 100000),
                                          ("DELETE", None), ("PUT", b"x")])
@pytest.mark.parametrize("how", ["after the request", "after the head"])
def test_a_connection_that_dies_is_no_reason_to_send_again(start, method, body, how):
    """The kept-alive connection is reused, the backend reads the request and goes without an answer."""

    def behave(connection, line, headers, reader):
        backend.seen(line)
        if line.startswith("GET"):
            connection.sendall(KEEP)
            return True
        if how == "after the request":
            read_body(headers, reader)
        return False

    backend, gateway = start(behave)
    for _ in range(3):
        assert gateway.call("GET", "/api/warm").status == 200
        response = gateway.call(method, BIND, body, {"Content-Type": "application/json", **bearer()})
        assert response.status == 502 and response.json()["code"] in ("LEGACY_BROKEN", "LEGACY_UNREACHABLE")
    # POST and PATCH are never repeated, nor is what was streamed; DELETE is idempotent: two attempts more each.
    assert backend.count(method) == (9 if method == "DELETE" else 3)


def test_idle_connections_closed_by_the_backend_are_noticed(start):
    """A backend with a short keep-alive: the next call, whatever its method, still works."""

    def behave(connection, line, headers, reader):
        backend.seen(line)
        read_body(headers, reader)
        connection.sendall(KEEP)
        return False

    backend, gateway = start(behave)
    for method in ("GET", "GET", "DELETE", "GET") * 3:
        assert gateway.call(method, "/api/x").status == 200
    # No time is given to notice that the connection is gone, so a POST may fail; it never arrives twice.
    answers = [gateway.call("POST", BIND, b"{}").status for _ in range(10)]
    assert set(answers) <= {200, 502} and backend.count("POST") <= 10
    assert answers.count(200) <= backend.count("POST")


@pytest.mark.parametrize("answer, code", [
    (b"garbage\r\n\r\n", "LEGACY_BROKEN"),
    (b"HTTP/1.1 abc\r\n\r\n", "LEGACY_BROKEN"),
    (b"HTTP/1.1 200 OK\r\nContent-Le", "LEGACY_BROKEN"),
    (b"\x00" * 100 + b"\r\n\r\n", "LEGACY_BROKEN"),
    (b"", "LEGACY_BROKEN"),
    (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 400000 + b"\r\n\r\n", "LEGACY_BROKEN"),
])
def test_an_answer_that_is_none(start, answer, code):
    def behave(connection, line, headers, reader):
        backend.seen(line)
        read_body(headers, reader)
        connection.sendall(answer)
        return False

    backend, gateway = start(behave)
    error_answer(502, code, gateway.call("POST", BIND, b"{}"))
    assert backend.count("POST") == 1


@pytest.mark.parametrize("head", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
def test_an_answer_cut_in_its_body_is_not_made_whole(start, head):
    def behave(connection, line, headers, reader):
        part = b"x" * 100 if head.startswith(b"Content") else b"64\r\n" + b"x" * 100 + b"\r\n"
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + part)
        return False

    _, gateway = start(behave)
    with RawConnection(gateway.address, timeout_s=20) as connection:
        connection.send(raw_request("GET", "/api/x", {}))
        try:
            response = connection.read_response()
        except (AssertionError, ConnectionResetError, AttributeError):
            response = None
    assert response is None or response.status == 502
    assert gateway.admin_get("/health/live").status == 200


def resident_mib(process):
    with open(f"/proc/{process.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def test_an_upload_waits_for_a_slow_backend(start):
    may_read, received = threading.Event(), []

    def behave(connection, line, headers, reader):
        may_read.wait(60)
        received.append(read_body(headers, reader))
        connection.sendall(KEEP)
        return True

    _, gateway = start(behave)
    size = 64 * MIB
    before = resident_mib(gateway)
    with RawConnection(gateway.address, timeout_s=1) as connection:
        connection.send(raw_request("POST", "/api/upload", {"Content-Length": str(size)}))
        sent, part = 0, b"u" * 65536
        try:
            while sent < size:
                sent += connection.socket.send(part[:size - sent])
        except socket.timeout:
            pass
        assert sent < size / 2, "the upload was taken in though nobody reads it"
        assert resident_mib(gateway) - before < 16
        may_read.set()
        connection.socket.settimeout(60)
        while sent < size:
            sent += connection.socket.send(part[:size - sent])
        assert connection.read_response().status == 200
    assert received == [size]


def test_a_download_waits_for_a_slow_client(start):
    size, sent = 64 * MIB, []

    def behave(connection, line, headers, reader):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        part = b"d" * 65536
        for _ in range(size // len(part)):
            connection.sendall(part)
            sent.append(len(part))
        return True

    _, gateway = start(behave)
    before = resident_mib(gateway)
    with RawConnection(gateway.address) as connection:
        connection.send(raw_request("GET", "/api/download", {}))
        eventually(lambda: len(sent) > 8, "the download has begun")
        stalled = -1
        while stalled != len(sent):
            stalled = len(sent)
            threading.Event().wait(0.3)
        assert sum(sent) < size / 2, "the download was taken in though nobody reads it"
        assert resident_mib(gateway) - before < 16
        assert len(connection.read_response().body) == size


def test_clients_that_go_away_in_the_middle(start):
    held = threading.Event()

    def behave(connection, line, headers, reader):
        backend.seen(line)
        if line.startswith("GET"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegin")
            held.wait(30)
            return False
        try:
            read_body(headers, reader)
        except OSError:
            return False
        held.wait(30)
        return False

    backend, gateway = start(behave)
    for request in (raw_request("POST", BIND, {"Content-Length": "1000000"}) + b"half",
                    raw_request("POST", BIND, {"Content-Length": "4"}, b"full"),
                    raw_request("GET", "/api/x", {})):
        reached = len(backend.requests)
        connection = RawConnection(gateway.address)
        connection.send(request)
        eventually(lambda count=reached: len(backend.requests) > count, "it reached the backend")
        connection.close()
    eventually(lambda: gateway.metrics().sum("syncgate_legacy_active_requests") == 0, "no call is left", 10)
    held.set()
    assert backend.count("POST") == 2
