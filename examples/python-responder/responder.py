#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Answers device.command.bind with confluent-kafka. KAFKA_BROKERS and KAFKA_GROUP come from the environment."""
import json
import os
import signal
import sys
import threading
import time
from collections import OrderedDict
from datetime import datetime, timezone

from confluent_kafka import Consumer, Producer

COMMANDS, RESPONSES = "device.commands.v1", "device.commands.responses.v1"
ECHOED = ("correlation-id", "kafka_correlationId", "traceparent")
MESSAGES = {"DEVICE_NOT_FOUND": "There is no such device", "ALREADY_BOUND": "The device is already bound",
            "EXECUTION_FAILED": "The device could not be bound"}

owners = {}
executed = OrderedDict()  # replies by correlation id: Kafka may deliver a command again; a real service keeps them with its data


def now():
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def bind(device_id, user_id):
    """The payload of success, or the code of a failure."""
    if device_id.startswith("BROKEN-"):
        raise RuntimeError("the database is away")  # on purpose, to be seen
    if not device_id.startswith("GH-"):
        return None, "DEVICE_NOT_FOUND"
    if device_id in owners:
        return None, "ALREADY_BOUND"
    owners[device_id] = user_id
    return {"deviceId": device_id, "userId": user_id, "boundAt": now()}, None


def execute(command):
    payload, code = None, "EXECUTION_FAILED"
    try:
        payload, code = bind(command["payload"]["deviceId"], command["payload"]["userId"])
    except Exception as error:  # a failure is an answer, too: silence would cost the caller the whole timeout
        print(f"{command['correlationId']}: {error!r}", file=sys.stderr, flush=True)
    reply = {"eventType": "device.response.bind", "correlationId": command["correlationId"], "timestamp": now(),
             "source": {"type": "backend", "id": "python-responder"}, "__version": "v1", "success": code is None,
             "payload": payload or {"deviceId": command["payload"]["deviceId"]}}
    if code:
        reply["error"] = {"code": code, "message": MESSAGES[code]}
    return reply


def handle(message, producer):
    headers = {name: value for name, value in message.headers() or [] if value is not None}
    if float(headers.get("deadline", "inf")) < time.time() * 1000:
        return  # its caller has been told 504
    command = json.loads(message.value())
    if command.get("eventType") != "device.command.bind":
        return
    key = command["correlationId"]
    if key not in executed:
        executed[key] = execute(command)
        if len(executed) > 100_000:
            executed.popitem(last=False)
    # A header that the command has is copied as the bytes it is.
    producer.produce(headers.get("kafka_replyTopic", RESPONSES.encode()).decode(), json.dumps(executed[key]),
                     key=message.key(), partition=reply_partition(headers.get("kafka_replyPartition")),
                     headers=[(name, headers[name]) for name in ECHOED if name in headers])


def reply_partition(value):
    """-1: any. NestJS writes decimal text, Spring four big-endian bytes."""
    if not value:
        return -1
    return int(value) if value.isdigit() else int.from_bytes(value, "big")


def main():
    brokers = os.environ.get("KAFKA_BROKERS", "127.0.0.1:9092")
    # linger: a reply is not delayed in the hope for another one.
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 0})
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": os.environ.get("KAFKA_GROUP", "python-responder"),
                         "auto.offset.reset": "earliest", "enable.auto.offset.store": False})
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    consumer.subscribe([COMMANDS], on_assign=lambda *_: print("ready", flush=True))
    try:
        while not stop.is_set():
            message = consumer.poll(0.1)
            producer.poll(0)
            if message is None:
                continue
            if message.error():
                print(message.error(), file=sys.stderr, flush=True)
                continue
            try:
                handle(message, producer)
            except Exception as error:  # not a command, and nobody who could be answered
                print(f"offset {message.offset()} skipped: {error!r}", file=sys.stderr, flush=True)
            consumer.store_offsets(message)
    finally:
        producer.flush(5)
        consumer.close()


if __name__ == "__main__":
    main()
