# SPDX-License-Identifier: Apache-2.0
"""The Kafka path beside the legacy path: one corpus through three gateways (flag off, `true`, `only`), each with a fresh device
service behind it. Each answer is judged by expected.py, and the answers of the three by each other: status, body with its
order of keys, headers. What may differ is written in the corpus (`only=`) and in docs/fidelity.md."""
import json
import time

import pytest

from corpus import DEVICES, Case, corpus, json_case
from device_service import DeviceService
from expected import BIND, ID, UNBIND, Legacy, normalised
from gateway import Gateway
from http_client import RawConnection, Response
from tokens import bearer, token
from wire import free_addresses

# Hop by hop, or of the message; and what docs/fidelity.md lists: X-Powered-By and ETag are Express', the last two ours.
NOT_COMPARED = {"date", "connection", "keep-alive", "content-length", "etag", "x-powered-by",
                "x-correlation-id", "access-control-expose-headers"}
JSON_TYPE, PROBLEM_TYPE = "application/json; charset=utf-8", "application/problem+json; charset=utf-8"


class Stack:
    def __init__(self, flag, **settings):
        address, = free_addresses(1)
        self.flag = flag
        kafka = {} if flag == "false" else {"KAFKA_BROKERS": "embedded"}
        self.gateway = Gateway(wait_ready=False, FEATURE_KAFKA_EVENTS=flag, LEGACY_URL="http://" + address,
                               AUTH_REQUIRE_EXP="false", **kafka, **settings)
        try:
            bootstrap = self.gateway.bootstrap() if kafka else None
            self.service = DeviceService(kafka=bootstrap, listen=address, devices=DEVICES)
            self.gateway.wait_ready()
            if kafka:
                self.gateway.wait_kafka()
        except BaseException:
            self.gateway.popen.kill()
            raise
        self.connection = None

    def send(self, case):
        """On a connection that is kept, as long as the gateway keeps it."""
        if self.connection is None:
            self.connection = RawConnection(self.gateway.address)
        self.connection.send(case.wire())
        if case.method == "HEAD":
            head = self.connection._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            headers = [tuple(part.strip() for part in line.split(":", 1)) for line in head[1:] if line]
            response = Response(int(head[0].split(" ")[1]), headers, b"")
        else:
            response = self.connection.read_response()
        assert response is not None, f"{case.name}: no answer"
        if (response.header("Connection") or "").lower() == "close":
            self.connection.close()
            self.connection = None
        return response

    def stop(self):
        if self.connection:
            self.connection.close()
        self.service.stop()
        self.gateway.stop()


@pytest.fixture(scope="module")
def answers():
    """{flag: {number of the case: answer}}, and the cases."""
    cases = list(corpus())
    found = {}
    for flag in ("false", "true", "only"):
        stack = Stack(flag)
        try:
            found[flag] = [stack.send(case) for _, case in cases]
            executions = stack.service.executions()
            found[flag + " executions"] = executions["rest"], executions["kafka"]
        finally:
            stack.stop()
    return cases, found


LISTED = ("samples", "valid", "faulty", "odd_json", "content_types", "sizes")  # with differences in `only`
GROUPS = ["samples", "valid", "faulty", "malformed", "odd_json", "content_types", "sizes", "tokens", "order_of_checks", "paths"]


def judged(response, expected, case):
    """What is wrong with the answer, or None."""
    if response.status != expected.status:
        return f"status {response.status} instead of {expected.status}: {response.body[:300]!r}"
    if response.header("Access-Control-Allow-Origin") != "*":
        return "no CORS header"
    if not response.header("X-Correlation-Id"):
        return "no X-Correlation-Id"
    if expected.body is None or case.method == "HEAD":
        return f"a body: {response.body[:100]!r}" if response.body else None
    if response.header("Content-Type") != JSON_TYPE:
        return f"content type {response.header('Content-Type')}"
    got = json.dumps(normalised(json.loads(response.body)))
    wanted = json.dumps(expected.body)
    return None if got == wanted else f"body\n      {got[:900]}\n    instead of\n      {wanted[:900]}"


@pytest.mark.parametrize("flag", ["false", "true", "only"])
@pytest.mark.parametrize("group", GROUPS)
def test_answers_are_the_contracts(answers, group, flag):
    cases, found = answers
    model, wrong, count = Legacy(DEVICES, flag), [], 0
    for number, (of, case) in enumerate(cases):
        expected = model.answer(case)
        if of != group:
            continue
        count += 1
        problem = judged(found[flag][number], expected, case)
        if problem:
            wrong.append(f"{case.name}: {problem}")
    assert count > 10
    assert not wrong, f"{len(wrong)} of {count}:\n  " + "\n  ".join(wrong[:8])


def headers_of(response):
    return sorted((name.lower(), value) for name, value in response.headers if name.lower() not in NOT_COMPARED)


@pytest.mark.parametrize("flag", ["true", "only"])
@pytest.mark.parametrize("group", GROUPS)
def test_answers_are_the_legacy_paths(answers, group, flag):
    cases, found = answers
    legacy, gateway, wrong, listed = Legacy(DEVICES, "false"), Legacy(DEVICES, flag), [], 0
    for number, (of, case) in enumerate(cases):
        wanted = legacy.answer(case), gateway.answer(case)
        if of != group:
            continue
        if (wanted[0].status, wanted[0].body) != (wanted[1].status, wanted[1].body):
            listed += 1
            continue
        off, on = found["false"][number], found[flag][number]
        same = off.status == on.status and headers_of(off) == headers_of(on)
        if off.body or on.body:
            same = same and off.body and on.body and json.dumps(normalised(off.json())) == json.dumps(normalised(on.json()))
        if not same:
            wrong.append(f"{case.name}:\n    {off} {headers_of(off)}\n    {on} {headers_of(on)}")
    assert listed == 0 or (flag, group) == ("true", "sizes") or flag == "only" and group in LISTED, listed
    assert not wrong, f"{len(wrong)}:\n  " + "\n  ".join(wrong[:8])


def test_the_kafka_path_was_taken(answers):
    _, found = answers
    (_, off), (rest_true, on), (rest_only, only) = (found[flag + " executions"] for flag in ("false", "true", "only"))
    assert not off
    assert on["commands"] == only["commands"] > 200
    assert rest_true["bind"] > 5 and rest_only == {"bind": 0, "unbind": 0}


# ---- the error profiles ----

SHORT = json_case("too short", {"qrData": {"deviceId": "GH-1", "bindingToken": "abc"}, "a/b": 1})
UNION = json_case("union", {"qrData": {"v": "x"}})
MISSING = json_case("missing", {}, UNBIND)
REFUSED = [
    (Case("bad JSON", b"{"), 400, "BAD_JSON", "Expected property name or '}' in JSON at position 1"),
    (Case("no token", b"{}", user=None), 401, "UNAUTHORIZED", "Ошибка аутентификации"),
    (Case("charset", b"{}", content_type="application/json; charset=x"), 415, "UNSUPPORTED_MEDIA_TYPE", 'unsupported charset "X"'),
    (Case("size", b" " * 102401), 413, "PAYLOAD_TOO_LARGE", "request entity too large"),
    (json_case("no command", {"qrData": {"deviceId": "GH-1", "fingerprint": "x"}}), 501, "NO_KAFKA_COMMAND",
     "This request has no Kafka command, and the legacy path is off"),
    (Case("no route", b"", path="/nowhere"), 404, "NOT_FOUND", "Cannot POST /nowhere"),
]


@pytest.fixture(scope="module", params=["nest", "problem+json"])
def profile(request):
    gateway = Gateway(KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="only", SYNCGATE_ERROR_PROFILE=request.param)
    yield request.param, gateway
    gateway.stop()


def ask(gateway, case):
    with RawConnection(gateway.address) as connection:
        connection.send(case.wire())
        return connection.read_response()


def test_profile_of_validation_errors(profile):
    name, gateway = profile
    leaves = {
        SHORT: [("qrData.bindingToken", "/qrData/bindingToken", "String must contain at least 16 character(s)"),
                ("", "", "Unrecognized key(s) in object: 'a/b'")],
        UNION: [("qrData.deviceId", "/qrData/deviceId", "Required"), ("qrData.fingerprint", "/qrData/fingerprint", "Required"),
                ("qrData.v", "/qrData/v", "Expected number, received string"),
                ("qrData.bindingToken", "/qrData/bindingToken", "Required"), ("qrData.keyHash", "/qrData/keyHash", "Required")],
        MISSING: [("deviceId", "/deviceId", "Required")],
    }
    for case, issues in leaves.items():
        response = ask(gateway, case)
        assert response.status == 400
        body = normalised(response.json())
        if name == "nest":
            assert response.header("Content-Type") == JSON_TYPE
            texts = [f"{dotted}: {text}" if dotted else text for dotted, _, text in issues]
            assert list(body.items()) == [("message", texts), ("error", "Bad Request"), ("statusCode", 400)]
        else:
            assert response.header("Content-Type") == PROBLEM_TYPE
            assert body == {"type": "about:blank", "title": "Bad Request", "status": 400, "detail": "The request is not valid",
                            "code": "VALIDATION", "errors": [{"pointer": pointer, "detail": text} for _, pointer, text in issues],
                            "correlationId": ID}


@pytest.mark.parametrize("case, status, code, text", REFUSED, ids=[entry[0].name for entry in REFUSED])
def test_profile_of_other_errors(profile, case, status, code, text):
    name, gateway = profile
    response = ask(gateway, case)
    body = normalised(response.json())
    assert response.status == status
    if name == "nest":
        assert response.header("Content-Type") == JSON_TYPE
        assert body["message"] == text and body["statusCode"] == status
    else:
        assert response.header("Content-Type") == PROBLEM_TYPE
        assert set(body) == {"type", "title", "status", "detail", "code", "correlationId"}
        assert body["status"] == status and body["detail"] == text and body["code"] == code and body["title"]
        assert response.json()["correlationId"] == response.header("X-Correlation-Id")


# ---- listed differences that are settings, or stricter than legacy ----


def test_tokens_that_only_legacy_takes():
    """AUTH_REQUIRE_EXP is on unless switched off; an organization claim is checked whole, not by its first entry."""
    gateway = Gateway(KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="only")
    try:
        for claims in ({"lifetime_s": None}, {"organization": {"a": {"id": "o"}, "b": 5}}):
            assert gateway.call("POST", UNBIND, {}, bearer(**claims)).status == 401
        assert gateway.call("POST", UNBIND, {}, bearer(exp=int(time.time()) + 60, lifetime_s=None)).status == 400
        assert token() and BIND
    finally:
        gateway.stop()
