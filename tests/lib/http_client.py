# SPDX-License-Identifier: Apache-2.0
"""A plain HTTP client: http.client for ordinary calls, a raw socket for what no client library would send."""
import http.client
import json
import socket


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def header(self, name):
        for key, value in self.headers:
            if key.lower() == name.lower():
                return value
        return None

    def __repr__(self):
        return f"<{self.status} {self.body[:300]!r}>"


def split_address(address):
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)


def request(address, method, path, body=None, headers=None, timeout_s=60):
    """body: bytes as they are, anything else as JSON with its content type."""
    headers = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body, ensure_ascii=False).encode()
        headers.setdefault("Content-Type", "application/json")
    connection = http.client.HTTPConnection(*split_address(address), timeout=timeout_s)
    try:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return Response(answer.status, answer.getheaders(), answer.read())
    finally:
        connection.close()


class RawConnection:
    """Bytes out, bytes in."""

    def __init__(self, address, timeout_s=60):
        self.socket = socket.create_connection(split_address(address), timeout=timeout_s)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def is_closed_by_peer(self):
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def read_response(self):
        """One answer with Content-Length or chunks; None when the peer closed without one. 1xx answers are skipped."""
        head = self._until(b"\r\n\r\n")
        if head is None:
            return None
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        headers = [tuple(part.strip() for part in line.split(":", 1)) for line in lines[1:] if line]
        if 100 <= status < 200:
            return self.read_response()
        response = Response(status, headers, b"")
        if status in (204, 304):
            return response
        if (response.header("Transfer-Encoding") or "").lower() == "chunked":
            while True:
                size = int(self._until(b"\r\n").split(b";")[0], 16)
                response.body += self._exactly(size + 2)[:size]
                if size == 0:
                    return response
        response.body = self._exactly(int(response.header("Content-Length") or 0))
        return response

    def _until(self, end):
        while end not in self.buffer:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self.buffer += data
        found, self.buffer = self.buffer.split(end, 1)
        return found

    def _exactly(self, size):
        while len(self.buffer) < size:
            data = self.socket.recv(65536)
            if not data:
                raise AssertionError(f"the connection ended {size - len(self.buffer)} bytes early")
            self.buffer += data
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data


def raw_request(method, path, headers, body=b""):
    lines = [f"{method} {path} HTTP/1.1", "Host: test"] + [f"{name}: {value}" for name, value in headers.items()]
    if body and not any(name.lower() in ("content-length", "transfer-encoding") for name in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
