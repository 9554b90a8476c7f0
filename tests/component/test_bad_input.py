# SPDX-License-Identifier: Apache-2.0
"""Bad input of every kind gets the answer of the legacy backend (contract sections 0.2, 0.3, 1.2, 2.3), and the gateway
lives. The flag is `only`: nothing can slip through to a legacy backend."""
import contextlib
import json

import pytest

from contract import MESSAGES, UNAUTHORIZED
from gateway import BIND, QR_TOKEN, UNBIND, Gateway, copy_routes
from http_client import RawConnection, raw_request
from service import Service, answer, bind_response
from tokens import USER, bearer, token

pytestmark = pytest.mark.once  # much of the same way, little of threads

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def gateway():
    gateway = Gateway(copy_routes(lambda route: route.update(timeoutMs=2000)), KAFKA_BROKERS="embedded",
                      FEATURE_KAFKA_EVENTS="only", KAFKA_MESSAGE_TIMEOUT="500ms")
    yield gateway
    gateway.stop()


@pytest.fixture(autouse=True)
def still_alive(gateway):
    yield
    assert gateway.popen.poll() is None, gateway.tail()
    assert gateway.admin_get("/health/live").status == 200


def post(gateway, body, path=BIND, headers=None):
    return gateway.call("POST", path, body, {**JSON, **bearer(), **(headers or {})})


def e_val(*issues):
    return {"paramsResult": None, "headersResult": None, "queryResult": None,
            "bodyResult": {"issues": list(issues), "name": "ZodError"}}


def required(path, expected="string"):
    return {"code": "invalid_type", "expected": expected, "received": "undefined", "path": path, "message": "Required"}


def wrong(path, expected, received):
    return {"code": "invalid_type", "expected": expected, "received": received, "path": path,
            "message": f"Expected {expected}, received {received}"}


EXACT = {
    "token too short": (BIND, {"qrData": {"deviceId": "GH-1", "bindingToken": "abc"}}, e_val(
        {"code": "too_small", "minimum": 16, "type": "string", "inclusive": True, "exact": False,
         "message": "String must contain at least 16 character(s)", "path": ["qrData", "bindingToken"]})),
    "token too long": (BIND, {"qrData": {"deviceId": "GH-1", "bindingToken": "x" * 65}}, e_val(
        {"code": "too_big", "maximum": 64, "type": "string", "inclusive": True, "exact": False,
         "message": "String must contain at most 64 character(s)", "path": ["qrData", "bindingToken"]})),
    "33 emoji are 66 UTF-16 units": (BIND, {"qrData": {"deviceId": "GH-1", "bindingToken": "\U0001f331" * 33}}, e_val(
        {"code": "too_big", "maximum": 64, "type": "string", "inclusive": True, "exact": False,
         "message": "String must contain at most 64 character(s)", "path": ["qrData", "bindingToken"]})),
    "a user in the body": (BIND, {"qrData": {"deviceId": "GH-1", "fingerprint": "5A:0C:91"}, "userId": USER}, e_val(
        {"code": "unrecognized_keys", "keys": ["userId"], "path": [],
         "message": "Unrecognized key(s) in object: 'userId'"})),
    "unbind without id": (UNBIND, {}, e_val(required(["deviceId"]))),
    "unbind, id of a wrong type": (UNBIND, {"deviceId": 42}, e_val(wrong(["deviceId"], "string", "number"))),
    "unbind, null reason": (UNBIND, {"deviceId": "GH-1", "reason": None},
                            e_val(wrong(["reason"], "string", "null"))),
    "an array": (UNBIND, [], e_val(wrong([], "object", "array"))),
}


@pytest.mark.parametrize("name", EXACT)
def test_validation_answers_as_legacy(gateway, name):
    path, body, expected = EXACT[name]
    response = post(gateway, body, path)
    assert response.status == 400
    assert response.json() == expected
    assert response.header("Content-Type") == "application/json; charset=utf-8"
    assert response.header("X-Correlation-Id")


@pytest.mark.parametrize("qr", [None, "text", [], {}, {"deviceId": "GH-1"}, {"deviceId": 1, "bindingToken": QR_TOKEN},
                                {"deviceId": "GH-1", "bindingToken": QR_TOKEN, "fingerprint": "x"}])
def test_bad_qr_data(gateway, qr):
    response = post(gateway, {"qrData": qr})
    assert response.status == 400, response
    assert response.json()["bodyResult"]["name"] == "ZodError"


def test_qr_data_missing(gateway):
    response = post(gateway, {})
    assert response.status == 400 and response.json()["bodyResult"]["issues"]


DEEP = 10000
MALFORMED = {
    "empty object cut": b"{",
    "text": b"hello",
    "a bare string": b'"text"',
    "a bare number": b"42",
    "null": b"null",
    "two values": b"{} {}",
    "trailing comma": b'{"qrData":{},}',
    "single quotes": b"{'qrData':1}",
    "control character in a string": b'{"qrData":"a\x01b"}',
    "lone NUL byte": b'{"qrData":"a\x00b"}',
    "bad escape": b'{"qrData":"\\x"}',
    "half a unicode escape": b'{"qrData":"\\u12"}',
    "broken utf-8": b'{"qrData":{"deviceId":"\xff\xfe\xc0\x80","bindingToken":1}}',
    "deep arrays": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep arrays, never closed": b"[" * 100000,
    "a huge number": b'{"qrData":1e999}',
    "a long number": b'{"qrData":' + b"9" * 5000 + b"}",
    "a number with a leading zero": b'{"qrData":01}',
    "NaN": b'{"qrData":NaN}',
    "many keys": b"{" + b",".join(b'"k%d":1' % i for i in range(6000)) + b"}",
    "one long key": b'{"' + b"k" * 100000 + b'":1}',
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bodies(gateway, name):
    response = post(gateway, MALFORMED[name])
    assert response.status == 400, response
    assert isinstance(response.json(), dict)


def test_malformed_json_comes_before_the_token(gateway):
    assert gateway.call("POST", BIND, b"{", JSON).status == 400


def test_a_wrong_content_type_is_no_body(gateway):
    response = post(gateway, b'{"deviceId":"GH-1"}', UNBIND, {"Content-Type": "text/plain"})
    assert response.status == 400
    assert response.json() == e_val(required([], "object"))


def test_no_body(gateway):
    response = gateway.call("POST", UNBIND, None, bearer())
    assert response.status == 400
    assert response.json() == e_val(required([], "object"))


def test_an_empty_json_body_is_an_empty_object(gateway):
    response = gateway.call("POST", UNBIND, b"", {**JSON, **bearer(), "Content-Length": "0"})
    assert response.status == 400
    assert response.json() == e_val(required(["deviceId"]))


def test_foreign_charset(gateway):
    response = post(gateway, b'{"deviceId":"GH-1"}', UNBIND, {"Content-Type": "application/json; charset=latin1"})
    assert response.status == 415
    assert response.json() == {"statusCode": 415, "message": 'unsupported charset "LATIN1"'}


def padded(size):
    body = json.dumps({"deviceId": "", "reason": ""}).encode()
    return body[:-2] + b"r" * (size - len(body)) + body[-2:]


def test_the_size_limit_is_100_kib(gateway):
    assert len(padded(102400)) == 102400
    response = post(gateway, padded(102401), UNBIND)
    assert response.status == 413
    assert response.json() == {"statusCode": 413, "message": "request entity too large"}
    # One byte less is read, and then fails as a command (an empty device id fits none).
    assert post(gateway, padded(102400), UNBIND).status == 501


def test_a_chunked_body_over_the_limit(gateway):
    with RawConnection(gateway.address) as connection:
        connection.send(raw_request("POST", UNBIND, {**JSON, **bearer(), "Transfer-Encoding": "chunked"}))
        data = b"%x\r\n%s\r\n" % (8192, b" " * 8192)
        try:
            for _ in range(16):
                connection.send(data)
            connection.send(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        response = connection.read_response()
    assert response is not None and response.status == 413


BAD_TOKENS = {
    "none": None,
    "another scheme": "Basic dXNlcjpwYXNz",
    "empty": "Bearer ",
    "no scheme": token(),
    "not a token": "Bearer abc",
    "two dots": "Bearer ..",
    "another secret": "Bearer " + token(secret="another-secret-of-the-tests-0123456789"),
    "expired": "Bearer " + token(lifetime_s=-120),
    "not yet valid": "Bearer " + token(nbf=4102444800),
    "without exp": "Bearer " + token(lifetime_s=None),
    "without sub": "Bearer " + token(sub=None),
    "empty sub": "Bearer " + token(sub=""),
    "without email": "Bearer " + token(email=None),
    "an organization without id": "Bearer " + token(organization=["alias"]),
    "a double space": "Bearer  " + token(),
    "another case": "bearer " + token(),
    "alg none": "Bearer eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + token().split(".")[1] + ".",
    "cut signature": "Bearer " + token()[:-4],
    "very long": "Bearer " + "a" * 7000,
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_unauthorized_as_legacy(gateway, name):
    headers = {} if BAD_TOKENS[name] is None else {"Authorization": BAD_TOKENS[name]}
    response = gateway.bind("GH-1", headers)
    assert response.status == 401, response
    assert response.json() == UNAUTHORIZED
    assert MESSAGES["unauthorized"] in response.body.decode()


def test_the_token_comes_before_the_schema(gateway):
    assert gateway.call("POST", UNBIND, {}, JSON).status == 401


@pytest.mark.parametrize("method, path", [
    ("GET", BIND), ("DELETE", UNBIND), ("POST", "/"), ("POST", "/api/devices/bind-qr/more"),
    ("GET", "/api/devices/%ZZ"), ("GET", "/%00"), ("GET", "/" + "a" * 6000), ("GET", "/api/../api/devices"),
    ("OPTIONS", "/nowhere"), ("PROPFIND", "/api/devices"),
])
def test_unknown_paths_without_legacy(gateway, method, path):
    response = gateway.call(method, path, None, bearer())
    assert 400 <= response.status < 500 or (method == "OPTIONS" and response.status == 204), response


def test_the_path_is_matched_as_express_does(gateway):
    for path in (BIND.upper().replace("/API", "/api"), BIND + "/", BIND + "?x=1"):
        response = post(gateway, {"qrData": {"deviceId": "GH-1", "bindingToken": "abc"}}, path)
        assert response.status == 400, (path, response)


RAW = {
    "no request": b"\r\n\r\n\r\n",
    "noise": b"\x00\x01\x02\xff\xfe" * 50 + b"\r\n\r\n",
    "tls hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 300,
    "no version": b"GET /\r\n\r\n",
    "a long header": raw_request("POST", BIND, {"X-Long": "a" * 60000}),
    "many headers": raw_request("POST", BIND, {f"X-{i}": "a" for i in range(3000)}),
    "length and chunked": raw_request("POST", UNBIND, {**JSON, "Content-Length": "5", "Transfer-Encoding": "chunked"},
                                      b"0\r\n\r\n"),
    "two lengths": b"POST " + UNBIND.encode() + b" HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a negative length": raw_request("POST", UNBIND, {**JSON, "Content-Length": "-1"}),
    "a huge length": raw_request("POST", UNBIND, {**JSON, **bearer(), "Content-Length": "99999999999999999999"}),
    "another encoding": raw_request("POST", UNBIND, {**JSON, "Transfer-Encoding": "gzip"}, b"x"),
    "a bad chunk size": raw_request("POST", UNBIND, {**JSON, "Transfer-Encoding": "chunked"}, b"zz\r\n{}\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("name", RAW)
def test_broken_http(gateway, name):
    """A clear 4xx/5xx or a closed connection, never a command and never a hang."""
    with RawConnection(gateway.address, timeout_s=20) as connection:
        try:
            connection.send(RAW[name])
            with contextlib.suppress(OSError):  # it has closed already: the answer can be read still
                connection.socket.shutdown(1)
            response = connection.read_response()
        except (BrokenPipeError, ConnectionResetError):
            response = None
    assert response is None or 400 <= response.status <= 505, response


def test_long_header_below_the_limit(gateway):
    response = gateway.bind("GH-1", {**bearer(secret="wrong" * 10), "X-Long": "a" * 5000})
    assert response.status == 401


@pytest.mark.parametrize("body", [
    b'{"qrData":{"deviceId":"first","deviceId":"%s","bindingToken":"' + QR_TOKEN.encode() + b'"}}',
    b'\xef\xbb\xbf{"qrData":{"deviceId":"%s","bindingToken":"' + QR_TOKEN.encode() + b'"}}',
    b'{"qrData":{"deviceId":"%s","bindingToken":"' + QR_TOKEN.encode() + b'","v":1e3}}',
])
def test_odd_but_accepted(gateway, device_id, body):
    """Duplicate keys (the last wins), a byte order mark, any number as version."""
    with Service(gateway.bootstrap()) as service:
        service.on(device_id, answer(bind_response))
        response = post(gateway, body % device_id.encode())
    assert response.status == 200, response
    assert response.json()["device"]["deviceId"] == device_id


@pytest.mark.parametrize("name", ["GH\x00NUL", "GH \" \\ / \b", "устройство", "\U0001f331" * 3, "a" * 5000, "\u2028"])
def test_odd_device_ids_arrive_unchanged(gateway, name):
    with Service(gateway.bootstrap()) as service:
        service.on(name, answer(bind_response))
        response = gateway.bind(name)
        assert response.status == 200, response
        assert response.json()["device"]["deviceId"] == name
        command = service.wait_command(name)
        assert command.value["payload"]["deviceId"] == name and command.key == name
