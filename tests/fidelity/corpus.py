# SPDX-License-Identifier: Apache-2.0
"""The requests: the contract's samples, and generated ones. Deterministic. A case says how its body is to be understood and
who its token names; expected.py says what the answer is."""
import json
import os
import random
import time

from expected import ABSENT, BIND, TOO_LARGE, UNBIND, Answer, invalid, nest, parser_error, unsupported_charset
from tokens import STRANGER, USER, token

DEVICES = 3000
SAMPLE_TOKEN = "q7Zt91LmPa03Xw5c"
JSON = "application/json"
HERE = os.path.dirname(os.path.abspath(__file__))
NOT_READ = Answer(400, {"message": "The JSON text is not UTF-8, nested too deeply or has too many values",
                        "error": "Bad Request", "statusCode": 400})


class Case:
    """value: the parsed body, ABSENT, or the Answer of the body parser. user: the sub of a good token, else None. answer:
    fixed, whatever expected.py thinks. only, off: the answer where the flag is so, a difference that docs/fidelity.md lists."""

    def __init__(self, name, body=b"", value=ABSENT, path=BIND, method="POST", content_type=JSON, headers=(),
                 authorization=None, user=USER, route="same", answer=None, only=None, off=None, chunked=False):
        self.name, self.body, self.value, self.path, self.method = name, body, value, path, method
        self.user, self.answer, self.by_flag, self.chunked = user, answer, {"only": only, "false": off}, chunked
        self.route = (path if path in (BIND, UNBIND) else None) if route == "same" else route
        self.headers = list(headers)
        if content_type is not None:
            self.headers.append(("Content-Type", content_type))
        if authorization is None and user is not None:
            authorization = "Bearer " + cached_token(user)
        if authorization:
            self.headers.append(("Authorization", authorization))

    def wire(self):
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: fidelity"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        body = self.body
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
            body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        elif body or self.method == "POST" and not any(name == "Content-Length" for name, _ in self.headers):
            if body is not None:
                lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


TOKENS = {}


def cached_token(user):
    return TOKENS.setdefault(user, token(sub=user, lifetime_s=3600))


def json_case(name, value, path=BIND, **more):
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return Case(name, body, value, path, **more)


class Numbers:
    """Devices that no other case touches."""

    def __init__(self):
        self.next = 100

    def __call__(self):
        self.next += 1
        assert self.next <= DEVICES
        return f"GH-{self.next}"


def qr(device, **more):
    return {"qrData": {"deviceId": device, "bindingToken": SAMPLE_TOKEN, **more}}


def samples():
    """Section 6. GH-42 stands for GH-0042."""
    yield json_case("S1", qr("GH-42", v=1))
    yield json_case("S3", qr("GH-42", v=1))
    yield json_case("S4", {"qrData": {"deviceId": "GH-9999", "fingerprint": "5A:0C:91"}})
    yield json_case("S4 by token", qr("GH-9999"))
    yield json_case("S5", {"qrData": {"deviceId": "GH-42", "bindingToken": "abc"}})
    yield json_case("S6", {"qrData": {"deviceId": "GH-42", "fingerprint": "5A:0C:91"}, "userId": USER})
    yield json_case("S7", qr("GH-42"), user=None)
    yield json_case("S9 stranger", {"deviceId": "GH-42"}, UNBIND, user=STRANGER)
    yield json_case("S9 null reason", {"deviceId": "GH-42", "reason": None}, UNBIND)
    yield json_case("S8", {"deviceId": "GH-42", "reason": "moved to another greenhouse"}, UNBIND)
    yield json_case("S8 again", {"deviceId": "GH-42"}, UNBIND)
    yield json_case("S8 unknown", {"deviceId": "GH-9999"}, UNBIND)
    yield Case("S13", None, method="GET", path="/api/devices/GH-42/status", content_type=None)


def good_bodies(device):
    for version in ({}, {"v": 1}, {"v": 0}, {"v": -2.5}, {"v": 1e300}):
        yield {"qrData": {"deviceId": device(), "fingerprint": "5A:0C:91", **version}}
        yield {"qrData": {"deviceId": device(), "bindingToken": SAMPLE_TOKEN, **version}}
        yield {"qrData": {"deviceId": device(), "fingerprint": "", "keyHash": "sha256-", **version}}
    for text in ("x" * 16, "x" * 64, "\U0001f331" * 8, "\U0001f331" * 32, "é" * 16, "\U0001f331" * 7 + "ab", "\\\"/\b\f\n\r\t\x01\x1f\x7f\u2028abcd"):
        yield qr(device(), bindingToken=text)
    for odd in ("", " ", "устройство", "\U0001f331", "a\"b\\c/d", "GH-1\x01", "\u2028", "\x7f", "x" * 3000, "__proto__",
                "GH-%41", "null"):
        yield qr(odd)


def valid():
    device = Numbers()
    for n, body in enumerate(good_bodies(device)):
        yield json_case(f"valid {n}", body)
        yield json_case(f"valid {n} again", body)
        yield json_case(f"valid {n} unbind", {"deviceId": body["qrData"]["deviceId"], "extra": [1, {"a": None}]}, UNBIND)
        yield json_case(f"valid {n} unbind again", {"reason": "", "deviceId": body["qrData"]["deviceId"]}, UNBIND)
    for n in range(60):
        yield json_case(f"bind {n}", qr(device()), user=(USER, STRANGER)[n % 2])
    yield json_case("sub is no uuid", qr(device()), user="keycloak-user-1")


VALUES = [None, True, False, 0, 1.5, -1e21, "", "x", "x" * 15, "x" * 16, "x" * 64, "x" * 65, "\U0001f331" * 7, "\U0001f331" * 33,
          "sha256-abc", "SHA256-abc", [], [1], {}, {"deviceId": "GH-1"}]


def faulty():
    device = Numbers()
    device.next = 400
    bases = [{"deviceId": "GH-1", "fingerprint": "5A"}, {"deviceId": "GH-1", "bindingToken": SAMPLE_TOKEN, "v": 1},
             {"deviceId": "GH-1", "fingerprint": "5A", "keyHash": "sha256-1", "v": 2}]
    for value in VALUES + [ABSENT]:
        body = {} if value is ABSENT else {"qrData": value}
        yield json_case(f"qrData {value!r:.20}", body)
        if value is not ABSENT:
            yield json_case(f"unbind deviceId {value!r:.20}", {"deviceId": value}, UNBIND)
            yield json_case(f"unbind reason {value!r:.20}", {"deviceId": "GH-9998", "reason": value}, UNBIND)
    for extra in (["zzz"], ["a", "b"], ["10", "2", "b", "1", "a"], ["it's"], ["\"q\""], ["ключ"], [""], ["constructor"]):
        yield json_case(f"extra {extra}", {**qr("GH-1"), **{name: 1 for name in extra}})
        yield json_case(f"extra inside {extra}", qr("GH-1", **{name: 1 for name in extra}))
        yield json_case(f"extra unbind {extra}", {"deviceId": "GH-9998", **{name: 1 for name in extra}}, UNBIND)
    for variant, base in enumerate(bases):
        for field in ("deviceId", "fingerprint", "bindingToken", "keyHash", "v"):
            for value in VALUES + [ABSENT]:
                data = {**base, field: value}
                if value is ABSENT:
                    del data[field]
                data = {"deviceId": device(), **data} if data.get("deviceId") == "GH-1" and field != "deviceId" else data
                if data.get("deviceId") == "GH-1":
                    data["deviceId"] = device()
                yield json_case(f"variant {variant} {field} {value!r:.20}", {"qrData": data})
    rng = random.Random(20251121)
    for n in range(300):
        data = dict(rng.choice(bases))
        for _ in range(rng.randint(2, 4)):
            field = rng.choice(["deviceId", "fingerprint", "bindingToken", "keyHash", "v", "zzz", "7", "a b"])
            if rng.random() < 0.3:
                data.pop(field, None)
            else:
                data[field] = rng.choice(VALUES)
        if data.get("deviceId") == "GH-1":
            data["deviceId"] = device()
        body = {"qrData": data}
        if rng.random() < 0.2:
            body[rng.choice(["userId", "x", "3"])] = rng.choice(VALUES)
        yield json_case(f"several {n}", body)
    for value in ([], [1], [qr("GH-1")]):
        yield json_case("an array", value)
        yield json_case("an array", value, UNBIND)


def malformed():
    """What Node.js said to each of these texts; with and without a token: the parser comes first."""
    with open(os.path.join(HERE, "v8_messages.json"), encoding="utf-8") as file:
        texts = json.load(file)
    for n, (text, message) in enumerate(texts):
        yield Case(f"malformed {text!r:.60}", text.encode(), nest(400, message), path=(BIND, UNBIND)[n % 2],
                   user=(USER, None)[n % 5 == 0])


def odd_json():
    unknown = {"deviceId": "GH-9997"}
    token_text = SAMPLE_TOKEN.encode()
    yield Case("duplicate key", b'{"deviceId":1,"deviceId":"GH-9997"}', unknown, UNBIND)
    yield Case("duplicate key, the last is bad", b'{"deviceId":"GH-9997","deviceId":1}', {"deviceId": 1}, UNBIND)
    yield Case("duplicate by escape", b'{"deviceId":1,"device\\u0049d":"GH-9997"}', unknown, UNBIND)
    yield Case("byte order mark", b'\xef\xbb\xbf{"deviceId":"GH-9997"}', unknown, UNBIND)
    yield Case("blanks", b' \t\r\n{ "deviceId" : "GH-9997" } \n', unknown, UNBIND)
    yield Case("only a byte order mark", b"\xef\xbb\xbf", {}, UNBIND)
    yield Case("a number beyond doubles", b'{"qrData":{"deviceId":"GH-9997","bindingToken":"%s","v":1e999}}' % token_text, qr("GH-9997", v=1e300))
    yield Case("a long number", b'{"qrData":{"deviceId":"GH-9997","bindingToken":"%s","v":%s}}' % (token_text, b"9" * 5000), qr("GH-9997", v=1))
    yield Case("a huge number for a text", b'{"deviceId":-1e999}', {"deviceId": 1.5}, UNBIND)
    yield Case("lone surrogate", b'{"qrData":{"deviceId":"GH-9997","bindingToken":"\\ud83c%s"}}' % token_text, qr("GH-9997"))
    yield Case("16 lone surrogates", b'{"qrData":{"deviceId":"GH-9997","bindingToken":"%s"}}' % (b"\\udc00" * 16), qr("GH-9997"))
    yield Case("15 lone surrogates", b'{"qrData":{"deviceId":"GH-9997","bindingToken":"%s"}}' % (b"\\udc00" * 15),
               qr("GH-9997", bindingToken="x" * 15))
    yield Case("escaped pair", b'{"qrData":{"deviceId":"GH-9997","bindingToken":"%s"}}' % (b"\\ud83c\\udf31" * 8), qr("GH-9997"))
    yield Case("NUL in a text", b'{"deviceId":"GH-9997","reason":"\\u0000"}', unknown, UNBIND)
    yield Case("bytes that are not UTF-8", b'{"deviceId":"GH-9997\xff","reason":"\xc3("}', unknown, UNBIND, only=NOT_READ)
    for depth, only in ((60, None), (500, NOT_READ)):
        yield Case(f"{depth} arrays deep", b'{"deviceId":"GH-9997","x":' + b"[" * depth + b"]" * depth + b"}", unknown, UNBIND, only=only)
    yield Case("__proto__", b'{"deviceId":"GH-9997","__proto__":{"reason":1}}', unknown, UNBIND)


def content_types():
    value, text = {"deviceId": "GH-9996"}, b'{"deviceId":"GH-9996"}'
    read = ["application/json", "APPLICATION/JSON", "Application/Json; Charset=UTF-8", "application/json;charset=utf-8",
            'application/json; charset="utf-8"', "application/json ; charset=utf-8", "application/json; a=b; charset=utf-8",
            'application/json; a="x;y"', "application/json; charset=latin1; charset=utf-8", 'application/json; charset=""']
    unread = [None, "text/plain", "text/json", "application/jsonx", "application/vnd.api+json", "application/json;",
              "application/json; charset", "application/json; charset=", "application/json, text/plain", "json", "*/*",
              "multipart/form-data; boundary=x", 'application/json; charset="utf-8', "application/json; =x"]
    for kind in read:
        yield Case(f"type {kind}", text, value, UNBIND, content_type=kind)
        yield Case(f"type {kind}, broken", b"{", nest(400, "Expected property name or '}' in JSON at position 1"), UNBIND, content_type=kind)
    for kind in unread:
        yield Case(f"type {kind}", text, ABSENT, UNBIND, content_type=kind)
        yield Case(f"type {kind}, broken", b"{", ABSENT, BIND, content_type=kind)
        yield Case(f"type {kind}, large", b"x" * 102401, ABSENT, BIND, content_type=kind)
    for charset in ("latin1", "utf8", "iso-8859-1", "us-ascii", "windows-1251", "ucs-2", "UTF8"):
        for body in (text, b"", b"x" * 102401):
            yield Case(f"charset {charset} {len(body)}", body, unsupported_charset(charset.upper()), UNBIND, content_type=f"application/json; charset={charset}")
    yield Case("charset utf-nonsense", text, unsupported_charset("UTF-NONSENSE"), UNBIND, content_type="application/json; charset=utf-nonsense")
    form = "application/x-www-form-urlencoded"
    for body, parsed in ((b"deviceId=GH-9996&reason=a+b", value), (b"reason=x", {}), (b"", {})):
        yield Case(f"form {body!r}", body, parsed, UNBIND, content_type=form, only=invalid(UNBIND, ABSENT))
    yield Case("form in latin2", b"deviceId=x", unsupported_charset("LATIN2"), UNBIND, content_type=form + "; charset=latin2")
    yield Case("form, large", b"deviceId=" + b"x" * 102400, TOO_LARGE, UNBIND, content_type=form)
    for coding in ("identity", "Identity"):
        yield Case(f"coding {coding}", text, value, UNBIND, headers=[("Content-Encoding", coding)])
    for coding in ("zstd", "GZIP, br", "x"):
        yield Case(f"coding {coding}", text, parser_error(415, f'unsupported content encoding "{coding.lower()}"'), UNBIND, headers=[("Content-Encoding", coding)])


def padded(size):
    head, tail = b'{"deviceId":"GH-9995","reason":"', b'"}'
    return head + b"r" * (size - len(head) - len(tail)) + tail


def sizes():
    value = {"deviceId": "GH-9995"}
    for size in (102399, 102400):
        yield Case(f"{size} bytes", padded(size), value, UNBIND)
        yield Case(f"{size} bytes in chunks", padded(size), value, UNBIND, chunked=True)
    for size in (102401, 150000):
        yield Case(f"{size} bytes", padded(size), TOO_LARGE, UNBIND)
        yield Case(f"{size} bytes in chunks", padded(size), TOO_LARGE, UNBIND, chunked=True)
        yield Case(f"{size} bytes, no token", padded(size), TOO_LARGE, UNBIND, user=None)
    yield Case("empty JSON", b"", {}, UNBIND)
    yield Case("empty JSON for bind", b"", {}, BIND)
    yield Case("empty JSON in chunks", b"", {}, UNBIND, chunked=True)
    yield Case("empty, no type", b"", ABSENT, UNBIND, content_type=None)
    yield Case("no body at all", None, ABSENT, UNBIND, off=invalid(UNBIND, {}))
    yield Case("no body, no type", None, ABSENT, UNBIND, content_type=None)


def tokens():
    good = cached_token(USER)
    value = {"deviceId": "GH-9994"}
    head, payload, signature = good.split(".")
    bad = {
        "none": "", "bare": good, "bearer": "bearer " + good, "BEARER": "BEARER " + good, "two blanks": "Bearer  " + good,
        "no blank": "Bearer" + good, "tab": "Bearer\t" + good, "Basic": "Basic dXNlcjpwYXNz", "nonsense": "Bearer abc", "two dots": "Bearer ..",
        "only scheme": "Bearer", "another secret": "Bearer " + token(secret="another-secret-of-the-tests-0123456789"),
        "expired": "Bearer " + token(lifetime_s=-1), "expires now": "Bearer " + token(lifetime_s=0),
        "not yet": "Bearer " + token(nbf=int(time.time()) + 3600), 
        "no sub": "Bearer " + token(sub=None), "empty sub": "Bearer " + token(sub=""), "no email": "Bearer " + token(email=None),
        "email is a number": "Bearer " + token(email=5), "cut": "Bearer " + good[:-5], "two parts": f"Bearer {head}.{payload}",
        "four parts": f"Bearer {good}.x", "payload of another": "Bearer " + ".".join([head, cached_token(STRANGER).split(".")[1], signature]),
        "alg none": "Bearer eyJhbGciOiJub25lIn0." + payload + ".", "list of aliases": "Bearer " + token(organization=["acme"]),
        "alias without id": "Bearer " + token(organization={"acme": {}}), "id is a number": "Bearer " + token(organization={"acme": {"id": 5}}),
        "entry is text": "Bearer " + token(organization={"acme": "x"}),
    }
    for name, text in bad.items():
        yield json_case(f"token {name}", value, UNBIND, user=None, authorization=text)
    fine = {
        "third part": f"Bearer {good} and more", "no exp": "Bearer " + token(lifetime_s=None), "nbf in the past": "Bearer " + token(nbf=1),
        "empty email": "Bearer " + token(email=""), "no organization": "Bearer " + token(organization={}),
        "empty list": "Bearer " + token(organization=[]), "organization": "Bearer " + token(organization={"acme": {"id": "o1"}}),
        "two organizations": "Bearer " + token(organization={"acme": {"id": "o1"}, "b": {"id": "o2"}}),
        "role text": "Bearer " + token(role="superadmin"), "fractional exp": "Bearer " + token(lifetime_s=None, exp=time.time() + 600.5),
    }
    for name, text in fine.items():
        yield json_case(f"token {name}", value, UNBIND, authorization=text)


def order_of_checks():
    """Each pair of faults at once: the earlier check answers. The model of expected.py has the order of section 0.2."""
    parse = {"json": (b"{", nest(400, "Expected property name or '}' in JSON at position 1"), JSON),
             "charset": (b"{}", unsupported_charset("LATIN1"), "application/json; charset=latin1"),
             "size": (padded(102401), TOO_LARGE, JSON), "shape": (b"{}", {}, JSON), "no body": (b"", ABSENT, "text/plain")}
    for name, (body, value, kind) in parse.items():
        for user in (USER, None):
            for path in (BIND, UNBIND, "/api/devices/unknown", "/api/devices"):
                yield Case(f"{name}, token {user is not None}, {path}", body, value, path, user=user, content_type=kind)
    yield Case("charset before json", b"{", unsupported_charset("X"), content_type="application/json; charset=x")
    yield Case("charset before coding", b"{", unsupported_charset("X"), content_type="application/json; charset=x", headers=[("Content-Encoding", "y")])
    yield Case("coding before size", b"x" * 102401, parser_error(415, 'unsupported content encoding "y"'), headers=[("Content-Encoding", "y")])
    yield Case("size before json", b"x" * 102401, TOO_LARGE)


def paths():
    value = {"deviceId": "GH-9993"}
    for path in (UNBIND, BIND):
        for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH"):
            for user in (USER, None):
                yield Case(f"{method} {path}", None, method=method, path=path, content_type=None, user=user, route=None)
        for headers in ([], [("Origin", "http://x"), ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "x-y")]):
            for user in (USER, None):
                yield Case(f"OPTIONS {path}", None, method="OPTIONS", path=path, content_type=None, user=user, headers=headers, answer=Answer(204, None))
    same = [UNBIND + "/", "/API/devices/UNBIND", "/api/Devices/Unbind/", UNBIND + "?", UNBIND + "?a=b&c", UNBIND + "?x=%ZZ", UNBIND + "/?a=/", UNBIND + "?deviceId=1"]
    for path in same:
        yield json_case(f"path {path}", value, path, route=UNBIND)
        yield json_case(f"path {path}, invalid", {}, path, route=UNBIND)
        yield json_case(f"path {path}, no token", value, path, route=UNBIND, user=None)
    others = [UNBIND + "//", "/api//devices/unbind", "/api/devices//unbind", UNBIND + "/x", UNBIND + "%20", "/api/devices/un%62ind", "/api/devices/unbind;a=b", "/api/devices/../devices/unbind"]
    for path in others:
        for user in (USER, None):
            yield json_case(f"path {path}", value, path, user=user, route=None)
    for path in ("/api/devices/%ZZ/status", "/api/devices/%ff/status"):
        segment = path.split("/")[3]
        yield Case(f"escape {path}", None, method="GET", path=path, content_type=None, answer=nest(400, f"Failed to decode param '{segment}'"))


def corpus():
    for group in (samples, valid, faulty, malformed, odd_json, content_types, sizes, tokens, order_of_checks, paths):
        for case in group():
            yield group.__name__, case
