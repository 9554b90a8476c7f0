# SPDX-License-Identifier: Apache-2.0
"""One-way calls when the broker fails: answered 202 when the event is in Kafka, never before; written at most once; given to
legacy only when it is certainly not in Kafka; and told at once when nobody can say, since no reply will. How the table is
carried out: tests/lib/fault_matrix.py. One broker, real; what fails is the wire to it."""
import dataclasses
import json

import pytest

from broker import KafkaCluster
from fault_matrix import (AT_ONCE_S, MESSAGE_TIMEOUT_S, NOT_PERSISTED_S, SCAN_S, SLACK_S, TIMEOUT_S, Expect, Lane, Row,
                          World, cells_of, new_device)
from http_client import RawConnection, raw_request
from kafka_proxy import (MESSAGE_TOO_LARGE, NOT_ENOUGH_REPLICAS, NOT_ENOUGH_REPLICAS_AFTER_APPEND, NOT_LEADER, PRODUCE,
                         REQUEST_TIMED_OUT, TOPIC_AUTHORIZATION_FAILED, UNKNOWN)
from process import eventually
from service import MQTT_EVENTS, TOPICS, Service
from tokens import USER, bearer

PATH = "/api/webhooks/mqtt/messages"
ABSENT = "absent.events.v1"
LANES = {"usual": {}, "idempotent": {"KAFKA_ENABLE_IDEMPOTENCE": "true"}, "no topic": {"topic": ABSENT, "missing": True},
         "no legacy": {"legacy_down": True}}

ACCEPTED = Expect(202, "kafka", commands=1, uncertain=False)


def unknown(commands, within_s=NOT_PERSISTED_S, least_s=0.0):
    """Told at once: sooner than at the route's time, when a report says so."""
    assert within_s < TIMEOUT_S
    return Expect(504, "kafka", commands=commands, code="REPLY_TIMEOUT", uncertain=True, within_s=within_s, least_s=least_s)


def certain(reason, within_s=AT_ONCE_S):
    return {"true": Expect(200, "legacy", legacy=1, fallback=reason, within_s=within_s),
            "only": Expect(503, "kafka", code="KAFKA_UNAVAILABLE", fallback=reason, within_s=within_s)}


def both(expect):
    return {"true": expect, "only": expect}


def body(device):
    return {"topic": f"users/{USER}/devices/{device}/status", "payload": "on", "qos": 1, "clientid": "c"}


def admin():
    return bearer(realm_access={"roles": ["admin"]})


def send(lane, device):
    return lane.gateway.call("POST", PATH, body(device), admin())


def client(lane, device):
    text = json.dumps(body(device)).encode()
    connection = RawConnection(lane.gateway.address)
    connection.send(raw_request("POST", PATH, {
        "Content-Type": "application/json", "Content-Length": str(len(text)), **admin()}) + text)
    return connection


# --- what breaks ---


def on_produce(**actions):
    return lambda lane, device: lane.proxy.on(PRODUCE, device.encode(), **actions)


def broker_down(lane, _):
    lane.proxy.down()
    eventually(lambda: lane.metric("syncgate_kafka_reachable") == 0, "the gateway knows that the broker is gone")


def gone_before_the_report(lane, device):
    """The Produce is on its way, nothing has come back; the event is written all the same."""
    rule = lane.proxy.on(PRODUCE, device.encode(), response_delay_s=0.5)
    with client(lane, device):
        rule.wait_hit()


def gone_before_not_persisted(lane, device):
    """The report comes when nobody is there any more, and legacy has nothing to do."""
    rule = lane.proxy.on(PRODUCE, device.encode(), error=NOT_LEADER)
    with client(lane, device):
        rule.wait_hit()


def nobody_waits(lane, _):
    eventually(lambda: lane.metric("syncgate_kafka_producer_queue_messages") == 0, "librdkafka holds nothing", 10)
    assert lane.metric("syncgate_parked_requests") == 0 and lane.metric("syncgate_active_requests") == 0


ROWS = [
    Row("none", "ever", {**both(ACCEPTED), "false": Expect(200, "legacy", legacy=1)}),

    # Certainly not written.
    Row("broker down", "before the call", certain("unreachable"), broker_down),
    Row("broker down", "as the call comes", certain({"unreachable", "not_persisted"}, NOT_PERSISTED_S),
        lambda lane, _: lane.proxy.down()),
    Row("topic missing", "before the call", certain("no_topic"), lane="no topic"),
    Row("topic authorization", "refused", certain("not_persisted"), on_produce(error=TOPIC_AUTHORIZATION_FAILED, times=1)),
    Row("too large", "said by the broker", certain("too_large"), on_produce(error=MESSAGE_TOO_LARGE)),
    Row("legacy down", "broker down, too", {"true": Expect(502, "legacy", code="LEGACY_UNREACHABLE",
                                                         fallback="unreachable")}, broker_down, lane="no legacy"),

    # Refused once, and taken then.
    Row("not leader", "once", both(ACCEPTED), on_produce(error=NOT_LEADER, times=1)),

    # Nobody can say. It was not written,
    Row("request lost", "before append", both(unknown(0, least_s=MESSAGE_TIMEOUT_S - 0.5)), on_produce(drop_request=True)),
    Row("connection cut", "before append", both(unknown(0)), on_produce(cut="before")),
    Row("unknown error", "before append", both(unknown(0)), on_produce(error=UNKNOWN)),
    Row("not leader", "always", both(unknown(0)), on_produce(error=NOT_LEADER)),
    # or it was.
    Row("ack lost", "after append", both(unknown(1, least_s=MESSAGE_TIMEOUT_S - 0.5)), on_produce(drop_response=True)),
    Row("connection cut", "after append", both(unknown(1)), on_produce(cut="after")),
    Row("broker down", "after append", both(unknown(1)),
        lambda lane, device: lane.proxy.on(PRODUCE, device.encode(), then=lane.proxy.down)),
    Row("request timed out", "after append", both(unknown(1)), on_produce(error=REQUEST_TIMED_OUT, forward=True)),
    Row("not enough replicas", "after append", both(unknown(1)),
        on_produce(error=NOT_ENOUGH_REPLICAS_AFTER_APPEND, forward=True)),
    Row("legacy down", "ack lost", {"true": unknown(1)}, on_produce(drop_response=True), lane="no legacy"),

    # Slow: the answer waits for the acknowledgement.
    Row("broker slow", "ack within the message timeout", both(dataclasses.replace(
        ACCEPTED, least_s=0.4, within_s=0.4 + SLACK_S)), on_produce(response_delay_s=0.4)),
    Row("broker slow", "ack after the message timeout", both(unknown(1)),
        on_produce(response_delay_s=MESSAGE_TIMEOUT_S + SCAN_S + 0.7)),
    Row("broker silent", "until after the answer", both(unknown(1)), lambda lane, _: lane.proxy.silence()),

    # The client goes away.
    Row("client gone", "before the report", both(Expect(499, "kafka", commands=1)), act=gone_before_the_report,
        after=nobody_waits),
    Row("client gone", "before a refusal is final", both(Expect(499, "kafka")), act=gone_before_not_persisted,
        after=nobody_waits),
]
ROWS = [row if row.act else dataclasses.replace(row, act=send) for row in ROWS]
# With idempotence librdkafka sends again what failed, until the message's time is over, and one copy is there. For an answer
# that never comes it waits longer than that.
AGAIN = [
    Row("ack lost", "once", both(unknown(1)), on_produce(drop_response=True, times=1), act=send, lane="idempotent"),
    Row("connection cut", "once, after append", both(ACCEPTED), on_produce(cut="after", times=1), act=send, lane="idempotent"),
    Row("not enough replicas", "once", both(ACCEPTED), on_produce(error=NOT_ENOUGH_REPLICAS, times=1), act=send,
        lane="idempotent"),
    Row("not enough replicas", "once", certain("not_persisted"), on_produce(error=NOT_ENOUGH_REPLICAS, times=1), act=send),
]


class EventLane(Lane):
    """Looks at the topic of the events, too: a broker's refusal makes librdkafka doubt the topic for a while."""

    def recover(self):
        super().recover()
        if self.reaches_kafka:
            eventually(self.writes, "events are written again")

    def writes(self):
        answer = send(self, new_device())
        self.gateway.wait_log("exchange", correlationId=answer.header("X-Correlation-Id"))
        return answer.status == 202


class EventWorld(World):
    lane_class = EventLane


@pytest.fixture(scope="module")
def world(request):
    cells = [item.callspec.params["cell"] for item in request.session.items
             if item.module is request.module and "cell" in getattr(item, "fixturenames", ())]
    with KafkaCluster() as cluster:
        cluster.create_topics(*TOPICS)
        with Service(cluster.bootstrap) as service:
            running = EventWorld(cluster, service, LANES, [MQTT_EVENTS], cells, {("usual", "true"): 3, ("usual", "only"): 3})
            yield running
            running.close()


@pytest.mark.parametrize("cell", [pytest.param(cell, id=str(cell)) for cell in cells_of(ROWS + AGAIN)])
def test_at_most_once(world, cell):
    world.outcome(cell)
