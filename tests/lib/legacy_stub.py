# SPDX-License-Identifier: Apache-2.0
"""A legacy backend that remembers what reached it. respond(request) -> (status, headers, body) may be replaced; None ends
the connection without an answer."""
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LegacyStub:
    def __init__(self):
        stub = self
        self.requests = []
        self.respond = self.default_answer

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # One packet an answer: head and body apart would wait for each other's acknowledgement.
            wbufsize = 65536
            disable_nagle_algorithm = True

            def handle_any(self):
                body = self._read_body()
                if body is None:  # the client has gone away in the middle
                    self.close_connection = True
                    return
                request = {"method": self.command, "path": self.path, "headers": self.headers.items(), "body": body,
                           "connection": self.client_address[1]}
                with stub.lock:
                    stub.requests.append(request)
                response = stub.respond(request)
                if response is None:
                    self.close_connection = True
                    return
                status, headers, answer = response
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                if status not in (204, 304):
                    self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            def _read_body(self):
                if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
                    length = int(self.headers.get("Content-Length") or 0)
                    body = self.rfile.read(length)
                    return body if len(body) == length else None
                body = b""
                while True:
                    line = self.rfile.readline()
                    if not line:
                        return None
                    size = int(line.split(b";")[0], 16)
                    body += self.rfile.read(size)
                    self.rfile.readline()
                    if size == 0:
                        return body

            def log_message(self, *_):
                pass

        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            setattr(Handler, "do_" + method, Handler.handle_any)
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @staticmethod
    def default_answer(request):
        body = json.dumps({"legacy": True, "path": request["path"]}).encode()
        return 200, [("Content-Type", "application/json; charset=utf-8")], body

    @property
    def url(self):
        return "http://127.0.0.1:%d" % self.server.server_address[1]

    def requests_with(self, text):
        """The requests whose path or body contains this text."""
        with self.lock:
            return [r for r in self.requests if text in r["path"] or text.encode() in r["body"]]

    def close(self):
        self.server.shutdown()
        self.server.server_close()
