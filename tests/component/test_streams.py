# SPDX-License-Identifier: Apache-2.0
"""Progress replies and server-sent events, in the real program with the embedded broker: a firmware update that is answered by
several replies."""
import json
import os
import random
import signal
import socket
import threading

import pytest

from contract import error_answer
from event_stream import EVENTS, EventStream
from gateway import Gateway, copy_routes, parse_log
from http_client import RawConnection, raw_request
from legacy_stub import LegacyStub
from process import ROOT, eventually
from service import COMMANDS, RESPONSES, Service, envelope
from tokens import bearer
from wire import Client, Nginx

TIMEOUT_MS = 4000
BODY = {"firmwareVersion": "2.1.0"}


def path(device_id):
    return f"/api/devices/{device_id}/firmware"


def ota_rule(statuses, **rest):
    return {"topic": RESPONSES, "eventType": "device.response.ota",
            "when": [{"value": "${reply.payload.status}", "in": statuses}], **rest}


def ota_route(method="POST", operation="updateFirmware"):
    return {
        "operationId": operation, "method": method, "path": "/api/devices/{deviceId}/firmware", "timeoutMs": TIMEOUT_MS,
        "command": {"topic": COMMANDS, "key": "${path.deviceId}", "eventType": "device.command.ota",
                    "envelope": "envelopes/command-v1.json",
                    "payload": {"deviceId": "${path.deviceId}", "requestedBy": "${claims.sub}",
                                "firmwareVersion": "${body.firmwareVersion}"}},
        "replies": [
            ota_rule(["started", "downloading", "installing"], terminal=False, body={
                "status": "${reply.payload.status}", "progress": "${reply.payload.progress}",
                "note": "${reply.payload.note}"}),
            ota_rule(["completed"], status=200, headers={"X-Firmware": "new"}, body={
                "deviceId": "${path.deviceId}", "status": "completed", "version": "${body.firmwareVersion}"}),
            ota_rule(["failed"], status=422, body={"message": "${reply.error.message ?? \"failed\" | string}"}),
        ]}


def ota_routes():
    """The shipped routes, and two more; returns (folder, OpenAPI document)."""
    folder = copy_routes(lambda route: route.update(timeoutMs=TIMEOUT_MS))
    with open(os.path.join(ROOT, "openapi", "openapi.json"), encoding="utf-8") as file:
        document = json.load(file)
    document["paths"]["/api/devices/{deviceId}/firmware"] = {
        "post": {"operationId": "updateFirmware", "responses": {}}, "head": {"operationId": "probeFirmware", "responses": {}}}
    for name, route in (("ota", ota_route()), ("ota-head", ota_route("HEAD", "probeFirmware"))):
        with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as file:
            json.dump(route, file)
    openapi = os.path.join(os.path.dirname(folder), "openapi.json")
    with open(openapi, "w", encoding="utf-8") as file:
        json.dump(document, file, ensure_ascii=False)
    return folder, openapi


def start(**settings):
    routes, openapi = ota_routes()
    return Gateway(routes, SYNCGATE_OPENAPI=openapi, KAFKA_BROKERS="embedded", KAFKA_MESSAGE_TIMEOUT="500ms",
                   **{"FEATURE_KAFKA_EVENTS": "only", **settings})


@pytest.fixture(scope="module")
def gateway():
    gateway = start()
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def service(gateway):
    with Service(gateway.bootstrap()) as service:
        yield service


def ota(command, status, success=True, error=None, **payload):
    value = envelope("device.response.ota", command.id, {"deviceId": command.device_id, "status": status, **payload},
                     success=success)
    return {**value, "error": error} if error else value


def reply(service, command, status, **more):
    """With the device as key: replies of one command keep their order in one partition only."""
    service.send(ota(command, status, **more), key=command.device_id)


def Stream(address, device_id, body=None, target="/api/devices/{}/firmware", **more):  # pylint: disable=invalid-name
    return EventStream(address, target.format(device_id), body or BODY, **more)


def log_of(gateway, correlation_id):
    return gateway.wait_log("exchange", correlationId=correlation_id)


def count(gateway, name, **labels):
    return gateway.metrics().sum(name, **labels)


def is_quiet(gateway):
    metrics = gateway.metrics()
    return metrics.sum("syncgate_parked_requests") == 0 and metrics.sum("syncgate_event_streams") == 0


# --- a stream --------------------------------------------------------------------------------------------------------


def test_each_reply_is_an_event_when_it_comes(gateway, service, device_id):
    before = gateway.metrics()
    with Stream(gateway.address, device_id) as stream:
        command = service.wait_command(device_id)
        assert command.value["eventType"] == "device.command.ota"
        for number, (status, more) in enumerate((("started", {}), ("downloading", {"progress": 40}),
                                                 ("downloading", {"progress": 80.5}), ("installing", {})), 1):
            reply(service, command, status, **more)
            assert stream.event() == ("progress", number, {"status": status, **more})
        assert count(gateway, "syncgate_event_streams") == 1 and count(gateway, "syncgate_parked_requests") == 1
        reply(service, command, "completed")
        assert stream.rest() == [("result", 5, {"deviceId": device_id, "status": "completed", "version": "2.1.0"})]
        answer = stream.answer
        assert answer.status == 200
        expected = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no",
                    "X-Correlation-Id": command.id, "Access-Control-Allow-Origin": "*", "Transfer-Encoding": "chunked",
                    "Access-Control-Expose-Headers": "X-Correlation-Id, Retry-After", "X-Firmware": None}
        assert {name: answer.getheader(name) for name in expected} == expected
        line = log_of(gateway, command.id)
        assert (line["path"], line["status"], line["events"], line["route"]) == ("kafka", 200, 5, "updateFirmware")
        assert 0 < line["waitMs"] < line["durationMs"] and "code" not in line and "clientGone" not in line
        after = gateway.metrics()
        for name, labels, grown in (("syncgate_replies_total", {"result": "progress"}, 4),
                                    ("syncgate_replies_total", {"result": "matched"}, 1),
                                    ("syncgate_stream_events_total", {"result": "sent"}, 5),
                                    ("syncgate_stream_events_total", {"result": "dropped"}, 0),
                                    ("syncgate_awaiter_wins_total", {"winner": "reply"}, 1),
                                    ("syncgate_requests_total", {"route": "updateFirmware", "status": "200"}, 1)):
            assert after.sum(name, **labels) - before.sum(name, **labels) == grown, name
        # The connection serves the next call.
        name = device_id + "-next"
        service.on(name, lambda service, command: reply(service, command, "completed"))
        assert [event[0] for event in Stream(None, name, connection=stream.connection).rest()] == ["result"]


def test_the_shipped_firmware_route(gateway, service, device_id):
    body = {"firmwareVersion": "2.5.0", "downloadUrl": "https://example.com/2.5.0.bin", "checksum": "sha256:00"}
    shown = {"deviceId": device_id, "targetVersion": "2.5.0"}
    with Stream(gateway.address, device_id, target="/api/devices/{}/ota", body=body) as stream:
        command = service.wait_command(device_id)
        reply(service, command, "started")
        reply(service, command, "downloading", progress=40)
        reply(service, command, "completed", currentVersion="2.5.0")
        assert stream.rest() == [
            ("progress", 1, {**shown, "status": "started"}), ("progress", 2, {**shown, "status": "downloading", "progress": 40}),
            ("result", 3, {**shown, "status": "completed", "currentVersion": "2.5.0",
                           "message": "Прошивка устройства обновлена"})]


def test_a_failure_and_duplicates_on_the_way(gateway, service, device_id):
    with Stream(gateway.address, device_id) as stream:
        command = service.wait_command(device_id)
        for _ in range(2):
            reply(service, command, "started")
        reply(service, command, "failed", success=False, error={"code": "X", "message": "no space\nleft"})
        reply(service, command, "completed")
        assert stream.rest() == [("progress", 1, {"status": "started"}), ("progress", 2, {"status": "started"}),
                                 ("error", 3, {"message": "no space\nleft"})]
    assert log_of(gateway, command.id)["events"] == 3


def test_deadline_in_mid_stream(gateway, service, device_id):
    with Stream(gateway.address, device_id) as stream:
        command = service.wait_command(device_id)
        reply(service, command, "started")
        assert stream.event()[0] == "progress"
        (event, number, body), = stream.rest()
        assert (event, number) == ("error", 2)
        assert body["code"] == "REPLY_TIMEOUT" and body["statusCode"] == 504 and body["correlationId"] == command.id
    line = log_of(gateway, command.id)
    assert line["status"] == 200 and line["code"] == "reply_timeout"
    # Progress does not move the deadline.
    assert TIMEOUT_MS - 200 < line["durationMs"] < TIMEOUT_MS + 1500
    late = count(gateway, "syncgate_replies_total", result="late")
    reply(service, command, "installing")
    eventually(lambda: count(gateway, "syncgate_replies_total", result="late") == late + 1, "it came too late")


def test_parallel_streams_are_not_crossed(gateway, service):
    rounds, order = 12, random.Random(7)
    names = [f"GH-parallel-{os.getpid()}-{number}" for number in range(24)]
    streams = [Stream(gateway.address, name) for name in names]
    commands = [service.wait_command(name) for name in names]
    sends = [(number, at) for at in range(rounds) for number in order.sample(range(len(names)), len(names))]
    received = {}

    def read(number):
        received[number] = streams[number].rest()

    readers = [threading.Thread(target=read, args=(number,), daemon=True) for number in range(len(names))]
    for reader in readers:
        reader.start()
    for number, at in sends:
        reply(service, commands[number], "downloading", progress=at, note=names[number])
    for number in order.sample(range(len(names)), len(names)):
        reply(service, commands[number], "completed")
    for reader in readers:
        reader.join(30)
    for number, name in enumerate(names):
        assert received[number] == [
            ("progress", at + 1, {"status": "downloading", "progress": at, "note": name}) for at in range(rounds)
        ] + [("result", rounds + 1, {"deviceId": name, "status": "completed", "version": "2.1.0"})]
        streams[number].connection.close()
    eventually(lambda: is_quiet(gateway), "all streams are over")


# --- clients that leave or do not read -------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves_frees_everything(gateway, service, device_id, reset):
    late = count(gateway, "syncgate_replies_total", result="late")
    with Stream(gateway.address, device_id) as stream:
        command = service.wait_command(device_id)
        reply(service, command, "started")
        assert stream.event()[0] == "progress"
        if reset:
            stream.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        stream.answer.close()
    line = log_of(gateway, command.id)
    assert line["clientGone"] is True and line["status"] == 200 and line["events"] == 1
    assert line["durationMs"] < TIMEOUT_MS - 500
    assert is_quiet(gateway)
    reply(service, command, "installing")
    reply(service, command, "completed")
    eventually(lambda: count(gateway, "syncgate_replies_total", result="late") == late + 2, "both came too late")


def test_a_slow_reader_loses_progress_but_not_the_end(gateway, service, device_id):
    note = "x" * 60000
    with Client(gateway.address, receive_buffer=4096) as client:
        body = json.dumps(BODY).encode()
        client.send(raw_request("POST", path(device_id), {"Content-Type": "application/json", **bearer(), **EVENTS,
                                                          "Connection": "close"}, body))
        command = service.wait_command(device_id)
        dropped = count(gateway, "syncgate_stream_events_total", result="dropped")
        sent = 0
        while count(gateway, "syncgate_stream_events_total", result="dropped") < dropped + 3:
            reply(service, command, "downloading", progress=sent, note=note)
            sent += 1
            assert sent < 1000
        # Nobody else waits for it.
        name = device_id + "-other"
        service.on(name, lambda service, command: reply(service, command, "completed"))
        with Stream(gateway.address, name) as other:
            assert [event[0] for event in other.rest()] == ["result"]
        reply(service, command, "completed")
        eventually(lambda: count(gateway, "syncgate_parked_requests") == 0, "its wait is over")
        answer = client.answer(b"POST")
    events = [dict(line.split(": ", 1) for line in event.split("\n")) for event in answer.body.decode().split("\n\n")[:-1]]
    assert [int(event["id"]) for event in events] == list(range(1, len(events) + 1))
    assert [event["event"] for event in events] == ["progress"] * (len(events) - 1) + ["result"]
    seen = [json.loads(event["data"])["progress"] for event in events[:-1]]
    assert seen == sorted(set(seen)) and len(seen) <= sent - 3
    assert log_of(gateway, command.id)["events"] == len(events)


# --- ordinary answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "application/json, text/event-stream;q=0.5"])
def test_a_json_client_of_the_same_route_gets_the_end_only(gateway, service, device_id, accept):
    progress = count(gateway, "syncgate_replies_total", result="progress")

    def handle(service, command):
        for status in ("started", "downloading", "installing", "completed"):
            reply(service, command, status)

    service.on(device_id, handle)
    answer = gateway.call("POST", path(device_id), BODY, {**bearer(), **({"Accept": accept} if accept else {})})
    assert answer.status == 200 and answer.header("X-Firmware") == "new"
    assert answer.header("Content-Type") == "application/json; charset=utf-8"
    assert answer.json() == {"deviceId": device_id, "status": "completed", "version": "2.1.0"}
    assert count(gateway, "syncgate_replies_total", result="progress") == progress + 3
    line = log_of(gateway, answer.header("X-Correlation-Id"))
    assert "events" not in line and line["status"] == 200


def test_what_ends_before_the_first_event_is_an_ordinary_answer(gateway, service, device_id):
    service.on(device_id, lambda service, command: reply(service, command, "failed", success=False))
    answer = gateway.call("POST", path(device_id), BODY, {**bearer(), **EVENTS})
    assert answer.status == 422 and answer.json() == {"message": "failed"}
    error_answer(504, "REPLY_TIMEOUT", gateway.call("POST", path(device_id + "-silent"), BODY, {**bearer(), **EVENTS}))
    assert gateway.call("POST", path(device_id), BODY, EVENTS).status == 401


def test_legacy_answers_as_ever(stoppable, device_id):
    legacy = LegacyStub()
    try:
        gateway = stoppable(start(FEATURE_KAFKA_EVENTS="false", LEGACY_URL=legacy.url))
        answer = gateway.call("POST", path(device_id), BODY, {**bearer(), **EVENTS})
        assert answer.status == 200 and answer.json()["legacy"] is True
    finally:
        legacy.close()


def test_http_1_0_is_not_chunked(gateway, service, device_id):
    body = json.dumps(BODY).encode()
    with Client(gateway.address) as client:
        client.send(raw_request("POST", path(device_id), {"Content-Type": "application/json", **bearer(), **EVENTS},
                                body).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        command = service.wait_command(device_id)
        reply(service, command, "started")
        reply(service, command, "completed")
        answer = client.answer(b"POST")
    assert answer.status == 200 and answer.framing == "close"
    assert answer.get(b"Transfer-Encoding") is None and answer.get(b"Content-Length") is None
    assert answer.body.decode() == (
        'event: progress\nid: 1\ndata: {"status":"started"}\n\n'
        f'event: result\nid: 2\ndata: {{"deviceId":"{device_id}","status":"completed","version":"2.1.0"}}\n\n')


def test_head_has_no_stream(gateway, service, device_id):
    def handle(service, command):
        reply(service, command, "started")
        reply(service, command, "completed")

    service.on(device_id, handle)
    answer = gateway.call("HEAD", path(device_id), None, {**bearer(), **EVENTS})
    assert answer.status == 200 and answer.body == b"" and answer.header("Content-Type") == "application/json; charset=utf-8"
    line = log_of(gateway, answer.header("X-Correlation-Id"))
    assert "events" not in line and "clientGone" not in line


# --- the process -----------------------------------------------------------------------------------------------------


def test_a_reload_in_mid_stream(stoppable, device_id):
    gateway = stoppable(start())
    folder = os.path.join(gateway._temporary, "routes")  # pylint: disable=protected-access
    with Service(gateway.bootstrap()) as service, Stream(gateway.address, device_id) as stream:
        command = service.wait_command(device_id)
        reply(service, command, "started")
        assert stream.event()[0] == "progress"
        changed = ota_route()
        changed["replies"][0]["body"] = {"new": True}
        changed["replies"][1]["body"] = {"new": True}
        with open(os.path.join(folder, "ota.json"), "w", encoding="utf-8") as file:
            json.dump(changed, file)
        gateway.signal(signal.SIGHUP)
        gateway.wait_log("configuration reloaded")
        name = device_id + "-new"
        with Stream(gateway.address, name) as second:
            other = service.wait_command(name)
            for each in (command, other):
                reply(service, each, "installing")
                reply(service, each, "completed")
            assert second.rest() == [("progress", 1, {"new": True}), ("result", 2, {"new": True})]
        assert stream.rest() == [("progress", 2, {"status": "installing"}),
                                 ("result", 3, {"deviceId": device_id, "status": "completed", "version": "2.1.0"})]


def test_sigterm_lets_a_stream_finish(stoppable, device_id):
    gateway = stoppable(start())
    with Service(gateway.bootstrap()) as service, Stream(gateway.address, device_id) as stream:
        command = service.wait_command(device_id)
        reply(service, command, "started")
        assert stream.event()[0] == "progress"
        gateway.signal(signal.SIGTERM)
        gateway.wait_log("draining")
        for status in ("installing", "completed"):
            reply(service, command, status)
        assert [event[0] for event in stream.rest()] == ["progress", "result"]
        assert gateway.wait_exit() == 0
    gateway.stop()


def test_sigterm_is_bounded_for_a_stream(stoppable, device_id):
    gateway = stoppable(start(SHUTDOWN_TIMEOUT="300ms"))
    with Service(gateway.bootstrap()) as service, Stream(gateway.address, device_id) as stream:
        command = service.wait_command(device_id)
        reply(service, command, "started")
        assert stream.event()[0] == "progress"
        gateway.signal(signal.SIGTERM)
        (event, number, body), = stream.rest()
        assert (event, number, body["code"], body["correlationId"]) == ("error", 2, "SHUTTING_DOWN", command.id)
        assert gateway.wait_exit() == 0
    line = next(entry for entry in map(parse_log, gateway.stderr.all) if entry.get("correlationId") == command.id)
    assert line["events"] == 2 and line["code"] == "abandoned"
    gateway.stop()


def test_a_proxy_that_buffers_passes_events_on_at_once(gateway, service, device_id, stoppable):
    nginx = stoppable(Nginx(gateway.address))
    with Stream(nginx.buffered, device_id) as stream:
        command = service.wait_command(device_id)
        for number, status in enumerate(("started", "downloading", "installing"), 1):
            reply(service, command, status)
            assert stream.event() == ("progress", number, {"status": status})
        reply(service, command, "completed")
        assert [event[0] for event in stream.rest()] == ["result"]


def test_many_streams_that_end_in_every_way(gateway, service):
    """Whatever happens to them, nothing is left."""
    order = random.Random(11)
    for number in range(40):
        name = f"GH-ways-{os.getpid()}-{number}"
        with Stream(gateway.address, name) as stream:
            command = service.wait_command(name)
            for _ in range(order.randrange(4)):
                reply(service, command, "downloading")
            if order.random() < 0.5:
                reply(service, command, order.choice(("completed", "failed")))
                stream.answer.read()
    eventually(lambda: is_quiet(gateway), "all streams are over")
    with RawConnection(gateway.address) as connection:
        connection.send(raw_request("GET", "/", {}))
        assert connection.read_response().status == 404
