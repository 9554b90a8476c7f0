# SPDX-License-Identifier: Apache-2.0
"""Never twice, around circuit breakers: calls that meet an open one, and the probes of a half-open one, which may fail in all
the ways in which a call can. Every row counts executions as those of test_matrix.py do."""
import threading

import pytest

from broker import KafkaCluster
from fault_matrix import (AT_ONCE_S, SLACK_S, TIMEOUT_S, Expect, Row, World, cells_of, new_device)
from kafka_proxy import NOT_ENOUGH_REPLICAS, PRODUCE
from process import PATIENCE_S, eventually
from service import COMMANDS, TOPICS, Service

# One failure opens; the first success closes.
TOUCHY = {"SYNCGATE_BREAKER": "true", "SYNCGATE_BREAKER_MIN_CALLS": 1, "SYNCGATE_BREAKER_PROBES": 1}
ROUTE = {**TOUCHY, "SYNCGATE_BREAKER_PRODUCE_FAILURES": 1, "SYNCGATE_BREAKER_TIMEOUTS": 1,
         "SYNCGATE_BREAKER_CLUSTER_FAILURES": 0}
CLUSTER = {**TOUCHY, "SYNCGATE_BREAKER_PRODUCE_FAILURES": 0, "SYNCGATE_BREAKER_TIMEOUTS": 0,
           "SYNCGATE_BREAKER_CLUSTER_FAILURES": 1}
LONG = {"SYNCGATE_BREAKER_OPEN": "4s", "SYNCGATE_BREAKER_OPEN_MAX": "4s"}
SHORT = {"SYNCGATE_BREAKER_OPEN": "300ms", "SYNCGATE_BREAKER_OPEN_MAX": "300ms"}
LANES = {
    "route open": {**ROUTE, **LONG},
    "route probes": {**ROUTE, **SHORT},
    "route probes, ack lost": {**ROUTE, **SHORT},
    "cluster open": {**CLUSTER, **LONG},
    "cluster probes": {**CLUSTER, **SHORT},
    "cluster probes, ack lost": {**CLUSTER, **SHORT},
    "route open, no legacy": {**ROUTE, **LONG, "legacy_down": True},
}

# --- what is expected ---

BY_KAFKA = Expect(200, "kafka", commands=1)
GONE = Expect(499, "kafka", commands=1)


def both(expect):
    return {"true": expect, "only": expect}


def kept_from_kafka(reason, within_s=AT_ONCE_S):
    """No command; legacy at once, or nobody."""
    legacy = Expect(200, "legacy", legacy=1, fallback=reason, within_s=within_s)
    return {"true": legacy, "split:100": legacy,
            "only": Expect(503, "kafka", code="KAFKA_UNAVAILABLE", fallback=reason, within_s=within_s)}


def no_reply(uncertain):
    return both(Expect(504, "kafka", commands=1, code="REPLY_TIMEOUT", uncertain=uncertain, least_s=TIMEOUT_S - 0.1))


REFUSED = kept_from_kafka("not_persisted")

# --- the breaker of a lane ---


def look(lane):
    scope = lane.kind.split()[0]
    rows = lane.gateway.admin_get("/admin/breakers").json()["breakers"]
    return next(row for row in rows if row["scope"] == scope and row.get("operationId", "bindDeviceQR") == "bindDeviceQR")


def expect_state(lane, state, reason):
    row = look(lane)
    assert (row["state"], row["reason"]) == (state, reason), row


def call_that_fails(lane, **actions):
    """A call before the one of interest, for another device. It has ended, log line included. False: it did not come so
    far, because librdkafka just lost a connection."""
    device = new_device()
    rule = lane.proxy.on(PRODUCE, device.encode(), **actions) if actions else None
    answer = lane.call(device)
    lane.gateway.wait_log("exchange", correlationId=answer.header("X-Correlation-Id"))
    return not rule or rule.hits > 0


def opened(lane, _=None):
    def attempt():
        if call_that_fails(lane, error=NOT_ENOUGH_REPLICAS):
            return True
        lane.recover()
        return False

    eventually(attempt, "a call that the broker refuses")
    expect_state(lane, "open", "produce_failures")


def opened_by_timeouts(lane, _):
    call_that_fails(lane)
    expect_state(lane, "open", "reply_timeouts")


def due(lane):
    opened(lane)
    eventually(lambda: look(lane)["nextProbeMs"] == 0, "the next probe may go")


def probe(**actions):
    """The call of interest is the probe, and this is what the broker does to it."""

    def arrange(lane, device):
        due(lane)
        return lane.proxy.on(PRODUCE, device.encode(), **actions) if actions else ()

    return arrange


def a_probe_failed(**actions):
    """The call of interest comes after it."""

    def arrange(lane, _):
        due(lane)
        assert call_that_fails(lane, **actions)
        expect_state(lane, "open", "probe_failed")

    return arrange


def held_ack(lane, device):
    """The broker has the command, its acknowledgement comes when the returned event is set."""
    release = threading.Event()
    lane.proxy.on(PRODUCE, device.encode(), then=lambda: release.wait(PATIENCE_S))
    return release


# --- calls ---


def told_when(lane, device):
    answer = lane.call(device)
    left_ms = look(lane)["nextProbeMs"]
    assert left_ms > 0, "it was open all the while"
    if answer.status == 503:
        assert left_ms <= int(answer.header("Retry-After")) * 1000 <= left_ms + 2000
    return answer


def beside_a_probe(lane, device):
    """Its place is taken by another call, which waits for its reply; the cluster's by one whose command is not acknowledged
    yet."""
    first, answers = new_device(), []
    lane.world.answer(first, 1.5)
    release = held_ack(lane, first)
    if "cluster" not in lane.kind:
        release.set()
    other = threading.Thread(target=lambda: answers.append(lane.call(first)), daemon=True)
    other.start()
    lane.world.service.wait_command(first)
    answer = lane.call(device)
    expect_state(lane, "half_open", "produce_failures")
    release.set()
    other.join(TIMEOUT_S + SLACK_S)
    assert answers and answers[0].status == 200 and not answers[0].json().get("legacy"), answers
    return answer


def gone_before_ack(lane, device):
    release, before = held_ack(lane, device), len(lane.exchanges())
    with lane.client(device):
        lane.world.service.wait_command(device)
    lane.wait_exchange(before)
    expect_state(lane, "half_open", "produce_failures")
    release.set()


def gone_when_acknowledged(lane, device):
    with lane.client(device):
        lane.world.service.wait_command(device)
        if "cluster" in lane.kind:
            eventually(lambda: look(lane)["state"] == "closed", "the command is in Kafka, that is enough")


# --- what comes later ---


def is_closed(lane, _):
    expect_state(lane, "closed", "none")


def is_open(lane, _):
    """Because the probe failed, or because the broker was gone first."""
    assert look(lane)["state"] == "open", look(lane)


def is_open_again(lane, _):
    expect_state(lane, "open", "probe_failed")


def late_reply_changes_nothing(lane, _):
    lane.wait_reply_counted("late")
    expect_state(lane, "open", "probe_failed")


def place_is_given_back(lane, _):
    expect_state(lane, "half_open", "produce_failures")


def open_rows(lane, reason):
    return [
        Row("open", "by a refusal", kept_from_kafka(reason), opened, lane=lane, act=told_when),
        Row("open", "after a probe was refused", kept_from_kafka(reason), a_probe_failed(error=NOT_ENOUGH_REPLICAS),
            lane=lane, act=told_when),
    ]


def probe_rows(lane, reason):
    return [
        Row("probe", "succeeds", both(BY_KAFKA), probe(), lane=lane, after=is_closed),
        Row("probe", "refused by the broker", REFUSED, probe(error=NOT_ENOUGH_REPLICAS), lane=lane, after=is_open_again),
        # In lanes of their own: librdkafka gives such a connection up, later, and with it the only broker.
        Row("probe", "service silent", no_reply(True), probe(drop_response=True), reply=None, lane=lane + ", ack lost",
            after=is_open),
        Row("probe", "service answers", both(BY_KAFKA), probe(drop_response=True), lane=lane + ", ack lost",
            after=is_closed),
        Row("probe", "under way for another call", kept_from_kafka(reason, TIMEOUT_S), probe(), act=beside_a_probe, lane=lane,
            after=is_closed),
        Row("probe", "client gone before the acknowledgement", both(GONE), probe(), act=gone_before_ack, reply=1, lane=lane,
            after=place_is_given_back),
        Row("probe", "client gone", both(GONE), probe(), act=gone_when_acknowledged, reply=1, lane=lane,
            after=is_closed if "cluster" in lane else place_is_given_back),
    ]


ROWS = [
    *open_rows("route open", "breaker_open"),
    Row("open", "by a reply that did not come", kept_from_kafka("breaker_open"), opened_by_timeouts, lane="route open",
        act=told_when),
    Row("open", "after the reply of a probe did not come", kept_from_kafka("breaker_open"), a_probe_failed(),
        lane="route open", act=told_when),
    Row("open", "legacy dies, on a reused connection", {
        "true": Expect(502, "legacy", legacy=1, code="LEGACY_BROKEN", fallback="breaker_open")}, opened, legacy="dies",
        lane="route open"),
    Row("open", "legacy down", {"true": Expect(502, "legacy", code="LEGACY_UNREACHABLE", fallback="breaker_open")}, opened,
        lane="route open, no legacy"),
    *probe_rows("route probes", "breaker_open"),
    Row("probe", "reply lost", no_reply(False), probe(), reply=None, lane="route probes", after=is_open_again),
    Row("probe", "reply late", no_reply(False), probe(), reply=TIMEOUT_S + 0.3, lane="route probes",
        after=late_reply_changes_nothing),

    *open_rows("cluster open", "cluster_breaker_open"),
    *probe_rows("cluster probes", "cluster_breaker_open"),
    # A service that is silent says nothing about the cluster.
    Row("probe", "reply lost", no_reply(False), probe(), reply=None, lane="cluster probes", after=is_closed),
]
CELLS = cells_of(ROWS)


@pytest.fixture(scope="module")
def world(request):
    cells = [item.callspec.params["breaker_cell"] for item in request.session.items
             if "breaker_cell" in getattr(item, "fixturenames", ())]
    with KafkaCluster() as cluster:
        cluster.create_topics(*TOPICS)
        with Service(cluster.bootstrap) as service:
            running = World(cluster, service, LANES, [COMMANDS], cells, {})
            yield running
            running.close()


@pytest.mark.parametrize("breaker_cell", [pytest.param(cell, id=str(cell)) for cell in CELLS])
def test_never_twice_around_breakers(world, breaker_cell):
    world.outcome(breaker_cell)
