# SPDX-License-Identifier: Apache-2.0
"""Where replies come to, and by which headers they are known: the instance's own topic or partition, header profiles."""
import json
import os
import threading

import pytest

from gateway import Gateway, copy_routes, reply_topics
from process import ROOT, eventually
from service import EVENTS, RESPONSES, Service, bind_response, bound_event, failure

OWN = "gateway-1.replies"
KAFKA = {"KAFKA_BROKERS": "embedded", "FEATURE_KAFKA_EVENTS": "only"}
EMBEDDED_PARTITIONS = 4


def routes_partitions():
    """Of the reply topics of all enabled routes."""
    return len(reply_topics(os.path.join(ROOT, "routes"))) * EMBEDDED_PARTITIONS


def make(routes=None, **settings):
    # Ready with `only` means that every reply topic is being read; how many partitions these are differs here.
    return Gateway(routes, wait_kafka=False, **{**KAFKA, **settings})


def profile(name):
    return copy_routes(lambda route: route["command"].update(headers=f"headers/{name}.json"))


class Waiting:
    """A bind that waits for its reply, and its command as the service got it."""

    def __init__(self, gateway, service, device_id):
        self.answer = None
        self.thread = threading.Thread(target=self._bind, args=(gateway, device_id), daemon=True)
        self.thread.start()
        self.command = service.wait_command(device_id)

    def _bind(self, gateway, device_id):
        self.answer = gateway.bind(device_id)

    def end(self):
        self.thread.join(20)
        assert self.answer is not None, "no answer"
        return self.answer


def raw_headers(command):
    """Values as bytes."""
    return dict(command.headers)


def expect_bound(waiting, device_id):
    answer = waiting.end()
    assert answer.status == 200 and answer.json()["device"]["deviceId"] == device_id, answer


def ids():
    number = 0
    while True:
        number += 1
        yield f"GH-own-{number}"


@pytest.fixture
def names():
    return ids()


def test_without_settings_the_address_is_the_routes(stoppable, device_id):
    gateway = stoppable(make())
    with Service(gateway.bootstrap()) as service:
        waiting = Waiting(gateway, service, device_id)
        headers = raw_headers(waiting.command)
        assert headers["kafka_replyTopic"].decode() == RESPONSES and "kafka_replyPartition" not in headers
        service.send(bind_response(waiting.command))
        expect_bound(waiting, device_id)
    assert gateway.metrics().sum("syncgate_kafka_reply_partitions") == routes_partitions()


def test_own_topic(stoppable, names):
    gateway = stoppable(make(SYNCGATE_REPLY_TOPIC=OWN))
    assert gateway.metrics().sum("syncgate_kafka_reply_partitions") == routes_partitions() + EMBEDDED_PARTITIONS
    with Service(gateway.bootstrap()) as service:
        # A reply on the own topic counts as one on the topic of the first rule. A service that does not look at the
        # address, and broadcast events, are still heard.
        for topic, reply in ((OWN, bind_response), (RESPONSES, bind_response), (EVENTS, bound_event)):
            name = next(names)
            waiting = Waiting(gateway, service, name)
            headers = raw_headers(waiting.command)
            assert headers["kafka_replyTopic"].decode() == OWN and "kafka_replyPartition" not in headers
            service.send(reply(waiting.command), topic=topic)
            expect_bound(waiting, name)
        # So does a failure, by the same rules.
        waiting = Waiting(gateway, service, next(names))
        service.send(failure(waiting.command, "ALREADY_BOUND"), topic=OWN)
        assert waiting.end().status == 409
        # It does not count as any other topic of the route: an event is expected on the events' topic.
        name = next(names)
        waiting = Waiting(gateway, service, name)
        service.send(bound_event(waiting.command), topic=OWN)
        assert gateway.wait_log("reply ignored", reason="mismatched")["topic"] == OWN
        service.send(bind_response(waiting.command), topic=OWN)
        expect_bound(waiting, name)


def test_own_topic_that_is_another_topic_of_the_route(stoppable, names):
    """It is both then."""
    gateway = stoppable(make(SYNCGATE_REPLY_TOPIC=EVENTS))
    with Service(gateway.bootstrap()) as service:
        for reply in (bind_response, bound_event):
            name = next(names)
            waiting = Waiting(gateway, service, name)
            service.send(reply(waiting.command), topic=EVENTS)
            expect_bound(waiting, name)


@pytest.mark.parametrize("topic", [RESPONSES, OWN])
def test_own_partition(stoppable, names, topic):
    gateway = stoppable(make(SYNCGATE_REPLY_TOPIC=topic, SYNCGATE_REPLY_PARTITION=2))
    whole = routes_partitions() - (EMBEDDED_PARTITIONS if topic == RESPONSES else 0)
    assert gateway.metrics().sum("syncgate_kafka_reply_partitions") == whole + 1
    with Service(gateway.bootstrap()) as service:
        name = next(names)
        waiting = Waiting(gateway, service, name)
        headers = raw_headers(waiting.command)
        assert headers["kafka_replyTopic"].decode() == topic and headers["kafka_replyPartition"] == b"2"
        records = gateway.metrics().sum("syncgate_kafka_records_total")
        for partition in (0, 1, 3):
            service.send(bind_response(waiting.command), topic=topic, partition=partition)
        service.send(bind_response(waiting.command), topic=topic, partition=2)
        expect_bound(waiting, name)
        name = next(names)
        waiting = Waiting(gateway, service, name)
        service.send(bound_event(waiting.command), topic=EVENTS, partition=1)
        expect_bound(waiting, name)
        assert gateway.metrics().sum("syncgate_kafka_records_total") == records + 2


def test_partition_that_does_not_exist(stoppable):
    gateway = stoppable(Gateway(wait_ready=False, SYNCGATE_REPLY_TOPIC=OWN,
                                SYNCGATE_REPLY_PARTITION=EMBEDDED_PARTITIONS, **KAFKA))
    line = gateway.wait_log("the reply partition of this instance does not exist")
    assert (line["topic"], line["partition"], line["partitions"]) == (OWN, EMBEDDED_PARTITIONS, EMBEDDED_PARTITIONS)
    gateway.wait_log("reading replies", topic=EVENTS)
    ready = gateway.admin_get("/health/ready")
    assert ready.status == 503 and "the reply address of this instance is not being read yet" in ready.body.decode()
    assert gateway.bind("GH-1").status == 503


def test_two_instances_share_a_partition_by_mistake(stoppable, names):
    """Each answers its own callers; the other one's replies are read and skipped."""
    own = {"SYNCGATE_REPLY_TOPIC": OWN, "SYNCGATE_REPLY_PARTITION": 1}
    first = stoppable(make(**own))
    second = stoppable(make(KAFKA_BROKERS=first.bootstrap(), KAFKA_FETCH_WAIT_MAX_MS=2,
                            KAFKA_BOOTSTRAP_SERVERS=None, **own))
    with Service(first.bootstrap()) as service:
        calls = []
        for number in range(40):
            name = next(names)
            calls.append((name, Waiting(second if number % 2 else first, service, name)))
        for _, waiting in reversed(calls):
            service.send(bind_response(waiting.command), topic=OWN, partition=1)
        for name, waiting in calls:
            expect_bound(waiting, name)
    for gateway in (first, second):
        eventually(lambda gateway=gateway: gateway.metrics().sum("syncgate_kafka_records_total") == 40, "all are read")
        metrics = gateway.metrics()
        assert metrics.sum("syncgate_replies_total", result="matched") == 20
        assert metrics.sum("syncgate_replies_total", result="unmatched") == 20
        assert metrics.sum("syncgate_replies_total", result="mismatched") == 0


def test_springs_partition(stoppable, device_id):
    """Four bytes; a service that reads them as a big-endian int answers there."""
    gateway = stoppable(make(profile("spring"), SYNCGATE_REPLY_TOPIC=OWN, SYNCGATE_REPLY_PARTITION=3))
    with Service(gateway.bootstrap()) as service:
        waiting = Waiting(gateway, service, device_id)
        headers = raw_headers(waiting.command)
        assert headers["kafka_replyPartition"] == b"\x00\x00\x00\x03"
        assert headers["kafka_correlationId"].decode() == waiting.command.id
        service.send(bind_response(waiting.command), topic=OWN,
                     partition=int.from_bytes(headers["kafka_replyPartition"], "big"),
                     headers={"kafka_correlationId": waiting.command.id})
        expect_bound(waiting, device_id)


def test_spring_without_a_partition(stoppable, device_id):
    gateway = stoppable(make(profile("spring")))
    with Service(gateway.bootstrap()) as service:
        waiting = Waiting(gateway, service, device_id)
        assert "kafka_replyPartition" not in waiting.command.headers
        service.send(bind_response(waiting.command))
        expect_bound(waiting, device_id)


def test_zillas_names(stoppable, device_id):
    gateway = stoppable(make(profile("zilla"), SYNCGATE_REPLY_TOPIC=OWN))
    with Service(gateway.bootstrap()) as service:
        waiting = Waiting(gateway, service, device_id)
        headers = raw_headers(waiting.command)
        assert headers["zilla:correlation-id"].decode() == waiting.command.id
        assert headers["zilla:reply-to"].decode() == OWN
        assert not [name for name in headers if name.startswith("kafka_") or name == "correlation-id"]
        value = bind_response(waiting.command)
        del value["correlationId"]
        # Known by the header alone.
        service.send(value, topic=OWN, headers={"zilla:correlation-id": waiting.command.id})
        expect_bound(waiting, device_id)


def test_profiles_side_by_side(stoppable, device_id):
    """The reader looks at the headers of all routes; a stranger is told apart by any of them, its body is not parsed."""

    def change(route):
        if route["operationId"] == "bindDeviceQR":
            route["command"]["headers"] = "headers/zilla.json"

    gateway = stoppable(make(copy_routes(change)))
    with Service(gateway.bootstrap()) as service:
        before = gateway.metrics()
        for name in ("zilla:correlation-id", "correlation-id", "kafka_correlationId", "correlationId"):
            service.send(b"{ not JSON", topic=RESPONSES, headers={name: "00000000-0000-4000-8000-000000000000"})
        service.send(b"{ not JSON", topic=RESPONSES, headers={"x-id": "00000000-0000-4000-8000-000000000000"})
        waiting = Waiting(gateway, service, device_id)
        value = bind_response(waiting.command)
        service.send(value, headers={"kafka_correlationId": waiting.command.id})
        expect_bound(waiting, device_id)
        eventually(lambda: gateway.metrics().sum("syncgate_kafka_records_total") == 6, "all are read")
        after = gateway.metrics()
        assert after.sum("syncgate_replies_total", result="unmatched") \
            - before.sum("syncgate_replies_total", result="unmatched") == 4
        assert after.sum("syncgate_replies_total", result="invalid") \
            - before.sum("syncgate_replies_total", result="invalid") == 1


def test_a_reload_brings_a_profile(stoppable, names):
    """Its headers are looked at as soon as its routes are used."""
    import signal

    routes = copy_routes(lambda route: None)
    gateway = stoppable(make(routes))
    path = os.path.join(routes, "bind-device-qr.json")
    with open(path, encoding="utf-8") as file:
        route = json.load(file)
    route["command"]["headers"] = "headers/zilla.json"
    with open(path, "w", encoding="utf-8") as file:
        json.dump(route, file)
    gateway.popen.send_signal(signal.SIGHUP)
    gateway.wait_log("configuration reloaded")
    with Service(gateway.bootstrap()) as service:
        def zilla_bind():
            name = next(names)
            waiting = Waiting(gateway, service, name)
            headers = raw_headers(waiting.command)
            value = bind_response(waiting.command)
            del value["correlationId"]
            known = "zilla:correlation-id" if "zilla:correlation-id" in headers else "correlation-id"
            service.send(value, headers={known: waiting.command.id})
            expect_bound(waiting, name)
            return known == "zilla:correlation-id"

        eventually(zilla_bind, "the loops use the new routes")
