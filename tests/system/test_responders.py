# SPDX-License-Identifier: Apache-2.0
"""Responders as they are: the NestJS, Spring and Python services of examples/ answer the shipped bind-qr route over Apache
Kafka. What each puts on the wire is compared field by field, so that docs/services.md stays true."""
import json
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Consumer, Producer

from contract import DATE_TIME, MESSAGES
from gateway import QR_TOKEN, Gateway
from process import PATIENCE_S
from responders import RESPONDERS, Responder, ends
from service import COMMANDS, RESPONSES, Service, envelope, now_text, unbound_event
from tokens import USER

pytestmark = pytest.mark.xdist_group("responders")  # one process runs the three services
PARALLEL = 50
# Far from the route's timeout of 30 s: whoever answers later than this has not answered.
SOON_S = 10
ERROR_500 = {"statusCode": 500, "message": "Internal server error"}


class Replies:
    """Every record of the response topic, as it is on the wire."""

    def __init__(self, bootstrap):
        self.records = []
        self.changed = threading.Condition()
        self._stop = False
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test-" + uuid.uuid4().hex,
                                   "enable.auto.commit": False, "fetch.wait.max.ms": 20, "log_level": 0})
        self._consumer.assign(ends(self._consumer, RESPONSES))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stop:
            message = self._consumer.poll(0.05)
            if message is None or message.error():
                continue
            with self.changed:
                self.records.append(message)
                self.changed.notify_all()

    def seen(self, correlation_id):
        return [record for record in self.records
                if dict(record.headers() or []).get("kafka_correlationId") == correlation_id.encode()]

    def of(self, correlation_id, count=1):
        """The first replies to this command."""
        deadline = time.monotonic() + PATIENCE_S
        with self.changed:
            while True:
                found = self.seen(correlation_id)
                if len(found) >= count:
                    return found[:count]
                left = deadline - time.monotonic()
                assert left > 0, f"{len(found)} replies to {correlation_id}, not {count}"
                self.changed.wait(left)

    def close(self):
        self._stop = True
        self._thread.join(10)
        self._consumer.close()


@pytest.fixture(scope="module")
def gateway(kafka):
    gateway = Gateway(KAFKA_BROKERS=kafka.bootstrap, FEATURE_KAFKA_EVENTS="only")
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def replies(kafka):
    replies = Replies(kafka.bootstrap)
    yield replies
    replies.close()


@pytest.fixture(scope="module", params=RESPONDERS)
def responder(request, kafka):
    """Its name; the process runs, and no other one answers."""
    process = Responder(request.param, kafka.bootstrap)
    yield request.param
    process.stop(expect=None)  # NestJS and the JVM end with the signal's status


def post_commands(bootstrap, device_id, correlation_id, partitions, deadline_ms, **headers):
    """The same command once in each of these partitions, as a caller of its own."""
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    value = envelope("device.command.bind", correlation_id,
                     {"deviceId": device_id, "userId": USER, "bindingToken": QR_TOKEN}, timeout=30000, responseRequired=True)
    for partition in partitions:
        producer.produce(COMMANDS, json.dumps(value), key=device_id, partition=partition, headers=[
            ("correlation-id", correlation_id), ("kafka_correlationId", correlation_id), ("kafka_replyTopic", RESPONSES),
            ("deadline", str(deadline_ms)), *headers.items()])
    assert producer.flush(PATIENCE_S) == 0


def post_garbage(bootstrap):
    """In every partition: no command, with and without a reply address."""
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    values = [None, b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"{}", b'{"eventType":"device.command.bind"}',
              b'{"eventType":"device.command.bind","correlationId":"x","payload":7}']
    for partition in range(3):
        for value in values:
            for headers in (None, [("deadline", b"soon")], [("kafka_correlationId", str(uuid.uuid4())),
                                                            ("kafka_replyTopic", RESPONSES)]):
                producer.produce(COMMANDS, value, partition=partition, headers=headers)
    assert producer.flush(PATIENCE_S) == 0


def soon_ms(seconds=30):
    return int((time.time() + seconds) * 1000)


def test_bind_and_its_failures(gateway, responder, device_id):
    bound = gateway.bind(device_id)
    assert bound.status == 200, bound
    bound_at = bound.json()["device"]["boundAt"]
    assert DATE_TIME.match(bound_at) and now_text(-60000) < bound_at <= now_text(1000)
    assert bound.json() == {"message": MESSAGES["bound"], "device": {
        "deviceId": device_id, "userId": USER, "boundAt": bound_at, "status": "bound"}}
    again = gateway.bind(device_id)
    assert (again.status, again.json()) == (409, {"message": MESSAGES["already bound"], "code": "ALREADY_BOUND"})
    unknown = gateway.bind("unknown-" + device_id)
    assert (unknown.status, unknown.json()) == (404, {"message": MESSAGES["not found"]})


def test_none_is_crossed(gateway, responder, device_id):
    names = [f"{device_id}-{number}" for number in range(PARALLEL)]
    with ThreadPoolExecutor(PARALLEL) as pool:
        answers = list(pool.map(gateway.bind, names))
    assert [(answer.status, answer.json().get("device", {}).get("deviceId")) for answer in answers] == [
        (200, name) for name in names]
    assert len({answer.header("X-Correlation-Id") for answer in answers}) == PARALLEL


THROWN = {
    "nestjs": (500, ERROR_500),
    "spring": (400, {"message": "The device could not be bound"}),
    "python": (400, {"message": "The device could not be bound"}),
}


def test_what_a_handler_throws_is_answered_soon(gateway, responder, device_id):
    started = time.monotonic()
    answer = gateway.bind("BROKEN-" + device_id)
    assert (answer.status, answer.json()) == THROWN[responder]
    assert time.monotonic() - started < SOON_S
    assert gateway.bind(device_id).status == 200  # and the next command is served


HEADERS = {
    "nestjs": {"kafka_correlationId", "kafka_nest-is-disposed"},
    "spring": {"kafka_correlationId", "__TypeId__", "__KeyTypeId__", "__ContentTypeId__"},
    "python": {"kafka_correlationId", "correlation-id", "traceparent"},
}


def test_what_is_on_the_wire(gateway, replies, responder, device_id):
    [reply] = replies.of(gateway.bind(device_id).header("X-Correlation-Id"))
    assert set(dict(reply.headers())) == HEADERS[responder]
    assert reply.key() == (None if responder == "nestjs" else device_id.encode())
    assert json.loads(reply.value())["payload"]["deviceId"] == device_id
    [thrown] = replies.of(gateway.bind("BROKEN-" + device_id).header("X-Correlation-Id"))
    if responder != "nestjs":
        assert json.loads(thrown.value())["error"]["code"] == "EXECUTION_FAILED"
        return
    headers = dict(thrown.headers())
    assert set(headers) == HEADERS[responder] | {"kafka_nest-err"} and thrown.value() is None
    assert headers["kafka_nest-is-disposed"] == b"\0"
    error = json.loads(headers["kafka_nest-err"])
    assert error["status"] == "error" and error["message"] == "Internal server error"


def test_a_command_is_executed_once(kafka, replies, responder, device_id):
    correlation_id = str(uuid.uuid4())
    post_commands(kafka.bootstrap, device_id, correlation_id, [0, 0], soon_ms())
    assert [json.loads(reply.value())["success"] for reply in replies.of(correlation_id, 2)] == [True, True]


def test_what_is_too_late_is_not_executed(kafka, gateway, responder, device_id):
    """It stands before the living one, in whichever partition that is."""
    post_commands(kafka.bootstrap, device_id, str(uuid.uuid4()), range(3), soon_ms(-1))
    assert gateway.bind(device_id).status == 200


def test_what_is_not_a_command_stops_nobody(kafka, gateway, responder, device_id):
    post_garbage(kafka.bootstrap)
    assert gateway.bind(device_id).status == 200


# In which form each understands kafka_replyPartition; there is none that all do.
PARTITION_FORMS = {"nestjs": [b"2"], "spring": [b"\0\0\0\2"], "python": [b"2", b"\0\0\0\2"]}


def test_the_reply_partition(kafka, replies, responder, device_id):
    for number, form in enumerate(PARTITION_FORMS[responder] * 3):
        correlation_id = str(uuid.uuid4())
        post_commands(kafka.bootstrap, f"{device_id}-{number}", correlation_id, [0], soon_ms(), kafka_replyPartition=form)
        assert replies.of(correlation_id)[0].partition() == 2


def test_another_reply_partition_is_executed_without_a_reply(kafka, gateway, replies, responder, device_id):
    for form in {b"2", b"\0\0\0\2"} - set(PARTITION_FORMS[responder]):
        correlation_id = str(uuid.uuid4())
        post_commands(kafka.bootstrap, device_id, correlation_id, range(3), soon_ms(), kafka_replyPartition=form)
        assert gateway.bind(device_id).status == 409
        assert not replies.seen(correlation_id)


def test_a_command_that_it_does_not_know(kafka, gateway, replies, responder, device_id):
    """Another service on the same topic answers it. NestJS sends a record without a body before that."""

    def answer(service, command):
        if responder == "nestjs":
            [empty] = replies.of(command.id)
            assert empty.value() is None and set(dict(empty.headers())) == HEADERS["nestjs"]
        service.send(unbound_event(command))

    with Service(kafka.bootstrap) as service:
        service.on(device_id, answer)
        assert gateway.unbind(device_id).json() == {"message": MESSAGES["unbound"], "deviceId": device_id}
