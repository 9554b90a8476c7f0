# SPDX-License-Identifier: Apache-2.0
"""The direct path beside nginx: the same bytes through nginx (proxy_pass, kept-alive connections) and through the gateway
to one backend of raw sockets. What the backend receives and what the client receives is compared; where the two may
differ is said once, in the two tables below. What the gateway does otherwise than nginx on purpose, or because
libmicrohttpd leaves no choice, is asserted as it is; docs/fidelity.md, "Direct path", gives the reasons."""
import json
import threading
import time

import pytest

from gateway import Gateway
from process import eventually
from wire import Backend, Client, Nginx, exchange

MIB = 1 << 20

# ---- what may differ ----

# Headers that are left out of the comparison of what the backend receives.
REQUEST_DIFFERS = {
    b"x-forwarded-for": "the gateway always says them, nginx when told to",
    b"x-forwarded-proto": "the same",
    b"x-forwarded-host": "the same",
    b"x-correlation-id": "the gateway's own",
    b"content-length": "its place: the gateway says it last, nginx first. Framing is compared by itself",
    b"transfer-encoding": "the same",
}
# nginx makes a sized body of a chunked one that came in one piece: framing is compared with the client's own.

# Headers that are left out of the comparison of what the client receives.
ANSWER_DIFFERS = {
    b"server": "nginx replaces the backend's by its own; the gateway hands it on (asserted where it matters)",
    b"date": "nginx replaces it; the gateway hands the backend's on, or says the time if there is none",
    b"x-correlation-id": "the gateway's own",
    b"access-control-expose-headers": "the gateway's own, so that browsers can read X-Correlation-Id",
    b"connection": "concerns one connection only",
    b"keep-alive": "the same",
    b"trailer": "trailers are dropped by both, but nginx still announces them",
    b"transfer-encoding": "framing is compared by itself, as the body is without its chunks",
    b"content-type": "nginx moves these three to the front; their place in the gateway's answer is compared with the backend's",
    b"last-modified": "the same",
    b"location": "the same",
}


def kept(headers, differs):
    return [(name, value) for name, value in headers if name.lower() not in differs]


def request_view(message):
    return (message.method, message.target, message.start.split(b" ")[2], kept(message.headers, REQUEST_DIFFERS),
            message.body, message.trailers)


def answer_view(message):
    """The reason phrase is left out: nginx repeats the backend's, libmicrohttpd says its own."""
    return message.status, sorted(kept(message.headers, ANSWER_DIFFERS)), message.body, message.trailers


# ---- the cast ----

class Cast:
    """The backend and the proxies before it."""

    def __init__(self):
        self.backend = Backend()
        self.nginx = Nginx(self.backend.address)
        settings = {"LEGACY_URL": "http://" + self.backend.address, "SYNCGATE_LOOPS": 1}
        self.off = Gateway(FEATURE_KAFKA_EVENTS="false", **settings)
        # No route names the paths of these tests: the flag must make no difference.
        self.on = Gateway(FEATURE_KAFKA_EVENTS="true", KAFKA_BROKERS="embedded", wait_kafka=False,
                          SYNCGATE_CONNECTION_MEMORY="128KiB", **settings)
        self.nginxes = (self.nginx.buffered, self.nginx.unbuffered)
        self.gateways = (self.off.address, self.on.address)

    def through(self, address, raw, **script):
        """(what the backend saw, what the client saw)"""
        self.backend.reset(**script)
        answer = exchange(address, raw)
        return list(self.backend.seen), answer

    def stop(self):
        for process in (self.off, self.on, self.nginx):
            process.stop()
        self.backend.close()


@pytest.fixture(scope="module")
def cast():
    cast = Cast()
    yield cast
    cast.stop()


def assert_error(answer, status, code):
    """In the shape of the legacy backend's errors."""
    assert answer.status == status
    body = json.loads(answer.body)
    assert set(body) >= {"message", "error", "statusCode"} and body["statusCode"] == status
    assert body.get("code") == code
    assert answer.get(b"Content-Type") == b"application/json; charset=utf-8"


# ---- requests ----

def raw(start, *headers, body=b""):
    lines = [start.encode("latin-1"), b"Host: shop.example", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


REQUESTS = {
    "bare GET": raw("GET /a HTTP/1.1"),
    "curl's headers are the client's": raw("GET /a HTTP/1.1", b"Accept: */*", b"User-Agent: curl/7", b"Accept-Encoding: br"),
    "HEAD": raw("HEAD /a HTTP/1.1"),
    "OPTIONS": raw("OPTIONS /a HTTP/1.1", b"Origin: http://o", b"Access-Control-Request-Method: POST"),
    "other methods": raw("PURGE /a HTTP/1.1"),
    "DELETE": raw("DELETE /a?b HTTP/1.1"),
    "sized": raw("POST /a HTTP/1.1", b"Content-Length: 5", b"Content-Type: text/x", body=b"a\0\r\nb"),
    "empty": raw("POST /a HTTP/1.1", b"Content-Length: 0"),
    "large sized": raw("PUT /a HTTP/1.1", b"Content-Length: 300000", body=b"0123456789" * 30000),
    "chunked": raw("POST /a HTTP/1.1", b"Transfer-Encoding: chunked",
                   body=b"1\r\na\r\n10;ext=\"v\"\r\n0123456789abcdef\r\n0\r\n\r\n"),
    "chunked and empty": raw("POST /a HTTP/1.1", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "trailers are dropped": raw("PATCH /a HTTP/1.1", b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\nX-T: gone\r\n\r\n"),
    "GET with a body": raw("GET /a HTTP/1.1", b"Content-Length: 3", body=b"abc"),
    "DELETE with a body": raw("DELETE /a HTTP/1.1", b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n"),
    "repeated headers and their order": raw("GET /a HTTP/1.1", b"B: 1", b"A: 1", b"b: 2", b"Cookie: a=1", b"A: 2", b"Cookie: b=2",
                                            b"Via: 1.1 x", b"A: 1"),
    "odd values": raw("GET /a HTTP/1.1", b"Empty:", b"Blanks:   a  b\t c \t", b"Obs: \xe9\xff\x80", b"Odd: \"\\,;=()<>@",
                      b"under_score: 1", b"!#$%&'*+-.^_`|~: all"),
    "long values": raw("GET /a HTTP/1.1", b"L: " + b"v" * 6000, b"N" * 200 + b": 1"),
    "range": raw("GET /a HTTP/1.1", b"Range: bytes=0-1, 5-", b"If-Range: \"e\"", b"If-None-Match: *"),
    "gzip is asked for": raw("GET /a HTTP/1.1", b"Accept-Encoding: gzip, deflate;q=0"),
    "expectation": raw("POST /a HTTP/1.1", b"Expect: 100-continue", b"Content-Length: 3", body=b"abc"),
    "HTTP/1.0": raw("GET /a HTTP/1.0"),
    "bare line feeds": b"GET /a HTTP/1.1\nHost: shop.example\nA: 1\nB:\n\n",
    "HTTP/1.0 without Host": b"GET /a HTTP/1.0\r\n\r\n",
    "HTTP/1.0 with a body": raw("POST /a HTTP/1.0", b"Content-Length: 3", body=b"abc"),
    "absolute form": raw("GET http://other.example:81/a//b?c=%2F HTTP/1.1"),
    "absolute form without a path": raw("GET http://other.example HTTP/1.1"),
    "absolute form without a path, with a query": raw("GET http://other.example?q HTTP/1.1"),
}
for number, target in enumerate(("/", "/a//b", "//a", "/./a/../b", "/a/..", "/a%2Fb%2f", "/%41%7e~", "/a?a=b?c", "/a;b;c=1?d;e", "/a?",
                                 "/a??", "/a+b%20c?x+y", "/a?q=[]{}|\\^`\"<>'", "/a[1]{2}|\\^`'", "/a?q=%00%0d%0a",
                                 "/é\xff?é", "/a&b=c,$!*()@:", "/a?http://x/y", "/a:b", "/" + "p" * 4000 + "?" + "q" * 3000,
                                 "/a?" + "&".join("id=%d" % i for i in range(900)))):
    REQUESTS["target %d" % number] = raw("GET " + target + " HTTP/1.1")


@pytest.mark.parametrize("name", REQUESTS)
def test_the_backend_receives_what_nginx_would_send(cast, name):
    request = REQUESTS[name]
    seen, answer = cast.through(cast.nginx.buffered, request)
    assert answer.status == 200 and len(seen) == 1, answer
    expected = request_view(seen[0])
    for address in cast.gateways:
        seen, answer = cast.through(address, request)
        assert answer.status == 200 and len(seen) == 1, answer
        assert request_view(seen[0]) == expected
        assert seen[0].framing == framing_of(request)
        assert seen[0].all(b"Host") == [cast.backend.address.encode()]


def framing_of(request):
    head = request.split(b"\r\n\r\n")[0]
    return "chunked" if b"Transfer-Encoding" in head else "sized" if b"Content-Length" in head else "none"


@pytest.mark.parametrize("target", ["*", "/%00", "/a%", "/a%zz?%", "/..", "/../a", "/a/../../b"])
def test_targets_that_nginx_refuses_go_through(cast, target):
    """nginx decodes a path to choose a location, and answers 400 when it cannot. The gateway decodes nothing."""
    method = "OPTIONS" if target == "*" else "GET"
    for address in cast.gateways:
        seen, answer = cast.through(address, raw(f"{method} {target} HTTP/1.1"))
        assert answer.status == 200 and [message.target for message in seen] == [target.encode()]


def test_hop_by_hop_request_headers_end_here(cast):
    """nginx keeps what Connection names, Trailer and Proxy-Connection; RFC 9110 section 7.6.1 does not."""
    request = raw("GET /a HTTP/1.1", b"Connection: keep-alive, X-Hop", b"X-Hop: 1", b"Keep-Alive: 5", b"TE: trailers",
                  b"Trailer: X", b"Proxy-Connection: x", b"X-Kept: 1")
    for address in cast.gateways:
        seen, _ = cast.through(address, request)
        assert kept(seen[0].headers, REQUEST_DIFFERS) == [(b"Host", cast.backend.address.encode()), (b"X-Kept", b"1")]


def test_a_post_without_a_body_says_so(cast):
    """RFC 9110 section 8.6; nginx hands on that nothing is said."""
    for address in cast.gateways:
        seen, answer = cast.through(address, raw("POST /a HTTP/1.1"))
        assert answer.status == 200 and seen[0].all(b"Content-Length") == [b"0"]


def test_host_and_forwarded_headers(cast):
    """Host is the backend's own, as with proxy_pass; the client's is X-Forwarded-Host. What a stranger says of itself is
    replaced."""
    for start, host in (("GET /a HTTP/1.1", b"shop.example"), ("GET http://other.example:81/a HTTP/1.1", b"other.example:81")):
        for address in cast.gateways:
            seen, _ = cast.through(address, raw(start, b"X-Forwarded-For: 192.0.2.7", b"X-Forwarded-Host: evil",
                                                b"X-Forwarded-Proto: gopher", b"X-Correlation-Id: mine"))
            assert seen[0].all(b"Host") == [cast.backend.address.encode()]
            assert seen[0].all(b"X-Forwarded-Host") == [host]
            assert seen[0].all(b"X-Forwarded-For") == [b"127.0.0.1"]
            assert seen[0].all(b"X-Forwarded-Proto") == [b"http"]
            assert seen[0].all(b"X-Correlation-Id") == [b"mine"]


@pytest.mark.parametrize("lines, expected", [
    ((), b"127.0.0.1"),
    ((b"192.0.2.7",), b"192.0.2.7, 127.0.0.1"),
    ((b"192.0.2.7, 198.51.100.1", b"", b"203.0.113.5"), b"192.0.2.7, 198.51.100.1, 203.0.113.5, 127.0.0.1"),
])
def test_what_a_trusted_proxy_says_is_continued(cast, stoppable, lines, expected):
    """All of it: a proxy may add a line of its own below those that it received (HAProxy does)."""
    gateway = stoppable(Gateway(FEATURE_KAFKA_EVENTS="false", LEGACY_URL="http://" + cast.backend.address,
                                TRUSTED_PROXIES="127.0.0.1"))
    seen, _ = cast.through(gateway.address, raw("GET /a HTTP/1.1", *(b"X-Forwarded-For: " + line for line in lines),
                                                b"X-Forwarded-Host: public.example", b"X-Forwarded-Proto: https"))
    assert seen[0].all(b"X-Forwarded-For") == [expected]
    assert seen[0].all(b"X-Forwarded-Host") == [b"public.example"]
    assert seen[0].all(b"X-Forwarded-Proto") == [b"https"]


@pytest.mark.parametrize("headers", [
    (b"Content-Length: 3", b"Transfer-Encoding: chunked"),
    (b"Transfer-Encoding: chunked", b"Content-Length: 3"),
    (b"Content-Length: 3", b"Content-Length: 4"),
    (b"Content-Length: 3", b"Content-Length: 3"),
    (b"Content-Length: +3",),
    (b"Transfer-Encoding: gzip, chunked",),
    (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
])
def test_contradictory_framing_is_refused(cast, headers):
    request = raw("POST /a HTTP/1.1", *headers, body=b"0\r\n\r\n")
    for address in (cast.nginx.buffered, *cast.gateways):
        seen, answer = cast.through(address, request)
        assert seen == [] and answer.status in ((400,) if address in cast.gateways else (400, 501))


@pytest.mark.parametrize("request_", [
    b"GET /a HTTP/1.1\r\n\r\n",
    b"GET http://x/a HTTP/1.1\r\n\r\n",
    raw("GET /a HTTP/1.1", b"host: other.example"),
    b"GET /a HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n",
    raw("GET /a HTTP/1.1", b"X: a\0b", b"Y: 1"),
    raw("GET /a HTTP/1.1", b"X: a\0b"),
    raw("GET /a HTTP/1.1", b"X: a\0", b"Y: 1"),
    raw("GET /a HTTP/1.1", b"X: \0b"),
    raw("GET /a\0b HTTP/1.1"),
    raw("GET /a?b\0c=1&d HTTP/1.1"),
    raw("GET\0A /a HTTP/1.1"),
    b"GET /a HTTP/1.1\nHost: x\nX: a\0b\n\n",
])
def test_an_invalid_head_is_refused(cast, request_):
    """No Host or two, and NUL anywhere, which libmicrohttpd would take for the end of the text."""
    for address in (cast.nginx.buffered, *cast.gateways):
        seen, answer = cast.through(address, request_)
        assert seen == [] and answer.status == 400


@pytest.mark.parametrize("headers", [(b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13"),
                                     (b"Connection: Upgrade", b"Upgrade: h2c, example/1")])
def test_an_upgrade_is_501(cast, headers):
    """nginx drops Upgrade unless told otherwise, and the backend answers as if nobody had asked. Here it is said."""
    seen, answer = cast.through(cast.nginx.buffered, raw("GET /ws HTTP/1.1", *headers))
    assert answer.status == 200 and seen[0].get(b"Upgrade") is None
    for address in cast.gateways:
        seen, answer = cast.through(address, raw("GET /ws HTTP/1.1", *headers))
        assert seen == []
        assert_error(answer, 501, "UPGRADE_NOT_SUPPORTED")


def test_an_offer_of_h2c_is_passed_over(cast):
    """Some clients make it with every request, and go on with HTTP/1.1. nginx does the same."""
    request = raw("GET /a HTTP/1.1", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAM")
    for address in (cast.nginx.buffered, *cast.gateways):
        seen, answer = cast.through(address, request)
        assert answer.status == 200 and seen[0].get(b"Upgrade") is None


# ---- answers ----

def ok(*headers, body=b"", start=b"HTTP/1.1 200 OK"):
    return b"\r\n".join((start, *headers)) + b"\r\n\r\n" + body


CHUNKED = b"Transfer-Encoding: chunked"
ANSWERS = {
    "sized": ("GET", ok(b"Content-Length: 5", b"Content-Type: text/x", body=b"a\0\r\nb")),
    "empty": ("GET", ok(b"Content-Length: 0")),
    "large sized": ("GET", ok(b"Content-Length: 300000", body=b"0123456789" * 30000)),
    "chunked": ("GET", ok(CHUNKED, body=b"5;x=\"y\"\r\nhello\r\n1\r\n!\r\n0\r\n\r\n")),
    "chunked and empty": ("GET", ok(CHUNKED, body=b"0\r\n\r\n")),
    "until close": ("GET", ok(b"X: 1", body=b"until the end"), True),
    "HTTP/1.0": ("GET", ok(b"X: 1", body=b"old", start=b"HTTP/1.0 200 OK"), True),
    "204": ("DELETE", ok(b"X: 1", start=b"HTTP/1.1 204 No Content")),
    "304": ("GET", ok(b"ETag: W/\"e\"", b"Last-Modified: Sat, 21 Nov 2026 00:00:00 GMT", start=b"HTTP/1.1 304 Not Modified")),
    "HEAD, sized": ("HEAD", ok(b"Content-Length: 123456", b"Content-Type: text/x")),
    "HEAD, small": ("HEAD", ok(b"Content-Length: 1")),
    "HEAD 404": ("HEAD", ok(b"Content-Length: 12", start=b"HTTP/1.1 404 Not Found")),
    "OPTIONS": ("OPTIONS", ok(b"Allow: GET", b"Access-Control-Allow-Origin: *", start=b"HTTP/1.1 204 No Content")),
    "range": ("GET", ok(b"Content-Range: bytes 0-1/9", b"Accept-Ranges: bytes", b"Content-Length: 2", body=b"ab",
                        start=b"HTTP/1.1 206 Partial Content")),
    "ranges": ("GET", ok(b"Content-Type: multipart/byteranges; boundary=B", CHUNKED,
                         body=b"1c\r\n--B\r\nContent-Range: bytes 0\r\n0\r\n\r\n", start=b"HTTP/1.1 206 Partial Content")),
    "416": ("GET", ok(b"Content-Range: bytes */9", b"Content-Length: 0", start=b"HTTP/1.1 416 Range Not Satisfiable")),
    "gzip is left alone": ("GET", ok(b"Content-Encoding: gzip", b"Vary: Accept-Encoding", b"Content-Length: 8",
                                     body=b"\x1f\x8b\x08no gz")),
    "304 with a length": ("GET", ok(b"ETag: \"e\"", b"Content-Length: 123", start=b"HTTP/1.1 304 Not Modified")),
    "HEAD, chunked": ("HEAD", ok(CHUNKED, b"X: 1")),
    "HEAD, no length": ("HEAD", ok(b"X: 1")),
    "HEAD 304": ("HEAD", ok(b"ETag: \"e\"", start=b"HTTP/1.1 304 Not Modified")),
    "trailers are dropped": ("GET", ok(b"Trailer: X-T", CHUNKED, body=b"2\r\nok\r\n0\r\nX-T: gone\r\n\r\n")),
    "many cookies": ("GET", ok(*(b"Set-Cookie: c%d=%d; Path=/; Expires=Sat, 21 Nov 2026 00:00:00 GMT" % (i, i) for i in range(60)),
                               b"Content-Length: 0")),
    "300 headers": ("GET", ok(*(b"X-%d: %d" % (i % 200, i) for i in range(300)), b"Content-Length: 0")),
    "repeated headers and their order": ("GET", ok(b"B: 1", b"A: 1", b"b: 2", b"Content-Length: 0", b"A: 2", b"Via: 1.1 x",
                                                   b"A: 1", b"WWW-Authenticate: Basic realm=\"x\"", b"WWW-Authenticate: Bearer",
                                                   start=b"HTTP/1.1 401 Unauthorized")),
    "odd values": ("GET", ok(b"Empty:", b"Obs: \xe9\xff\x80", b"Blanks:   a  b\t c \t", b"Odd: \"\\,;=()<>@", b"under_score: 1",
                             b"!#$%&'*+-.^_`|~: all", b"Content-Length: 0")),
    "long values": ("GET", ok(b"L: " + b"v" * 6000, b"N" * 200 + b": 1", b"Content-Length: 0")),
    "a redirect is the client's": ("GET", ok(b"Location: http://shop.example/b?c", b"Content-Length: 0",
                                             start=b"HTTP/1.1 302 Found")),
    "unusual status": ("GET", ok(b"Content-Length: 1", body=b"x", start=b"HTTP/1.1 599 Odd")),
    "an error with a body": ("POST", ok(b"Content-Length: 8", b"Content-Type: application/json", body=b"{\"a\": 1}",
                                        start=b"HTTP/1.1 500 Internal Server Error")),
    "cache headers": ("GET", ok(b"Cache-Control: private, max-age=0", b"Expires: -1", b"Age: 5", b"Pragma: x", b"Refresh: 5",
                                b"Content-Length: 0")),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_client_receives_what_nginx_would_hand_on(cast, name):
    method, answer, *close = ANSWERS[name]
    script = {"answer": answer, "close": bool(close)}
    request = raw(f"{method} /a HTTP/1.1", *([b"Content-Length: 0"] if method == "POST" else []))
    expected = [answer_view(cast.through(address, request, **script)[1]) for address in cast.nginxes]
    assert expected[0] == expected[1]
    for address in cast.gateways:
        _, got = cast.through(address, request, **script)
        assert answer_view(got) == expected[0]
        assert got.interim == [] and len(got.all(b"Date")) == 1 and len(got.all(b"X-Correlation-Id")) == 1
        assert in_order(got.headers) == in_order(final_headers(answer))


def final_headers(answer):
    head = answer.split(b"\r\n\r\n")[0]
    return [(line.partition(b":")[0], line.partition(b":")[2].strip(b" \t")) for line in head.split(b"\r\n")[1:]]


def in_order(headers):
    own = (b"x-correlation-id", b"access-control-expose-headers", b"date", b"connection", b"transfer-encoding",
           b"content-length", b"trailer")
    return [(name, value) for name, value in headers if name.lower() not in own]


def test_interim_answers_are_skipped(cast):
    """nginx 1.22 takes the first for the answer. libmicrohttpd can send none but its own 100."""
    answer = (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
              b"HTTP/1.1 102 Processing\r\n\r\n" + ok(b"Content-Length: 2", b"X: 1", body=b"ok"))
    for address in cast.gateways:
        _, got = cast.through(address, raw("GET /a HTTP/1.1"), answer=answer)
        assert (got.status, got.body, got.interim, got.get(b"Link"), got.get(b"X")) == (200, b"ok", [], None, b"1")


def test_hop_by_hop_answer_headers_end_here(cast):
    """nginx keeps what Connection names, Trailer, Proxy-Connection and Upgrade; RFC 9110 section 7.6.1 does not."""
    answer = ok(b"Connection: X-Hop", b"X-Hop: 1", b"Keep-Alive: timeout=5", b"Proxy-Connection: x", b"Upgrade: h2c",
                b"Trailer: X", b"X-Kept: 1", b"Server: express", b"Date: Sat, 21 Nov 2026 00:00:00 GMT", b"Content-Length: 0")
    for address in cast.gateways:
        _, got = cast.through(address, raw("GET /a HTTP/1.1"), answer=answer)
        names = {name for name, _ in got.headers}
        assert names == {b"X-Kept", b"Server", b"Date", b"Content-Length", b"X-Correlation-Id", b"Access-Control-Expose-Headers"}
        assert got.all(b"Server") == [b"express"] and got.all(b"Date") == [b"Sat, 21 Nov 2026 00:00:00 GMT"]


def test_a_204_has_no_length(cast):
    """RFC 9110 section 8.6; nginx hands the backend's on."""
    for address in cast.gateways:
        _, got = cast.through(address, raw("DELETE /a HTTP/1.1"),
                              answer=ok(b"X: 1", b"Content-Length: 0", start=b"HTTP/1.1 204 No Content"))
        assert (got.status, got.get(b"X"), got.get(b"Content-Length")) == (204, b"1", None)


def test_what_libmicrohttpd_changes(cast):
    """The reason phrase is its own."""
    _, got = cast.through(cast.off.address, raw("GET /a HTTP/1.1"),
                          answer=ok(b"Content-Length: 0", start=b"HTTP/1.1 404 Gone Fishing"))
    assert got.start == b"HTTP/1.1 404 Not Found"


def test_too_many_request_headers(cast):
    for address in cast.gateways:
        seen, got = cast.through(address, raw("GET /a HTTP/1.1", *(b"X: %d" % i for i in range(127))))
        assert got.status == 200 and len(seen[0].all(b"X")) == 127
        seen, got = cast.through(address, raw("GET /a HTTP/1.1", *(b"X: %d" % i for i in range(128))))
        assert seen == []
        assert_error(got, 400, "BAD_REQUEST")


def test_a_head_above_the_connection_memory(cast):
    """The heads of request and answer share SYNCGATE_CONNECTION_MEMORY, and libmicrohttpd copies the cookies."""
    for request, length in ((b"X: x", 30000), (b"L: " + b"v" * 8000, 8000), (b"Cookie: a=" + b"v" * 5000, 6000)):
        answer = ok(b"L: " + b"v" * length, b"Content-Length: 2", body=b"ok")
        for method in ("GET", "HEAD"):
            _, got = cast.through(cast.off.address, raw(f"{method} /a HTTP/1.1", request), answer=answer)
            assert got.status == 502 and got.get(b"L") is None
            _, got = cast.through(cast.on.address, raw(f"{method} /a HTTP/1.1", request), answer=answer)
            assert got.status == 200 and len(got.get(b"L")) == length
    _, got = cast.through(cast.off.address, raw("GET /a HTTP/1.1"), answer=ok(b"L: " + b"v" * 30000, CHUNKED, body=b"0\r\n\r\n"))
    assert_error(got, 502, "LEGACY_BROKEN")


@pytest.mark.parametrize("lines", [
    [b"L: "], [b"Cookie: a="], [*(b"A%d: x" % i for i in range(100)), b"L: "],
    [b"Cookie: " + b"; ".join(b"a%d=x" % i for i in range(100)), b"L: "]], ids=["header", "cookie", "headers", "cookies"])
def test_what_is_executed_is_answered(cast, lines):
    """Whatever the length of a head, and of that of its answer."""
    statuses = set()
    for length in range(4000, 16400, 150):
        for answer in (b"L: " + b"v" * 1500, b"L: v"):
            request = raw("POST /a HTTP/1.1", *lines[:-1], lines[-1] + b"v" * length, b"Content-Length: 2", body=b"{}")
            seen, got = cast.through(cast.off.address, request, answer=ok(answer, b"Content-Length: 0"))
            assert got or not seen, length
            statuses.add((len(seen), got.status if got else None))
    assert statuses - {(0, None)} == {(1, 200), (1, 502), (0, 431)}


def test_a_request_head_above_the_connection_memory(cast):
    seen, got = cast.through(cast.off.address, raw("GET /a HTTP/1.1", b"L: " + b"v" * 20000))
    assert seen == [] and got.status == 431
    seen, got = cast.through(cast.on.address, raw("GET /a HTTP/1.1", b"L: " + b"v" * 20000))
    assert got.status == 200 and len(seen[0].get(b"L")) == 20000


@pytest.mark.parametrize("answer, close", [(ok(CHUNKED, body=b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"), False), (ok(body=b"abc"), True),
                                           (ok(b"Content-Length: 3", body=b"abc"), False)])
def test_http_1_0_clients_get_no_chunks(cast, answer, close):
    for address in (*cast.nginxes, *cast.gateways):
        _, got = cast.through(address, b"GET /a HTTP/1.0\r\n\r\n", answer=answer, close=close)
        assert got.body == b"abc" and got.framing in ("close", "sized") and got.get(b"Transfer-Encoding") is None


def test_pipelined_requests_are_answered_in_order(cast):
    def script(talk):
        talk.read_body()
        talk.send(ok(b"Content-Length: %d" % len(talk.request.target + talk.request.body),
                     body=talk.request.target + talk.request.body))
        return True

    requests = (raw("GET /1 HTTP/1.1") + raw("POST /2 HTTP/1.1", b"Content-Length: 1", body=b"x")
                + raw("POST /3 HTTP/1.1", CHUNKED, body=b"1\r\ny\r\n0\r\n\r\n") + raw("GET /4 HTTP/1.1"))
    for address in (cast.nginx.buffered, *cast.gateways):
        cast.backend.reset(script=script)
        with Client(address) as client:
            client.send(requests)
            assert [client.answer().body for _ in range(4)] == [b"/1", b"/2x", b"/3y", b"/4"]


# ---- moments ----

def test_a_backend_of_http_1_0_that_keeps_connections(cast):
    """Its connections are not used again, by nginx either: what it is sent stays HTTP/1.1, chunked uploads included."""
    answer = ok(b"Connection: keep-alive", b"Content-Length: 2", body=b"ok", start=b"HTTP/1.0 200 OK")
    upload = raw("POST /b HTTP/1.1", CHUNKED, body=b"1\r\na\r\n0\r\n\r\n")
    for address in (cast.nginx.buffered, *cast.gateways):
        cast.backend.reset(answer=answer)
        got = [exchange(address, request) for request in (raw("GET /a HTTP/1.1"), upload, upload, raw("GET /a HTTP/1.1"))]
        assert [message.status for message in got] == [200] * 4
        assert [message.start for message in cast.backend.seen] == [b"GET /a HTTP/1.1", b"POST /b HTTP/1.1", b"POST /b HTTP/1.1",
                                                                    b"GET /a HTTP/1.1"]


def test_expect_continue_with_a_willing_backend(cast):
    """The 100 is the proxy's own; the backend never sees the expectation."""
    for address in (cast.nginx.buffered, *cast.gateways):
        cast.backend.reset()
        with Client(address) as client:
            client.send(raw("POST /a HTTP/1.1", b"Expect: 100-continue", b"Content-Length: 3"))
            assert client.reader.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
            client.send(b"abc")
            assert client.answer().status == 200
        assert cast.backend.seen[0].body == b"abc" and cast.backend.seen[0].get(b"Expect") is None


def refuse(talk):
    """Answers on the head alone."""
    talk.send(ok(b"Content-Length: 5", b"Connection: close", body=b"large", start=b"HTTP/1.1 413 Content Too Large"))
    return False


def test_expect_continue_with_a_refusing_backend(cast):
    """Both proxies ask for the body before the backend can refuse it; the refusal arrives, behind the body here."""
    for address in (cast.nginx.buffered, *cast.gateways):
        cast.backend.reset(script=refuse)
        with Client(address) as client:
            client.send(raw("POST /a HTTP/1.1", b"Expect: 100-continue", b"Content-Length: 3"))
            if address in cast.gateways:
                assert client.reader.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
                client.send(b"abc")
            got = client.answer()
            assert (got.status, got.body) == (413, b"large")


def test_early_answers_to_uploads(cast):
    """nginx hands an early answer on at once. libmicrohttpd takes it only behind the body: the gateway discards up to
    1 MiB of the rest to get there; a longer upload ends with its connection."""
    def upload(address, size):
        cast.backend.reset(script=refuse)
        with Client(address) as client:
            client.send(raw("POST /a HTTP/1.1", b"Content-Length: %d" % size) + b"x" * 1000)
            eventually(lambda: cast.backend.seen and not cast.backend.open_conversations(), "the backend has answered")
            try:
                left = size - 1000
                while left > 0:
                    left -= client.socket.send(b"x" * min(left, 65536))
            except (ConnectionResetError, BrokenPipeError):
                pass
            return client.answer()

    for address in cast.gateways:
        got = upload(address, MIB)
        assert (got.status, got.body) == (413, b"large")
        assert upload(address, 16 * MIB) is None
    with Client(cast.nginx.buffered) as client:
        cast.backend.reset(script=refuse)
        client.send(raw("POST /a HTTP/1.1", b"Content-Length: 1000000") + b"x" * 1000)
        assert client.answer().status == 413


@pytest.mark.parametrize("status", [200, 302, 400, 500])
def test_an_answer_that_begins_early_and_needs_the_upload(cast, status):
    """Its head and some of it come at once, the rest when the backend has read the whole body."""
    size, begun = MIB, threading.Event()

    def script(talk):
        talk.send(ok(b"Content-Length: 30000", body=b"begin", start=b"HTTP/1.1 %d X" % status))
        begun.set()
        talk.read_body()
        talk.send(b"x" * 29995)
        return True

    for address in (cast.nginx.unbuffered, *cast.gateways):
        begun.clear()
        cast.backend.reset(script=script)
        with Client(address) as client:
            client.send(raw("POST /a HTTP/1.1", b"Content-Length: %d" % size) + b"u" * 1000)
            assert begun.wait(10)
            client.send(b"u" * (size - 1000))
            got = client.answer()
        assert got and (got.status, len(got.body)) == (status, 30000)
        assert len(cast.backend.seen) == 1 and len(cast.backend.seen[0].body) == size


def dies_on_reuse(talk):
    """The first request of a connection is answered, the second one read, and the connection closed."""
    talk.read_body()
    if talk.request.target == b"/first" or talk.request.connection not in talk.backend.used:
        talk.backend.used.add(talk.request.connection)
        talk.send(talk.backend.answer)
        return True
    return False


@pytest.mark.parametrize("method, status, times", [("GET", 200, 2), ("HEAD", 200, 2), ("DELETE", 200, 2), ("OPTIONS", 200, 2),
                                                   ("POST", 502, 1), ("PATCH", 502, 1)])
def test_an_idle_connection_that_the_backend_closes(cast, method, status, times):
    """Repeated when RFC 9110 section 9.2.2 allows it, by nginx as well, and at most once else."""
    body = method in ("POST", "PATCH")
    request = raw(f"{method} /second HTTP/1.1", *([b"Content-Length: 3"] if body else []), body=b"abc" if body else b"")
    for address in (cast.nginx.buffered, *cast.gateways):
        cast.backend.used = set()
        cast.backend.hang_up()
        cast.backend.reset(script=dies_on_reuse)
        assert exchange(address, raw("GET /first HTTP/1.1")).status == 200
        got = exchange(address, request)
        assert got.status == status
        assert [message.target for message in cast.backend.seen] == [b"/first"] + [b"/second"] * times


def test_attempts_end(cast):
    """A backend that closes without a word: LEGACY_RETRIES attempts more, then 502."""
    def mute(talk):
        talk.read_body()
        return False

    for address in cast.gateways:
        for method, times in (("GET", 3), ("DELETE", 3), ("POST", 1)):
            cast.backend.reset(script=mute)
            assert_error(exchange(address, raw(f"{method} /a HTTP/1.1")), 502, "LEGACY_BROKEN")
            assert len(cast.backend.seen) == times


# ---- bulk ----

class Watch:
    """The largest VmRSS of a process while this runs."""

    def __init__(self, process):
        self.path = f"/proc/{process.pid}/status"
        self.before = self.peak = self._read()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _read(self):
        with open(self.path, encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS:"))

    def _run(self):
        while not self.done.wait(0.01):
            self.peak = max(self.peak, self._read())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.done.set()
        self.thread.join()
        assert kind or self.peak - self.before < 32 * MIB, (self.before, self.peak)


BLOCK = memoryview(bytes(range(256)) * (4 * MIB // 256))


def download(count, framing):
    def script(talk):
        if talk.request.target != b"/large":
            return Backend._plain(talk)
        size = count * len(BLOCK)
        talk.send(ok(b"Content-Length: %d" % size if framing == "sized" else CHUNKED))
        for _ in range(count):
            if framing == "chunked":
                talk.send(b"%x\r\n" % len(BLOCK))
            talk.send(BLOCK)
            if framing == "chunked":
                talk.send(b"\r\n")
        talk.send(b"0\r\n\r\n" if framing == "chunked" else b"")
        return True
    return script


def test_a_download_of_1_gib_at_flat_memory(cast):
    cast.backend.reset(script=download(256, "sized"))
    with Client(cast.off.address) as client, Watch(cast.off):
        client.send(raw("GET /large HTTP/1.1"))
        head = client.reader.until(b"\r\n\r\n")
        assert b"Content-Length: %d" % (1 << 30) in head
        left, place = (1 << 30) - len(client.reader.data), bytearray(MIB)
        assert client.reader.data == bytes(BLOCK[:len(client.reader.data)])
        while left:
            count = client.socket.recv_into(place, min(left, MIB))
            assert count, "cut"
            offset = (1 << 30) - left
            assert place[0] == offset % 256 and place[count - 1] == (offset + count - 1) % 256
            left -= count


@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_a_slow_reader_holds_nobody_up(cast, framing):
    """It reads a little at a time; the backend is held back, memory stays flat, and others are served meanwhile."""
    cast.backend.reset(script=download(16, framing))
    size = 16 * len(BLOCK)
    with Client(cast.off.address, receive_buffer=65536) as client, Watch(cast.off):
        client.send(raw("GET /large HTTP/1.1"))
        slowest = 0
        for _ in range(100):
            assert client.socket.recv(4096)
            begun = time.monotonic()
            assert exchange(cast.off.address, raw("GET /other HTTP/1.1")).status == 200
            slowest = max(slowest, time.monotonic() - begun)
        assert slowest < 1
        received = 100 * 4096
        place = bytearray(MIB)
        while received < size:
            count = client.socket.recv_into(place)
            assert count, "cut"
            received += count


def test_an_upload_of_256_mib_waits_for_a_slow_backend(cast):
    may_read = threading.Event()

    def script(talk):
        if talk.request.target != b"/large":
            return Backend._plain(talk)
        assert may_read.wait(60)
        left, place = int(talk.request.get(b"Content-Length")) - len(talk.reader.data), bytearray(MIB)
        talk.reader.data = b""
        while left > 0:
            count = talk.socket.recv_into(place)
            if not count:
                return False
            left -= count
        talk.send(ok(b"Content-Length: 4", body=b"done"))
        return True

    cast.backend.reset(script=script)
    size = 64 * len(BLOCK)
    with Client(cast.off.address) as client, Watch(cast.off):
        client.send(raw("PUT /large HTTP/1.1", b"Content-Length: %d" % size))
        client.socket.settimeout(0.5)
        sent = 0
        try:
            while sent < size:
                sent += client.socket.send(BLOCK[sent % len(BLOCK):])
        except TimeoutError:
            pass
        assert sent < size // 4, "nobody reads, and yet it was taken"
        assert exchange(cast.off.address, raw("GET /other HTTP/1.1")).status == 200
        may_read.set()
        client.socket.settimeout(30)
        while sent < size:
            sent += client.socket.send(BLOCK[sent % len(BLOCK):])
        assert client.answer().body == b"done"
