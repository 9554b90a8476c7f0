# SPDX-License-Identifier: Apache-2.0
"""A service behind Kafka, played by the test: it sees each command as it is on the wire and answers what the test says,
so late, duplicate, foreign and malformed replies can be produced on purpose."""
import json
import threading
import time
import uuid

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from process import PATIENCE_S

COMMANDS, RESPONSES, EVENTS = "device.commands.v1", "device.commands.responses.v1", "device.events.v1"
FAMILIES = ("device", "user", "organization", "certificate")
ALL_COMMANDS = tuple(f"{family}.commands.v1" for family in FAMILIES)
MQTT_EVENTS, TELEMETRY, USER_EVENTS = "mqtt.events.v1", "device.telemetry.v1", "user-events"  # one-way routes
# What the routes that are shipped and enabled need: in `only` the gateway is ready when they are there.
TOPICS = tuple(f"{family}.{kind}.v1" for family in FAMILIES for kind in ("commands", "commands.responses", "events")) + (
    MQTT_EVENTS, TELEMETRY, USER_EVENTS)
# The embedded broker's Fetch is no long poll: an empty one takes the whole fetch.wait.max.ms.
CLIENT = {"fetch.wait.max.ms": 5, "socket.nagle.disable": True, "reconnect.backoff.max.ms": 500,
          "topic.metadata.refresh.interval.ms": 2000, "log_level": 0}


class Command:
    def __init__(self, message):
        self.topic, self.partition = message.topic(), message.partition()
        self.key = message.key().decode() if message.key() is not None else None
        self.raw = message.value()
        self.value = json.loads(self.raw)
        self.headers = dict(message.headers() or [])
        self.id = self.value["correlationId"]
        payload = self.value["payload"]
        self.device_id = payload.get("deviceId", self.key)  # commands of other families: what they are keyed by
        self.user = payload.get("userId", payload.get("requestedBy"))


def now_text(offset_ms=0):
    ms = int(time.time() * 1000) + offset_ms
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + ".%03dZ" % (ms % 1000)


def envelope(event_type, correlation_id, payload, **more):
    return {"eventType": event_type, "correlationId": correlation_id, "timestamp": now_text(),
            "source": {"type": "backend", "id": "device-service"}, "__version": "v1", "payload": payload, **more}


def bind_response(command, success=True, **payload):
    return envelope("device.response.bind", command.id,
                    {"deviceId": command.device_id, "userId": command.user, "boundAt": now_text(), **payload},
                    success=success)


def failure(command, code, message="text of the service", operation="bind", **more):
    return {**envelope(f"device.response.{operation}", command.id, {"deviceId": command.device_id}),
            "success": False, "error": {"code": code, "message": message}, **more}


def bound_event(command, correlation_id=None, **payload):
    return envelope("device.bound", correlation_id or command.id, {
        "deviceId": command.device_id, "userId": command.user, "boundAt": now_text(), "boundBy": "user", **payload})


def unbound_event(command, correlation_id=None, **payload):
    return envelope("device.unbound", correlation_id or command.id, {
        "deviceId": command.device_id, "previousUserId": command.user, "unboundAt": now_text(),
        "unboundBy": "user", **payload})


def reply_headers(value):
    """As a service that echoes what it was sent."""
    return {"content-type": "application/json", "event-type": value["eventType"],
            "correlation-id": value["correlationId"], "kafka_correlationId": value["correlationId"]}


class Service:
    """Reads commands from the end of the topics on a thread of its own. on(device_id, handler): handler(service, command)
    is called for each command of that device; default(service, command) for the others, if there is one."""

    def __init__(self, bootstrap, default=None, topics=(COMMANDS,)):
        self.default, self.topics = default, topics
        self.commands = []
        self.changed = threading.Condition()
        self.handlers = {}
        self.errors = []
        self._stop = False
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "log_level": 0,
                                   "socket.nagle.disable": True})
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test-" + uuid.uuid4().hex,
                                   "enable.auto.commit": False, **CLIENT})
        self._assign_at_end()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _assign_at_end(self):
        """Absolute offsets, so that a command produced before the first fetch is seen as well."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                places = self._ends()
                break
            except KafkaException as error:  # no such topic yet, or a broker that does not know yet that it leads
                if time.monotonic() > deadline:
                    raise AssertionError(f"no end of topics {self.topics}: {error}") from error
            time.sleep(0.02)
        self._consumer.assign(places)

    def _ends(self):
        return [place for name in self.topics for place in self._ends_of(name)]

    def _ends_of(self, name):
        topic = self._consumer.list_topics(name, timeout=10).topics[name]
        if topic.error is not None or not topic.partitions:
            raise KafkaException(topic.error)
        return [TopicPartition(name, partition,
                               self._consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=10)[1])
                for partition in topic.partitions]

    def _run(self):
        while not self._stop:
            message = self._consumer.poll(0.05)
            if message is None or message.error():
                continue
            try:
                command = Command(message)
                handler = self.handlers.get(command.device_id, self.default)
                if handler:
                    handler(self, command)
            except Exception as error:  # pylint: disable=broad-except # reported by close()
                self.errors.append(error)
                continue
            with self.changed:
                self.commands.append(command)
                self.changed.notify_all()

    def on(self, device_id, handler):
        self.handlers[device_id] = handler

    def wait_command(self, device_id, timeout_s=PATIENCE_S):
        deadline = time.monotonic() + timeout_s
        with self.changed:
            while True:
                for command in self.commands:
                    if command.device_id == device_id:
                        return command
                left = deadline - time.monotonic()
                assert left > 0, f"no command for {device_id}"
                self.changed.wait(left)

    def commands_of(self, device_id):
        with self.changed:
            return [command for command in self.commands if command.device_id == device_id]

    def send(self, value, topic=None, headers=None, key=None, partition=-1):
        """Produces and waits until it is in the topic. value: bytes, or a message; headers None: those of a good service."""
        if topic is None:
            kind = "commands.responses" if ".response." in value["eventType"] else "events"
            topic = f"{value['eventType'].split('.')[0]}.{kind}.v1"
        if headers is None:
            headers = reply_headers(value)
        raw = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
        outcome = []
        self._producer.produce(topic, raw, key=key, partition=partition, headers=list(headers.items()) or None,
                               on_delivery=lambda error, _: outcome.append(error))
        deadline = time.monotonic() + PATIENCE_S
        while not outcome and time.monotonic() < deadline:
            self._producer.poll(0.05)
        if not outcome or outcome[0] is not None:
            raise KafkaException(outcome[0] if outcome else "no delivery report")

    def post(self, value):
        """Produces a response and waits for nothing: the brokers may be away."""
        self._producer.produce(RESPONSES, json.dumps(value).encode(), headers=list(reply_headers(value).items()))
        self._producer.poll(0)

    def close(self):
        self._stop = True
        self._thread.join(10)
        self._consumer.close()
        assert not self.errors, self.errors


def answer(make, **send_options):
    """A handler that sends make(command)."""
    return lambda service, command: service.send(make(command), **send_options)
