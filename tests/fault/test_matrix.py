# SPDX-License-Identifier: Apache-2.0
"""Never twice: what breaks (fault), when (moment), under which flag (mode). Every row says which path the call took, what
the client was told and when, and how often the command was executed, by Kafka's service and by legacy together: never
twice, and never not at all behind a 200. One broker, real; what fails is the wire to it (tests/lib/kafka_proxy.py)."""
import dataclasses
import threading

import pytest

from broker import KafkaCluster
from fault_matrix import (AT_ONCE_S, LEGACY_TIMEOUT_S, MESSAGE_TIMEOUT_S, NOT_PERSISTED_S, SLACK_S, TIMEOUT_S, Executed,
                          Expect, Row, World, cells_of)
from kafka_proxy import (CLUSTER_AUTHORIZATION_FAILED, FETCH, MESSAGE_TOO_LARGE, METADATA, NOT_ENOUGH_REPLICAS,
                         NOT_ENOUGH_REPLICAS_AFTER_APPEND, NOT_LEADER, PRODUCE, REQUEST_TIMED_OUT, STORAGE_ERROR,
                         TOPIC_AUTHORIZATION_FAILED, UNKNOWN, UNKNOWN_TOPIC, leaderless)
from process import eventually
from service import COMMANDS, TOPICS, Service

FORBIDDEN, ABSENT, SINGLE = "forbidden.commands.v1", "absent.commands.v1", "one-partition.commands.v1"
BROKER_LIMIT, CLIENT_LIMIT = 8192, 2000
IDEMPOTENT = "idempotent"
LANES = {
    "usual": {},
    IDEMPOTENT: {"KAFKA_ENABLE_IDEMPOTENCE": "true"},
    "idempotent, one partition": {"KAFKA_ENABLE_IDEMPOTENCE": "true", "topic": SINGLE},
    "one message": {"KAFKA_QUEUE_BUFFERING_MAX_MESSAGES": 1},
    "small messages": {"KAFKA_MESSAGE_MAX_BYTES": CLIENT_LIMIT},
    "forbidden": {"topic": FORBIDDEN},
    "no topic": {"topic": ABSENT, "missing": True},
    "no legacy": {"legacy_down": True},
}

# --- what is expected ---

BY_KAFKA = Expect(200, "kafka", commands=1)
BY_LEGACY = Expect(200, "legacy", legacy=1)


def no_reply(commands, uncertain=None):
    """The outcome is unknown: the caller is told so when the route's time is over, and legacy never hears of it."""
    return Expect(504, "kafka", commands=commands, code="REPLY_TIMEOUT", uncertain=uncertain, least_s=TIMEOUT_S - 0.1)


def certain(reason, within_s=AT_ONCE_S, least_s=0.0):
    """Certainly not in Kafka: legacy executes it, or nobody."""
    return {"true": Expect(200, "legacy", legacy=1, fallback=reason, within_s=within_s, least_s=least_s),
            "only": Expect(503, "kafka", code="KAFKA_UNAVAILABLE", fallback=reason, within_s=within_s, least_s=least_s)}


def both(expect):
    return {"true": expect, "only": expect}


def either(one, other):
    return {mode: (one[mode], other[mode]) for mode in one}


# --- what breaks ---


def on_produce(**actions):
    return lambda lane, device: lane.proxy.on(PRODUCE, device.encode(), **actions)


def broker_down(lane, _):
    lane.proxy.down()
    eventually(lambda: lane.metric("syncgate_kafka_reachable") == 0, "the gateway knows that the broker is gone")


def broker_just_gone(lane, _):
    lane.proxy.down()


def silence(lane, _):
    lane.proxy.silence()


def no_leader(lane, device):
    """The broker says so to whoever asks, and takes nothing. The gateway asks about its topics when the broker is back;
    not about those that it has just asked about, so one outage may not be enough."""
    metadata = lane.proxy.on(METADATA, COMMANDS.encode(), patch=leaderless(COMMANDS))
    lane.proxy.on(PRODUCE, device.encode(), error=NOT_LEADER)

    def outage():
        broker_down(lane, device)
        lane.proxy.up()
        eventually(lambda: lane.metric("syncgate_kafka_reachable") == 1, "the gateway has heard it")
        return metadata.hits

    eventually(outage, "the gateway asks about the topic")
    return metadata


def fetch_lost(lane, _):
    """The Fetch that waits at the broker is of this kind, too."""
    rule = lane.proxy.on(FETCH, drop_response=True)
    rule.wait_hit()
    return rule


# --- calls other than a plain one ---


def with_full_queue(lane, device):
    """Another call's command fills the queue of one message: the broker is silent. It goes on when the call of interest
    has been answered."""
    first = device + "-first"
    lane.world.answer(first, 0)
    answers = []
    lane.proxy.silence()
    other = threading.Thread(target=lambda: answers.append(lane.call(first)), daemon=True)
    other.start()
    eventually(lambda: lane.metric("syncgate_kafka_producer_queue_messages") == 1, "the queue is full")
    answer = lane.call(device)
    lane.proxy.resume()
    other.join(TIMEOUT_S + SLACK_S)
    assert answers and answers[0].status == 200, answers
    return answer


def gone_while_sending(lane, device):
    connection = lane.client(device, part=0.5)
    eventually(lambda: lane.metric("syncgate_active_requests") == 1, "the call is under way")
    connection.close()


def gone_before_append(lane, device):
    """The Produce is on its way, nothing has come back."""
    rule = lane.proxy.on(PRODUCE, device.encode(), request_delay_s=0.5)
    with lane.client(device):
        rule.wait_hit()


def gone_while_parked(lane, device):
    with lane.client(device):
        lane.world.service.wait_command(device)


def gone_before_not_persisted(lane, device):
    """The broker refuses; when the message's time is over nobody is there any more, and legacy has nothing to do."""
    rule = lane.proxy.on(PRODUCE, device.encode(), error=NOT_LEADER)
    with lane.client(device):
        rule.wait_hit()


def gone_while_legacy_works(lane, device):
    with lane.client(device):
        eventually(lambda: lane.legacy_reads(device) == 1, "legacy works")


# --- what comes later ---


def late_reply(lane, _):
    lane.wait_reply_counted("late")


def late_fetch(lane, _):
    lane.proxy.reset()
    lane.proxy.cut()
    lane.wait_reply_counted("late")


def duplicate_reply(lane, _):
    lane.wait_reply_counted("duplicate")


def nobody_waits(lane, _):
    eventually(lambda: lane.metric("syncgate_kafka_producer_queue_messages") == 0, "librdkafka holds nothing", 10)
    assert lane.metric("syncgate_parked_requests") == 0 and lane.metric("syncgate_active_requests") == 0


GONE = Expect(499, "kafka", commands=1)
LATE_ARRIVAL_S = MESSAGE_TIMEOUT_S + 0.7
BIG = {"Idempotency-Key": "k" * (BROKER_LIMIT + 100)}

ROWS = [
    Row("none", "ever", {**both(BY_KAFKA), "false": BY_LEGACY}),

    # Before a Produce reaches the broker.
    Row("broker down", "before the call", certain("unreachable"), broker_down),
    Row("broker down", "as the call comes", certain({"unreachable", "not_persisted"}, NOT_PERSISTED_S), broker_just_gone),
    Row("partition without leader", "before the call", certain("not_persisted", NOT_PERSISTED_S, 0.5), no_leader),
    Row("queue full", "at the hand-over", certain("queue_full"), act=with_full_queue, lane="one message"),
    Row("topic missing", "before the call", certain("no_topic"), lane="no topic"),
    Row("message too large", "for the client", certain("too_large"), lane="small messages",
        headers={"Idempotency-Key": "k" * CLIENT_LIMIT}),
    Row("message too large", "for the broker", certain("too_large"), headers=BIG),
    Row("not authorized", "by a real rule", certain("not_persisted", NOT_PERSISTED_S), lane="forbidden"),

    # Refused by the broker, which has written nothing.
    Row("not leader", "once", both(BY_KAFKA), on_produce(error=NOT_LEADER, times=1)),
    Row("unknown topic", "once", both(BY_KAFKA), on_produce(error=UNKNOWN_TOPIC, times=1)),
    Row("too large", "said by the broker", certain("too_large"), on_produce(error=MESSAGE_TOO_LARGE)),
    Row("topic authorization", "refused", certain("not_persisted"), on_produce(error=TOPIC_AUTHORIZATION_FAILED, times=1)),
    Row("cluster authorization", "refused", certain("not_persisted"), on_produce(error=CLUSTER_AUTHORIZATION_FAILED)),

    # Nobody can say whether it was written: it was not.
    Row("request lost", "before append", both(no_reply(0, True)), on_produce(drop_request=True)),
    Row("connection cut", "before append", both(no_reply(0, True)), on_produce(cut="before")),
    Row("request timed out", "before append", both(no_reply(0, True)), on_produce(error=REQUEST_TIMED_OUT)),
    Row("unknown error", "before append", both(no_reply(0, True)), on_produce(error=UNKNOWN)),
    Row("storage error", "before append", both(no_reply(0, True)), on_produce(error=STORAGE_ERROR)),
    Row("not leader", "always", both(no_reply(0, True)), on_produce(error=NOT_LEADER)),
    Row("unknown topic", "always", both(no_reply(0, True)), on_produce(error=UNKNOWN_TOPIC)),

    # Nobody can say whether it was written: it was. Its reply ends the call, or nothing does.
    Row("ack lost", "service answers", both(BY_KAFKA), on_produce(drop_response=True)),
    Row("ack lost", "service silent", both(no_reply(1, True)), on_produce(drop_response=True), reply=None),
    Row("ack lost", "service slow", both(BY_KAFKA), on_produce(drop_response=True), reply=2.8),
    Row("connection cut", "after append", both(BY_KAFKA), on_produce(cut="after")),
    Row("connection cut", "after append, service silent", both(no_reply(1, True)), on_produce(cut="after"), reply=None),
    Row("broker down", "after append", both(no_reply(1, True)),
        lambda lane, device: lane.proxy.on(PRODUCE, device.encode(), then=lane.proxy.down), reply=None),
    Row("request timed out", "after append", both(BY_KAFKA), on_produce(error=REQUEST_TIMED_OUT, forward=True)),
    Row("request timed out", "after append, service silent", both(no_reply(1, True)),
        on_produce(error=REQUEST_TIMED_OUT, forward=True), reply=None),
    Row("not enough replicas", "after append", both(BY_KAFKA),
        on_produce(error=NOT_ENOUGH_REPLICAS_AFTER_APPEND, forward=True)),
    Row("not enough replicas", "after append, service silent", both(no_reply(1, True)),
        on_produce(error=NOT_ENOUGH_REPLICAS_AFTER_APPEND, forward=True), reply=None),
    Row("storage error", "after append, service silent", both(no_reply(1, True)),
        on_produce(error=STORAGE_ERROR, forward=True), reply=None),
    Row("unknown error", "after append, service silent", both(no_reply(1, True)),
        on_produce(error=UNKNOWN, forward=True), reply=None),

    # Slow.
    Row("broker slow", "ack within the message timeout", both(BY_KAFKA), on_produce(response_delay_s=0.4), reply=1),
    Row("broker slow", "ack after the message timeout", both(BY_KAFKA), on_produce(response_delay_s=LATE_ARRIVAL_S)),
    Row("broker slow", "ack after the message timeout, service silent", both(no_reply(1)),
        on_produce(response_delay_s=LATE_ARRIVAL_S), reply=None),
    Row("broker slow", "request within the message timeout", both(BY_KAFKA), on_produce(request_delay_s=0.4)),
    Row("broker slow", "request after the message timeout", both(BY_KAFKA), on_produce(request_delay_s=LATE_ARRIVAL_S)),
    # Whether the Produce is out already when the broker falls silent is chance: librdkafka has two requests on their way at most.
    Row("broker silent", "until after the answer", either(both(no_reply(1)), certain("not_persisted", NOT_PERSISTED_S)), silence),

    # The reply.
    Row("reply lost", "never sent", both(no_reply(1, False)), reply=None),
    Row("reply lost", "until the connection is made anew", both(no_reply(1, False)), fetch_lost, after=late_fetch),
    Row("reply late", "after the answer", both(no_reply(1, False)), reply=TIMEOUT_S + 0.3, after=late_reply),
    Row("reply twice", "at once", both(BY_KAFKA), replies=2, after=duplicate_reply),

    # Legacy.
    Row("legacy slow", "no Kafka", {"false": Expect(504, "legacy", legacy=1, code="LEGACY_TIMEOUT",
                                                   least_s=LEGACY_TIMEOUT_S - 0.1)}, legacy="slow"),
    Row("legacy dies", "on a reused connection", {"false": Expect(502, "legacy", legacy=1, code="LEGACY_BROKEN")},
        legacy="dies"),
    Row("legacy down", "no Kafka", {"false": Expect(502, "legacy", code="LEGACY_UNREACHABLE")}, lane="no legacy"),
    Row("legacy slow", "as fallback", {"true": Expect(504, "legacy", legacy=1, code="LEGACY_TIMEOUT",
                                                     fallback="not_persisted", least_s=LEGACY_TIMEOUT_S - 0.1)},
        on_produce(error=NOT_ENOUGH_REPLICAS), legacy="slow"),
    Row("legacy dies", "as fallback, on a reused connection", {
        "true": Expect(502, "legacy", legacy=1, code="LEGACY_BROKEN", fallback="not_persisted")},
        on_produce(error=NOT_ENOUGH_REPLICAS), legacy="dies"),
    Row("legacy dies", "as fallback of an unreachable broker", {
        "true": Expect(502, "legacy", legacy=1, code="LEGACY_BROKEN", fallback="unreachable")}, broker_down, legacy="dies"),
    Row("legacy down", "as fallback", {"true": Expect(502, "legacy", code="LEGACY_UNREACHABLE", fallback="not_persisted")},
        on_produce(error=NOT_ENOUGH_REPLICAS), lane="no legacy"),
    Row("legacy down", "broker down, too", {"true": Expect(502, "legacy", code="LEGACY_UNREACHABLE",
                                                         fallback="unreachable")}, broker_down, lane="no legacy"),
    Row("legacy down", "ack lost, service silent", {"true": no_reply(1, True)}, on_produce(drop_response=True),
        reply=None, lane="no legacy"),
    Row("legacy down", "not needed", {"true": BY_KAFKA}, lane="no legacy"),

    # The client goes away.
    Row("client gone", "while it sends", {**both(Expect(499, "kafka")), "false": Expect(499, "legacy")},
        act=gone_while_sending, after=nobody_waits),
    Row("client gone", "before append", both(GONE), act=gone_before_append, after=nobody_waits),
    Row("client gone", "while the service works", both(GONE), act=gone_while_parked, reply=1, after=late_reply),
    Row("client gone", "before a refusal is final", both(Expect(499, "kafka")), act=gone_before_not_persisted,
        after=nobody_waits),
    Row("client gone", "while legacy works as fallback", {
        "true": Expect(499, "legacy", legacy=1, fallback="not_persisted")}, on_produce(error=NOT_ENOUGH_REPLICAS),
        act=gone_while_legacy_works, legacy="slow"),
    Row("client gone", "while legacy works", {"false": Expect(499, "legacy", legacy=1)}, act=gone_while_legacy_works,
        legacy="slow"),
]


# --- faults that meet what librdkafka sends again ---


def appended_but_not_leader(*then):
    """The leader appends, then says that it is none (it stepped down while it waited for its replicas). What is sent
    again meets `then`."""

    def arrange(lane, device):
        rules = [lane.proxy.on(PRODUCE, device.encode(), error=NOT_LEADER, forward=True, times=1)]
        return rules + [lane.proxy.on(PRODUCE, device.encode(), **actions) for actions in then]

    return arrange


def first_then(first, then):
    def arrange(lane, device):
        return [lane.proxy.on(PRODUCE, device.encode(), times=1, **first), lane.proxy.on(PRODUCE, device.encode(), **then)]

    return arrange


def behind_one_that_expires(lane, device):
    """Another command of the same partition is ahead, and none of its acks arrives; the first ack of this one is lost.
    When the other's time is over, librdkafka starts a new epoch of sequence numbers."""
    first = device + "-first"
    rules = [lane.proxy.on(PRODUCE, first.encode(), drop_response=True),
             lane.proxy.on(PRODUCE, device.encode(), drop_response=True, times=1)]
    other = threading.Thread(target=lane.call, args=(first,), daemon=True)
    other.start()
    rules[0].wait_hit()
    threading.Event().wait(MESSAGE_TIMEOUT_S / 2)
    answer = lane.call(device)
    other.join(TIMEOUT_S + SLACK_S)
    return answer


ROWS += [
    Row("stepped down after append", "never sent again", both(no_reply(1)),
        appended_but_not_leader({"error": NOT_LEADER}), reply=None),
    Row("stepped down after append", "never sent again, service answers", both(BY_KAFKA),
        appended_but_not_leader({"error": NOT_LEADER}), after=nobody_waits),
    Row("ack lost", "once", both(BY_KAFKA), on_produce(drop_response=True, times=1), reply=1),
    Row("connection cut", "once, after append", both(BY_KAFKA), on_produce(cut="after", times=1), reply=1),
    Row("storage error", "once, after append", both(BY_KAFKA), on_produce(error=STORAGE_ERROR, forward=True, times=1),
        reply=1),
]

# What differs by idempotence: with it librdkafka sends again until the message's time is over, without it hardly ever.
ROWS_WITHOUT = [
    Row("stepped down after append", "sent again", both(dataclasses.replace(BY_KAFKA, copies=2)), appended_but_not_leader()),
    Row("not enough replicas", "once", certain("not_persisted"), on_produce(error=NOT_ENOUGH_REPLICAS, times=1)),
    Row("not enough replicas", "always", certain("not_persisted"), on_produce(error=NOT_ENOUGH_REPLICAS)),
]
ROWS_WITH = [
    Row("stepped down after append", "sent again", both(BY_KAFKA), appended_but_not_leader(), lane=IDEMPOTENT),
    Row("not enough replicas", "once", both(BY_KAFKA), on_produce(error=NOT_ENOUGH_REPLICAS, times=1), lane=IDEMPOTENT),
    Row("not enough replicas", "always", certain("not_persisted", NOT_PERSISTED_S, 0.5),
        on_produce(error=NOT_ENOUGH_REPLICAS), lane=IDEMPOTENT),
    Row("ack lost", "behind one that expires", both(no_reply(1)), act=behind_one_that_expires, reply=None,
        lane="idempotent, one partition"),
    Row("connection cut", "after append, then not leader", both(no_reply(1)),
        first_then({"cut": "after"}, {"error": NOT_LEADER}), reply=None, lane=IDEMPOTENT),
    Row("connection cut", "after append, then no authorization", both(no_reply(1)),
        first_then({"cut": "after"}, {"error": CLUSTER_AUTHORIZATION_FAILED}), reply=None, lane=IDEMPOTENT),
    Row("storage error", "after append, then not leader", both(no_reply(1)),
        first_then({"error": STORAGE_ERROR, "forward": True}, {"error": NOT_LEADER}), reply=None, lane=IDEMPOTENT),
]


def all_cells():
    """split:100 is every user on Kafka: what holds for `true` holds there. And, unless said otherwise, with idempotence."""
    again = [dataclasses.replace(row, lane=IDEMPOTENT, expect={"true": row.expect["true"]})
             for row in ROWS if "true" in row.expect and row.lane == "usual"]
    for row in ROWS + ROWS_WITHOUT:
        if "true" in row.expect and row.lane == "usual":
            row.expect["split:100"] = row.expect["true"]
    return cells_of(ROWS + ROWS_WITHOUT + ROWS_WITH + again)


@pytest.fixture(scope="module")
def world(request):
    """Runs all cells that were selected, many at the same time."""
    cells = [item.callspec.params["cell"] for item in request.session.items if "cell" in getattr(item, "fixturenames", ())]
    with KafkaCluster(message_max_bytes=BROKER_LIMIT, allow_everyone_if_no_acl_found="true",
                      authorizer_class_name="org.apache.kafka.metadata.authorizer.StandardAuthorizer") as cluster:
        cluster.create_topics(*TOPICS, FORBIDDEN)
        cluster.create_topics(SINGLE, partitions=1)
        cluster.allow_only_describe(FORBIDDEN)
        with Service(cluster.bootstrap) as service:
            width = {("usual", mode): 4 for mode in ("true", "only", "split:100")} | {(IDEMPOTENT, "true"): 4}
            running = World(cluster, service, LANES, [COMMANDS, FORBIDDEN, SINGLE], cells, width)
            yield running
            running.close()


@pytest.mark.parametrize("cell", [pytest.param(cell, id=str(cell)) for cell in all_cells()])
def test_never_twice(world, cell):
    world.outcome(cell)
