# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 as bytes, for comparing proxies: a backend that keeps what it receives and answers what it is told, a real
nginx in front of it, and a client that sends bytes and takes the answer apart without repairing anything."""
import os
import shutil
import socket
import tempfile
import threading

from broker import free_port
from http_client import split_address
from process import Process, clean_environment, eventually

PATIENCE_S = 20


class Closed(Exception):
    """The peer closed where more was due."""


class Reader:
    """Bytes of a socket, by lines and counts."""

    def __init__(self, sock):
        self.socket, self.data = sock, b""

    def more(self):
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Closed
        self.data += data

    def until(self, end):
        while end not in self.data:
            self.more()
        found, self.data = self.data.split(end, 1)
        return found

    def exactly(self, count):
        while len(self.data) < count:
            self.more()
        found, self.data = self.data[:count], self.data[count:]
        return found

    def rest(self):
        try:
            while True:
                self.more()
        except Closed:
            found, self.data = self.data, b""
            return found

    def chunks(self):
        """(the body without its framing, the trailer lines)"""
        body = b""
        while True:
            size = int(self.until(b"\r\n").split(b";")[0], 16)
            if size == 0:
                break
            body += self.exactly(size)
            assert self.exactly(2) == b"\r\n"
        trailers = []
        while True:
            line = self.until(b"\r\n")
            if not line:
                return body, trailers
            trailers.append(line)


class Message:
    """One request or answer. start: its first line; headers: [(name, value)] as they came."""

    def __init__(self, head):
        self.start, *lines = head.split(b"\r\n")
        self.headers = []
        for line in lines:
            name, colon, value = line.partition(b":")
            assert colon and name == name.strip(), line
            self.headers.append((name, value.strip(b" \t")))
        self.body, self.framing, self.trailers = b"", "none", []
        self.interim = []  # start lines of 1xx before it
        self.connection = None

    @property
    def status(self):
        return int(self.start.split(b" ")[1])

    @property
    def method(self):
        return self.start.split(b" ")[0]

    @property
    def target(self):
        return self.start.split(b" ")[1]

    def all(self, name):
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name):
        return (self.all(name) or [None])[0]

    def read_body(self, reader, until_close):
        if (self.get(b"Transfer-Encoding") or b"").lower() == b"chunked":
            self.framing = "chunked"
            self.body, self.trailers = reader.chunks()
        elif self.get(b"Content-Length") is not None:
            self.framing = "sized"
            self.body = reader.exactly(int(self.get(b"Content-Length")))
        elif until_close:
            self.framing = "close"
            self.body = reader.rest()

    def __repr__(self):
        return f"<{self.start!r} {self.headers} {self.framing} {self.body[:200]!r}>"


class Client:
    def __init__(self, address, receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(split_address(address))
        self.reader = Reader(self.socket)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def answer(self, method=b"GET"):
        """The next answer; None when the connection ended instead."""
        interim = []
        while True:
            try:
                message = Message(self.reader.until(b"\r\n\r\n"))
            except Closed:
                return None
            if message.status >= 200:
                break
            interim.append(message.start)
        message.interim = interim
        if method != b"HEAD" and message.status not in (204, 304):
            message.read_body(self.reader, until_close=True)
        return message

    def is_closed(self):
        """Waits for the end of the connection; False if bytes come instead."""
        return self.reader.rest() == b""


def exchange(address, raw):
    with Client(address) as client:
        client.send(raw)
        return client.answer(raw.split(b" ", 1)[0])


class Backend:
    """For each request script(conversation) is called with the head read; it reads the body and answers as it likes, and
    returns True to keep the connection. Without a script of its own a test sets `answer`: bytes said once the body is
    here; with `close` the connection ends behind them."""

    def __init__(self):
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.connections = 0
        self.open = set()
        self.talking = 0
        self.reset()
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self, answer=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", close=False, script=None):
        with self.lock:
            self.answer, self.close_after, self.script, self.seen = answer, close, script or self._plain, []

    @staticmethod
    def _plain(talk):
        talk.read_body()
        talk.send(talk.backend.answer)
        return not talk.backend.close_after

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self.open.add(connection)
            threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True).start()

    def _serve(self, connection, number):
        reader = Reader(connection)
        try:
            with connection:
                while True:
                    request = Message(reader.until(b"\r\n\r\n"))
                    request.connection = number
                    with self.lock:
                        self.seen.append(request)
                        script = self.script
                    if not self._talk(script, Conversation(self, connection, reader, request)):
                        break
        except (Closed, OSError):
            pass
        finally:
            self.open.discard(connection)

    def _talk(self, script, talk):
        with self.lock:
            self.talking += 1
        try:
            return script(talk)
        finally:
            with self.lock:
                self.talking -= 1

    def open_conversations(self):
        return self.talking

    def close(self):
        self.listener.close()
        self.hang_up()

    def hang_up(self):
        """Ends all connections."""
        for connection in list(self.open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Conversation:
    def __init__(self, backend, connection, reader, request):
        self.backend, self.socket, self.reader, self.request = backend, connection, reader, request

    def read_body(self):
        self.request.read_body(self.reader, until_close=False)

    def send(self, data):
        self.socket.sendall(data)


class Nginx(Process):
    """A plain reverse proxy with kept-alive connections to the backend; one port with proxy_buffering, one without. The
    directives beside proxy_pass are those without which it would repair or drop on purpose what is compared here."""

    CONF = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    underscores_in_headers on; ignore_invalid_headers off; client_max_body_size 0;
    large_client_header_buffers 4 32k; proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;
    upstream backend {{ server {backend}; keepalive 16; }}
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host {backend};
    proxy_request_buffering off;
    server {{ listen {buffered}; location / {{ proxy_pass http://backend; }} }}
    server {{ listen {unbuffered}; proxy_buffering off; location / {{ proxy_pass http://backend; }} }}
}}
"""

    def __init__(self, backend):
        self.folder = tempfile.mkdtemp(prefix="syncgate-nginx-")
        self.buffered, self.unbuffered = free_addresses(2)
        conf = os.path.join(self.folder, "nginx.conf")
        with open(conf, "w", encoding="utf-8") as file:
            file.write(self.CONF.format(folder=self.folder, backend=backend, buffered=self.buffered,
                                        unbuffered=self.unbuffered))
        binary = shutil.which("nginx") or "/usr/sbin/nginx"
        super().__init__([binary, "-e", self.folder + "/error.log", "-p", self.folder, "-c", conf],
                         clean_environment({}), name="nginx")
        eventually(self._answers, "nginx listens")

    def _answers(self):
        assert self.popen.poll() is None, self.tail()
        try:
            for address in (self.buffered, self.unbuffered):
                socket.create_connection(split_address(address), 1).close()
            return True
        except OSError:
            return False

    def stop(self, expect=0):
        super().stop(expect)
        shutil.rmtree(self.folder, ignore_errors=True)


def free_addresses(count):
    ports = set()
    while len(ports) < count:
        ports.add(free_port())
    return [f"127.0.0.1:{port}" for port in ports]
