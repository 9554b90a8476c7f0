# SPDX-License-Identifier: Apache-2.0
"""The example device service's REST side answers as the legacy backend does. Its Kafka side is tested with the gateway."""
import base64
import hashlib
import hmac
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess

import jwt
import pytest
from confluent_kafka import Producer

from device_service import DeviceService
from gateway import Gateway
from service import COMMANDS

BUILD = os.environ.get("TEST_BUILD", str(pathlib.Path(__file__).parents[2] / "build"))
BINARY = os.path.join(BUILD, "examples", "device-service", "device-service")
SECRET = "0123456789abcdef0123456789abcdef"
SUB = "5e0c6a1d-2b7f-4c39-9a64-8d1f3b20c7e5"
OTHER = "00000000-0000-0000-0000-000000000000"
JS_DATE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
UNAUTHORIZED = {"message": "Ошибка аутентификации", "error": "Unauthorized", "statusCode": 401}
NOT_FOUND = {"message": "Устройство не найдено"}
BIND, UNBIND = "/api/devices/bind-qr", "/api/devices/unbind"
MY, ADMIN, GENERATE = "/api/devices/my", "/api/admin/devices", "/api/manufacturing/generate-device-qr"


class Service:
    def __init__(self, *args):
        self.process = subprocess.Popen([BINARY, "--listen", "127.0.0.1:0", *args], stdout=subprocess.PIPE, text=True)
        first = self.process.stdout.readline()
        self.port = int(first.rsplit(":", 1)[1])
        assert self.process.stdout.readline() == "ready\n"

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)

    def call(self, method, path, body=None, token=None, headers=None):
        """Status, headers and JSON body. body: bytes as they are, anything else as JSON."""
        headers = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        if token:
            headers["Authorization"] = "Bearer " + token
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, answer.headers, json.loads(text) if text else None


@pytest.fixture(scope="module")
def service():
    instance = Service("--hs256-secret", SECRET, "--test-hooks")
    yield instance
    assert instance.stop() == 0


def token(secret=SECRET, algorithm="HS256", **claims):
    claims = {"sub": SUB, "email": "a@example.com", **claims}
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, secret, algorithm=algorithm)


@pytest.fixture
def device(service, request):
    """A fresh unbound device."""
    name = "GH-" + re.sub(r"\W", "-", request.node.name)
    body = {"deviceId": name, "model": "GrowBox-2", "firmwareVersion": "2.4.1", "publicKeyPem": "PEM"}
    assert service.call("POST", GENERATE, body)[0] == 201
    return name


def required(*path, expected="string"):
    return {"code": "invalid_type", "expected": expected, "received": "undefined", "path": list(path),
            "message": "Required"}


def wrong_type(received, *path, expected="string"):
    return {"code": "invalid_type", "expected": expected, "received": received, "path": list(path),
            "message": f"Expected {expected}, received {received}"}


def unknown(keys, *path):
    return {"code": "unrecognized_keys", "keys": keys, "path": list(path),
            "message": "Unrecognized key(s) in object: " + ", ".join(f"'{key}'" for key in keys)}


def range_issue(kind, bound, unit, *path):
    text = {("small", "string"): f"String must contain at least {bound} character(s)",
            ("big", "string"): f"String must contain at most {bound} character(s)",
            ("small", "number"): f"Number must be greater than or equal to {bound}",
            ("big", "number"): f"Number must be less than or equal to {bound}"}[kind, unit]
    return {"code": "too_" + kind, "minimum" if kind == "small" else "maximum": bound, "type": unit, "inclusive": True,
            "exact": False, "message": text, "path": list(path)}


def enum_issue(received, options, *path):
    return {"received": received, "code": "invalid_enum_value", "options": options, "path": list(path),
            "message": "Invalid enum value. Expected " + " | ".join(f"'{o}'" for o in options) +
                       f", received '{received}'"}


def union(*alternatives):
    return {"code": "invalid_union", "unionErrors": [{"issues": list(a), "name": "ZodError"} for a in alternatives],
            "path": ["qrData"], "message": "Invalid input"}


def invalid(part, *issues):
    body = dict.fromkeys(["paramsResult", "headersResult", "queryResult", "bodyResult"])
    body[part] = {"issues": list(issues), "name": "ZodError"}
    return body


def same(actual, expected):
    """Equal including the order of keys."""
    assert json.dumps(actual, ensure_ascii=False) == json.dumps(expected, ensure_ascii=False)


# ---- HTTP facts of every endpoint ----

def test_headers_of_every_answer(service):
    for method, path in (("GET", "/api/health"), ("GET", MY), ("GET", "/nowhere"), ("POST", BIND)):
        headers = service.call(method, path)[1]
        assert headers["Content-Type"] == "application/json; charset=utf-8"
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert headers["X-Powered-By"] == "Express"
        assert headers["WWW-Authenticate"] is None


def test_health(service):
    status, _, body = service.call("GET", "/api/health")
    assert (status, body["status"], body["version"]) == (200, "healthy", "1.0.0")
    assert JS_DATE.match(body["timestamp"]) and set(body["services"]) == {"logging", "kafka"}


def test_preflight_needs_no_token(service):
    status, headers, body = service.call("OPTIONS", BIND, headers={"Origin": "http://x"})
    assert (status, body) == (204, None)
    assert headers["Access-Control-Allow-Methods"] == "GET,HEAD,PUT,PATCH,POST,DELETE"
    assert headers["Access-Control-Allow-Headers"] == "Content-Type, Authorization"
    assert headers["Access-Control-Allow-Origin"] == "*" and headers["Content-Type"] is None


@pytest.mark.parametrize("path", ["/api/devices/my", "/API/Devices/MY", "/api/devices/my/", "/api/devices/my?x=1"])
def test_path_matching(service, path):
    assert service.call("GET", path, token=token())[0] == 200


@pytest.mark.parametrize("method,path", [
    ("GET", BIND), ("PUT", UNBIND), ("POST", MY), ("GET", "/api/devices/my//"), ("GET", "/api/devices/GH-0042/status"),
    ("PUT", "/api/admin/devices/GH-1/status"), ("POST", "/api/devices/bind-to-group"), ("GET", "/api/nowhere?a=b"),
    ("POST", "/api/devices/transfer-to-group"), ("GET", "/api/organizations/1/devices"), ("GET", "/api/devices/m%79")])
def test_unknown_route_is_404_after_auth(service, method, path):
    expected = {"message": f"Cannot {method} {path}", "error": "Not Found", "statusCode": 404}
    status, _, body = service.call(method, path, token=token())
    assert status == 404
    same(body, expected)
    assert service.call(method, path)[0] == 401


@pytest.mark.parametrize("path", ["/api/manufacturing/validate-token/a/b", "/api/metrics", "/api/devices/certificates/x",
                                  "/nowhere"])
def test_unknown_route_below_an_open_prefix(service, path):
    status, _, body = service.call("GET", path)
    assert (status, body["message"]) == (404, "Cannot GET " + path)
    assert service.call("GET", "/api/metricsx")[0] == 401


def test_bad_percent_escape(service):
    status, _, body = service.call("GET", "/api/users/%ZZ", token=token())
    assert status == 400
    same(body, {"message": "Failed to decode param '%ZZ'", "error": "Bad Request", "statusCode": 400})


def test_head(service):
    get, head = service.call("GET", MY, token=token()), service.call("HEAD", MY, token=token())
    assert head[0] == 200 and head[2] is None
    assert head[1]["Content-Length"] == get[1]["Content-Length"]
    assert service.call("HEAD", BIND, token=token())[0] == 404


# ---- bodies ----

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("text", [b"{", b'{"a":}', b'"text"', b"1", b"null", b"{} x", b'{"a":\xff}', b" "])
def test_malformed_json_is_400_before_auth(service, text):
    status, _, body = service.call("POST", BIND, text, headers=JSON)
    assert status == 400 and list(body) == ["message", "error", "statusCode"]
    assert (body["error"], body["statusCode"]) == ("Bad Request", 400)


@pytest.mark.parametrize("charset,shown", [("latin1", "LATIN1"), ('"latin1"', "LATIN1"), ("iso-8859-1", "ISO-8859-1")])
def test_unsupported_charset(service, charset, shown):
    status, _, body = service.call("POST", BIND, b"{}", headers={"Content-Type": "application/json; charset=" + charset})
    assert status == 415
    same(body, {"statusCode": 415, "message": f'unsupported charset "{shown}"'})


def test_body_limit(service):
    def padded(size):
        head, tail = b'{"deviceId":"', b'"}'
        return head + b"x" * (size - len(head) - len(tail)) + tail
    status, _, body = service.call("POST", UNBIND, padded(102401), headers=JSON)
    assert status == 413
    same(body, {"statusCode": 413, "message": "request entity too large"})
    assert service.call("POST", UNBIND, padded(102400), token=token(), headers=JSON)[0] == 404
    big = service.call("POST", UNBIND, padded(3000000), token=token(), headers=JSON)
    assert big[0] == 413
    other = service.call("POST", UNBIND, padded(102401), token=token(), headers={"Content-Type": "text/plain"})
    same(other[2], invalid("bodyResult", required(expected="object")))


@pytest.mark.parametrize("body,headers", [(None, None), (None, {"Content-Type": "text/plain", "Content-Length": "0"}),
                                          (b"{}", {"Content-Type": "text/plain"}), (b"{}", {"Content-Type": "x/json"})])
def test_no_body_is_undefined(service, body, headers):
    status, _, answer = service.call("POST", UNBIND, body, token=token(), headers=headers)
    assert status == 400
    same(answer, invalid("bodyResult", required(expected="object")))


def test_absent_body_with_a_json_type(service):
    # http.client would add Content-Length: 0 by itself.
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as s:
        s.sendall(f"POST {UNBIND} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
                  f"Authorization: Bearer {token()}\r\n\r\n".encode())
        text = s.makefile("rb").read()
    same(json.loads(text.split(b"\r\n\r\n", 1)[1]), invalid("bodyResult", required(expected="object")))


def test_empty_json_body_is_an_object(service):
    status, _, body = service.call("POST", UNBIND, b"", token=token(), headers=JSON)
    assert status == 400
    same(body, invalid("bodyResult", required("deviceId")))


@pytest.mark.parametrize("text,content_type", [
    (b'\xef\xbb\xbf{"deviceId":"GH-9999"}', "application/json"),
    (b'{"deviceId":1,"deviceId":"GH-9999"}', "Application/JSON; charset=UTF-8"),
    (b"deviceId=GH-9999&reason=a+b", "application/x-www-form-urlencoded")])
def test_accepted_bodies(service, text, content_type):
    status, _, body = service.call("POST", UNBIND, text, token=token(), headers={"Content-Type": content_type})
    assert (status, body) == (404, NOT_FOUND)


def test_chunked_body(service):
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    connection.request("POST", UNBIND, iter([b'{"deviceId":', b'"GH-9999"}']),
                       {**JSON, "Authorization": "Bearer " + token()}, encode_chunked=True)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())) == (404, NOT_FOUND)
    connection.close()


# ---- tokens ----

@pytest.mark.parametrize("claims", [{}, {"exp": 4102444800}, {"nbf": 1}, {"organization": {}}, {"organization": []},
                                    {"organization": {"acme": {"id": "1"}}}, {"email": ""}, {"sub": "not-a-uuid"}])
def test_token_accepted(service, claims):
    assert service.call("GET", MY, token=token(**claims))[0] == 200


@pytest.mark.parametrize("claims", [{"exp": 1}, {"nbf": 4102444800}, {"sub": ""}, {"email": None}, {"email": 1},
                                    {"organization": ["acme"]}, {"organization": {"acme": {}}}])
def test_token_claims_refused(service, claims):
    status, _, body = service.call("GET", MY, token=token(**claims))
    assert status == 401
    same(body, UNAUTHORIZED)


@pytest.mark.parametrize("authorization", [
    None, "", "Bearer", "Bearer ", "bearer " + token(), "Basic " + token(), "Bearer  " + token(), "Bearer x.y.z",
    "Bearer " + token(secret="f" * 32), "Bearer " + token(secret=None, algorithm="none"), "Bearer " + token()[:-2]])
def test_header_refused(service, authorization):
    headers = {"Authorization": authorization} if authorization is not None else {}
    status, _, body = service.call("GET", MY, headers=headers)
    assert status == 401
    same(body, UNAUTHORIZED)


def test_text_after_the_token_is_ignored(service):
    assert service.call("GET", MY, headers={"Authorization": f"Bearer {token()} more"})[0] == 200


@pytest.mark.parametrize("algorithm,key_args", [
    ("RS256", ["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
    ("ES256", ["genpkey", "-quiet", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])])
def test_public_key(tmp_path, algorithm, key_args):
    private = subprocess.run(["openssl", *key_args], check=True, capture_output=True, text=True).stdout
    public = subprocess.run(["openssl", "pkey", "-pubout"], input=private, check=True, capture_output=True, text=True).stdout
    (tmp_path / "key.pem").write_text(public)
    instance = Service("--public-key", str(tmp_path / "key.pem"))
    try:
        assert instance.call("GET", MY, token=token(secret=private, algorithm=algorithm))[0] == 200
        assert instance.call("GET", MY, token=token())[0] == 401
        # A shared-secret token made from the public key must not pass. (PyJWT refuses to make one.)
        part = lambda d: base64.urlsafe_b64encode(json.dumps(d).encode()).rstrip(b"=")
        signed = part({"alg": "HS256", "typ": "JWT"}) + b"." + part({"sub": SUB, "email": "x"})
        mac = base64.urlsafe_b64encode(hmac.new(public.encode(), signed, hashlib.sha256).digest()).rstrip(b"=")
        assert instance.call("GET", MY, token=(signed + b"." + mac).decode())[0] == 401
    finally:
        assert instance.stop() == 0


@pytest.mark.parametrize("claims,status", [
    ({}, 403), ({"realm_access": {"roles": ["user"]}}, 403), ({"resource_access": {"roles": ["admin"]}}, 403),
    ({"realm_access": {"roles": ["user", "admin"]}}, 200), ({"role": ["admin"]}, 200), ({"role": "superadmin"}, 200)])
def test_admin_role(service, claims, status):
    # The role comes before the validation of the query.
    answer = service.call("GET", ADMIN + "?page=abc", token=token(**claims))
    assert answer[0] == (403 if status == 403 else 400)
    if status == 403:
        same(answer[2], {"message": "Требуется роль: admin", "error": "Forbidden", "statusCode": 403})


def test_order_of_checks(service):
    assert service.call("POST", "/api/nowhere", b"{", headers=JSON)[0] == 400
    assert service.call("POST", "/api/nowhere", {})[0] == 401
    assert service.call("POST", "/api/nowhere", {}, token=token())[0] == 404
    assert service.call("POST", BIND, {})[0] == 401


# ---- generate-device-qr ----

def registration(**changes):
    body = {"deviceId": "GH-0043", "model": "GrowBox-2", "firmwareVersion": "2.4.1", "publicKeyPem": "PEM",
            "qrType": "token", **changes}
    return {k: v for k, v in body.items() if v is not ...}


def test_generate_and_repeat(service):
    status, _, body = service.call("POST", GENERATE, registration())
    assert status == 201
    same(body, {"message": "Устройство успешно зарегистрировано", "data": {
        "deviceId": "GH-0043", "qrData": {"deviceId": "GH-0043", "fingerprint": "placeholder-fingerprint", "v": 1},
        "estimatedQRSize": 68}})
    status, _, body = service.call("POST", GENERATE, registration(qrType="hash"))
    assert (status, body) == (400, {"message": "Device with ID GH-0043 already exists"})


@pytest.mark.parametrize("name,length", [("", 0), ("теплица", 7), ("\U0001f331", 2), ('a"b', 4), ("a\nb", 4)])
def test_qr_size_counts_utf16(service, name, length):
    status, _, body = service.call("POST", GENERATE, registration(deviceId=name))
    assert (status, body["data"]["estimatedQRSize"]) == (201, 61 + length)


@pytest.mark.parametrize("changes,issues", [
    ({"model": ..., "publicKeyPem": ...}, [required("model"), required("publicKeyPem")]),
    ({"deviceId": 7, "zzz": 1, "a": 2}, [wrong_type("number", "deviceId"), unknown(["zzz", "a"])]),
    ({"qrType": "foo"}, [enum_issue("foo", ["minimal", "token", "hash"], "qrType")]),
    ({"qrType": None}, [{"expected": "'minimal' | 'token' | 'hash'", "received": "null", "code": "invalid_type",
                         "path": ["qrType"], "message": "Expected 'minimal' | 'token' | 'hash', received null"}]),
    ({"model": True, "firmwareVersion": []}, [wrong_type("boolean", "model"), wrong_type("array", "firmwareVersion")]),
    ({"model": {}, "firmwareVersion": None}, [wrong_type("object", "model"), wrong_type("null", "firmwareVersion")])])
def test_generate_validation(service, changes, issues):
    status, _, body = service.call("POST", GENERATE, registration(**changes))
    assert status == 400
    same(body, invalid("bodyResult", *issues))


def test_generate_without_an_object(service):
    same(service.call("POST", GENERATE, [])[2], invalid("bodyResult", wrong_type("array", expected="object")))
    same(service.call("POST", GENERATE)[2], invalid("bodyResult", required(expected="object")))


# ---- bind-qr ----

@pytest.mark.parametrize("qr", [
    {"fingerprint": "5A:0C:91"}, {"fingerprint": "", "v": 1.5}, {"bindingToken": "q7Zt91LmPa03Xw5c", "v": 1},
    {"bindingToken": "x" * 64, "v": -1}, {"fingerprint": "", "keyHash": "sha256-"}])
def test_bind(service, device, qr):
    status, _, body = service.call("POST", BIND, {"qrData": {"deviceId": device, **qr}}, token=token())
    assert status == 200
    assert JS_DATE.match(body["device"]["boundAt"])
    same(body, {"message": "Устройство успешно привязано", "device": {
        "deviceId": device, "userId": SUB, "boundAt": body["device"]["boundAt"], "status": "bound"}})
    for sub in (SUB, OTHER):
        status, _, body = service.call("POST", BIND, {"qrData": {"deviceId": device, **qr}}, token=token(sub=sub))
        assert status == 409
        same(body, {"message": "Устройство уже привязано", "code": "ALREADY_BOUND"})


@pytest.mark.parametrize("name", ["GH-9999", ""])
def test_bind_unknown_device(name):
    instance = Service("--hs256-secret", SECRET)
    try:
        body = {"qrData": {"deviceId": name, "fingerprint": "5A:0C:91"}}
        status, _, answer = instance.call("POST", BIND, body, token=token())
        assert (status, answer) == (404, NOT_FOUND)
    finally:
        assert instance.stop() == 0


def test_bind_without_token(service, device):
    same(service.call("POST", BIND, {"qrData": {"deviceId": device, "fingerprint": ""}})[2], UNAUTHORIZED)


D = ("qrData", "deviceId")
F, T, H = ("qrData", "fingerprint"), ("qrData", "bindingToken"), ("qrData", "keyHash")
PREFIX = {"code": "invalid_string", "validation": {"startsWith": "sha256-"},
          "message": 'Invalid input: must start with "sha256-"', "path": list(H)}


@pytest.mark.parametrize("qr,issues", [
    ({"deviceId": "A", "bindingToken": "abc"}, [range_issue("small", 16, "string", *T)]),
    ({"deviceId": "A", "bindingToken": "\U0001f331" * 33}, [range_issue("big", 64, "string", *T)]),
    ({"deviceId": "A", "bindingToken": "abc", "x": 1}, [range_issue("small", 16, "string", *T), unknown(["x"], "qrData")]),
    ({"deviceId": "A", "fingerprint": "F", "x": 1}, [unknown(["x"], "qrData")]),
    ({"deviceId": "A", "fingerprint": "F", "keyHash": "md5-1"}, [unknown(["keyHash"], "qrData")]),
    ({"deviceId": "A", "fingerprint": 1, "bindingToken": "q7Zt91LmPa03Xw5c"}, [unknown(["fingerprint"], "qrData")]),
    ({"deviceId": "A", "fingerprint": "F", "v": None}, [union(
        [wrong_type("null", "qrData", "v", expected="number")],
        [required(*T), wrong_type("null", "qrData", "v", expected="number"), unknown(["fingerprint"], "qrData")],
        [required(*H), wrong_type("null", "qrData", "v", expected="number")])]),
    ({"deviceId": "A"}, [union([required(*F)], [required(*T)], [required(*F), required(*H)])]),
    ({"deviceId": 1, "keyHash": "x"}, [union(
        [wrong_type("number", *D), required(*F), unknown(["keyHash"], "qrData")],
        [wrong_type("number", *D), required(*T), unknown(["keyHash"], "qrData")],
        [wrong_type("number", *D), required(*F), PREFIX])]),
    ("text", [union(*[[wrong_type("string", "qrData", expected="object")]] * 3)])])
def test_bind_qr_union(service, qr, issues):
    status, _, body = service.call("POST", BIND, {"qrData": qr}, token=token())
    assert status == 400
    same(body, invalid("bodyResult", *issues))


def test_bind_validation(service):
    body = {"qrData": {"deviceId": "GH-0042", "fingerprint": "5A:0C:91"}, "userId": SUB}
    same(service.call("POST", BIND, body, token=token())[2], invalid("bodyResult", unknown(["userId"])))
    same(service.call("POST", BIND, {}, token=token())[2],
         invalid("bodyResult", union(*[[required("qrData", expected="object")]] * 3)))


# ---- unbind ----

def bind(service, device, sub=SUB):
    body = {"qrData": {"deviceId": device, "fingerprint": ""}}
    assert service.call("POST", BIND, body, token=token(sub=sub))[0] == 200


def test_unbind(service, device):
    bind(service, device)
    body = {"deviceId": device, "reason": "moved", "ignored": 1}
    status, _, answer = service.call("POST", UNBIND, body, token=token(sub=OTHER))
    assert status == 400
    same(answer, {"message": f"User {OTHER} is not the owner of device {device}"})
    status, _, answer = service.call("POST", UNBIND, body, token=token())
    assert status == 200
    same(answer, {"message": "Устройство успешно отвязано", "deviceId": device})
    status, _, answer = service.call("POST", UNBIND, body, token=token())
    assert status == 400
    same(answer, {"message": f"Device with ID {device} is already unbound"})
    bind(service, device, OTHER)


def test_unbind_errors(service):
    assert service.call("POST", UNBIND, {"deviceId": "GH-9999"}, token=token())[::2] == (404, NOT_FOUND)
    same(service.call("POST", UNBIND, {"deviceId": "GH-0042", "reason": None}, token=token())[2],
         invalid("bodyResult", wrong_type("null", "reason")))


def test_an_odd_id_flips_the_status(service):
    service.call("POST", GENERATE, registration(deviceId="not found"))
    bind(service, "not found")
    body = {"qrData": {"deviceId": "not found", "fingerprint": ""}}
    assert service.call("POST", BIND, body, token=token())[::2] == (404, NOT_FOUND)
    assert service.call("POST", UNBIND, {"deviceId": "not found"}, token=token(sub=OTHER))[::2] == (404, NOT_FOUND)


# ---- lists ----

@pytest.fixture(scope="module")
def garden():
    """25 devices GH-1..GH-25, of which the user owns GH-1..GH-12."""
    instance = Service("--hs256-secret", SECRET, "--devices", "25")
    for i in range(1, 13):
        bind(instance, f"GH-{i}")
    yield instance
    assert instance.stop() == 0


def test_my_devices(garden):
    status, _, body = garden.call("GET", MY + "?page=1&limit=2", token=token())
    assert status == 200 and list(body) == ["devices", "total", "page", "limit"]
    first = body["devices"][0]
    assert list(first) == ["deviceId", "model", "status", "boundAt", "lastSeenAt"]
    assert (first["model"], first["status"]) == ("GrowBox-2", "bound")
    assert JS_DATE.match(first["boundAt"]) and JS_DATE.match(first["lastSeenAt"])
    assert first["boundAt"] <= first["lastSeenAt"]
    assert [d["deviceId"] for d in body["devices"]] == ["GH-12", "GH-11"]
    assert (body["total"], body["page"], body["limit"]) == (12, 1, 2)
    assert garden.call("GET", MY, token=token(sub=OTHER))[2] == {"devices": [], "total": 0, "page": 1, "limit": 10}


@pytest.mark.parametrize("query,count,page,limit", [
    ("", 10, 1, 10), ("?page=2", 2, 2, 10), ("?page=9", 0, 9, 10), ("?page=1e1&limit=1", 1, 10, 1),
    ("?page=0x2&limit=5", 5, 2, 5), ("?page=%201+", 10, 1, 10), ("?page=1.5", 7, 1.5, 10), ("?limit=100", 12, 1, 100),
    ("?page=Infinity", 0, None, 10), ("?status=suspended", 10, 1, 10), ("?page=0b10&limit=0o7", 5, 2, 7),
    ("?nothing=%ZZ", 10, 1, 10)])
def test_paging(garden, query, count, page, limit):
    status, _, body = garden.call("GET", MY + query, token=token())
    assert (status, len(body["devices"]), body["page"], body["limit"]) == (200, count, page, limit)


NAN = [wrong_type("nan", "page", expected="number")]


@pytest.mark.parametrize("query,issues", [
    ("page=abc", NAN), ("page=1&page=2", NAN), ("page=inf", NAN), ("page=nan", NAN), ("page=1x", NAN), ("page=0x", NAN),
    ("page=0b2", NAN), ("page=1_0", NAN), ("page=-0x1", NAN), ("page=0x-1", NAN),
    ("page=", [range_issue("small", 1, "number", "page")]), ("page=0", [range_issue("small", 1, "number", "page")]),
    ("limit=100.5", [range_issue("big", 100, "number", "limit")]),
    ("limit=Infinity", [range_issue("big", 100, "number", "limit")]),
    ("page=-Infinity&limit=101&status=x", [range_issue("small", 1, "number", "page"),
                                           range_issue("big", 100, "number", "limit"),
                                           enum_issue("x", ["bound", "suspended"], "status")])])
def test_my_query_validation(garden, query, issues):
    status, _, body = garden.call("GET", f"{MY}?{query}", token=token())
    assert status == 400
    same(body, invalid("queryResult", *issues))


def test_admin_list(garden):
    status, _, body = garden.call("GET", ADMIN + "?limit=7&page=2&status=revoked&model=x&ownerId=" + OTHER,
                                  token=token(role=["admin"]))
    assert status == 200 and list(body) == ["devices", "total", "page", "limit", "totalPages"]
    assert [body[k] for k in list(body)[1:]] == [25, 2, 7, 4]
    assert [d["deviceId"] for d in body["devices"]] == [f"GH-{i}" for i in range(18, 11, -1)]
    unbound, bound = body["devices"][0], body["devices"][-1]
    assert (unbound["status"], unbound["ownerId"]) == ("unbound", None)
    assert (bound["status"], bound["ownerId"], bound["boundAt"]) == ("bound", SUB, None)
    assert {"publicKeyPem", "ownerType", "firmwareVersion", "createdAt", "lastSeenAt", "model"} < set(bound)
    assert garden.call("GET", ADMIN, token=token(role=["admin"]))[2]["limit"] == 10


@pytest.mark.parametrize("query,issues", [
    ("ownerId=1", [{"validation": "uuid", "code": "invalid_string", "message": "Invalid uuid", "path": ["ownerId"]}]),
    ("model=a&model=b", [wrong_type("array", "model")]),
    ("status=x", [enum_issue("x", ["manufactured", "unbound", "bound", "suspended", "revoked"], "status")])])
def test_admin_query_validation(garden, query, issues):
    status, _, body = garden.call("GET", f"{ADMIN}?{query}", token=token(role=["admin"]))
    assert status == 400
    same(body, invalid("queryResult", *issues))


# ---- test hooks and command line ----

def test_executions(service, device):
    before = service.call("GET", "/__test/executions")[2]
    bind(service, device)
    service.call("POST", UNBIND, {"deviceId": "GH-9999"}, token=token())
    service.call("POST", UNBIND, {}, token=token())
    after = service.call("GET", "/__test/executions")[2]
    assert after["rest"] == {"bind": before["rest"]["bind"] + 1, "unbind": before["rest"]["unbind"] + 1}
    assert after["devices"] == before["devices"] and after["kafka"] is None


def test_no_hooks_by_default(garden):
    assert garden.call("GET", "/__test/executions")[0] == 404


@pytest.mark.parametrize("args", [["--nonsense"], ["--listen", "x"], ["--listen", "127.0.0.1:99999"], ["--devices", "-1"],
                                  ["stray"], ["--hs256-secret", "a", "--public-key", "/dev/null"]])
def test_bad_options(args):
    assert subprocess.run([BINARY, *args], capture_output=True, timeout=10).returncode == 2


def test_busy_port(service):
    result = subprocess.run([BINARY, "--listen", f"127.0.0.1:{service.port}"], capture_output=True, text=True, timeout=10)
    assert result.returncode == 1 and "cannot listen" in result.stderr


# --- the Kafka side, as far as no gateway would make it --------------------------------------------------------------


def test_a_record_whose_id_is_no_text_stops_nobody(stoppable):
    """Its offset would not be committed: the service would end again as often as it is started."""
    gateway = stoppable(Gateway(KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="only"))
    stoppable(DeviceService(gateway.bootstrap(), devices=1))
    producer = Producer({"bootstrap.servers": gateway.bootstrap(), "log_level": 0})
    for partition in range(len(producer.list_topics(COMMANDS, timeout=10).topics[COMMANDS].partitions)):
        producer.produce(COMMANDS, b"{}", partition=partition, headers=[("correlation-id", b"\xff\xfe"),
                                                                        ("event-type", b"device.command.bind")])
    assert producer.flush(20) == 0
    assert gateway.bind("GH-1").status == 200
