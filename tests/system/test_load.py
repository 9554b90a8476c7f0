# SPDX-License-Identifier: Apache-2.0
"""10 000 requests from 200 connections: none lost, none answered with another one's answer."""
import asyncio
import json

from device_service import DeviceService
from gateway import BIND, QR_TOKEN, UNBIND, Gateway
from http_client import raw_request, split_address
from tokens import USER, bearer

CONNECTIONS, ROUNDS = 200, 25
HEADERS = {"Content-Type": "application/json", **bearer()}


def post(path, body):
    return raw_request("POST", path, HEADERS, json.dumps(body).encode())


def bind(name):
    return post(BIND, {"qrData": {"deviceId": name, "bindingToken": QR_TOKEN}})


async def read_answer(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split(" ")[1]), headers, json.loads(body)


async def one_client(address, number, seen):
    reader, writer = await asyncio.open_connection(*split_address(address))
    for turn in range(ROUNDS):
        name = f"GH-{number * ROUNDS + turn + 1}"
        writer.write(bind(name))
        status, headers, body = await read_answer(reader)
        assert status == 200 and body["device"]["deviceId"] == name and body["device"]["userId"] == USER, (name, status, body)
        seen.append(headers["x-correlation-id"])
        unknown, missing = turn % 5 == 4, f"GH-missing-{number}-{turn}"
        writer.write(post(UNBIND, {"deviceId": missing if unknown else name}))
        status, headers, body = await read_answer(reader)
        if unknown:
            assert status == 404, (missing, status, body)
        else:
            assert status == 200 and body["deviceId"] == name, (name, status, body)
        seen.append(headers["x-correlation-id"])
    writer.close()


async def all_clients(address, seen):
    await asyncio.gather(*(one_client(address, number, seen) for number in range(CONNECTIONS)))


def test_ten_thousand_requests_from_two_hundred_connections(kafka, stoppable):
    device = stoppable(DeviceService(kafka.bootstrap, devices=CONNECTIONS * ROUNDS))
    gateway = stoppable(Gateway(KAFKA_BROKERS=kafka.bootstrap, FEATURE_KAFKA_EVENTS="only"))
    seen = []
    asyncio.run(asyncio.wait_for(all_clients(gateway.address, seen), 120))
    assert len(seen) == CONNECTIONS * ROUNDS * 2 == 10000
    counts = device.executions()
    assert counts["rest"] == {"bind": 0, "unbind": 0}
    assert counts["kafka"]["byCorrelationId"] == {correlation_id: 1 for correlation_id in seen}
    assert counts["kafka"]["redelivered"] == 0
    metrics = gateway.metrics()
    assert metrics.sum("syncgate_requests_total", path="kafka") == 10000
    assert metrics.sum("syncgate_awaiter_wins_total", winner="reply") == 10000
    assert metrics.sum("syncgate_parked_requests") == 0
    assert metrics.sum("syncgate_replies_total", result="mismatched") == 0
