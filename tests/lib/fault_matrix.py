# SPDX-License-Identifier: Apache-2.0
"""How a table of faults is carried out. A cell is a row of the table in one mode of the flag. Cells of the same mode and
settings share a lane: a gateway with its own proxy in front of the broker and its own legacy backend; they follow one
another, while lanes run at the same time. What was executed is counted when a lane's gateway has ended, so whatever it
still had in hand has come out: copies of the command in the topic, and requests that the legacy backend has read."""
import collections
import itertools
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from broker import free_port
from events import read_records
from gateway import BIND, QR_TOKEN, WITHOUT_BREAKER, Gateway, copy_routes
from http_client import RawConnection, raw_request
from kafka_proxy import KafkaProxy
from legacy_stub import LegacyStub
from process import PATIENCE_S, eventually
from service import Command, bind_response
from tokens import bearer

TIMEOUT_S, MESSAGE_TIMEOUT_S, LEGACY_TIMEOUT_S = 4, 1, 1.5
SCAN_S = 1  # librdkafka looks for messages whose time is over once a second
SLACK_S = 1.5  # two noisy cores, many lanes, sanitizers
AT_ONCE_S = SLACK_S
NOT_PERSISTED_S = MESSAGE_TIMEOUT_S + SCAN_S + SLACK_S
LANES_AT_ONCE = 12

_numbers = itertools.count(1)


def new_device():
    """No id is a part of another one."""
    return f"GH-{os.getpid()}-{next(_numbers):06}"


class Executed(AssertionError):
    """More often than once, or not at all behind a 200."""


@dataclass(frozen=True)
class Expect:
    """commands: those in the topic, by id; copies: records that they may take (a service that remembers ids executes once,
    docs/services.md); legacy: requests read by the backend."""
    status: int
    path: str
    commands: int = 0
    legacy: int = 0
    copies: int = 1
    code: Optional[str] = None
    fallback: Any = None  # a reason, or a set of them
    uncertain: Optional[bool] = None  # None: either
    least_s: float = 0
    within_s: float = TIMEOUT_S + SLACK_S


@dataclass(frozen=True)
class Row:
    """expect: by mode; a tuple where chance decides: the one whose status the answer has. arrange(lane, device) sets the fault up and returns the rules that must be hit; reply: seconds until
    the service answers, None: never; act(lane, device) makes the call instead of a plain bind; after(lane, device) looks
    at what came later, while the fault still holds."""
    fault: str
    moment: str
    expect: dict
    arrange: Optional[Callable] = None
    reply: Optional[float] = 0
    replies: int = 1
    lane: str = "usual"
    legacy: str = "ok"
    act: Optional[Callable] = None
    after: Optional[Callable] = None
    headers: dict = field(default_factory=dict)

    def __hash__(self):
        return id(self)


@dataclass(frozen=True)
class Cell:
    row: Row
    mode: str

    def __str__(self):
        return "-".join(part.replace(" ", "_") for part in (self.row.lane, self.mode, self.row.fault, self.row.moment))


def chosen(expect, status=None):
    """Of several outcomes that of this status, else the first."""
    outcomes = expect if isinstance(expect, tuple) else (expect,)
    return next((outcome for outcome in outcomes if outcome.status == status), outcomes[0])


def cells_of(rows):
    return [Cell(row, mode) for row in rows for mode in row.expect]


def commands_in_topics(bootstrap, *topics):
    """How many copies of each (device id, correlation id) are in these topics."""
    commands = [Command(message) for message in read_records(bootstrap, *topics)]
    return collections.Counter((command.device_id, command.id) for command in commands)


class Lane:
    def __init__(self, world, kind, mode):
        self.world, self.mode, self.kind = world, mode, kind
        settings = dict(world.lanes[kind])
        topic, missing = settings.pop("topic", None), settings.pop("missing", False)
        legacy_down = settings.pop("legacy_down", False)
        self.legacy = LegacyStub()
        self.legacy.respond = self._legacy_answer
        self.legacy_behaviour, self.legacy_free = {}, threading.Event()
        self.proxy = KafkaProxy(world.kafka.bootstrap, [free_port() for _ in world.kafka.nodes])

        def change(route):
            route["timeoutMs"] = TIMEOUT_S * 1000
            if topic:
                route["command"]["topic"] = topic

        legacy_url = f"http://127.0.0.1:{free_port()}" if legacy_down else self.legacy.url
        self.gateway = Gateway(
            copy_routes(change), KAFKA_BROKERS=None if mode == "false" else self.proxy.bootstrap,
            FEATURE_KAFKA_EVENTS=mode, LEGACY_URL=None if mode == "only" else legacy_url, SYNCGATE_LOOPS=1,
            KAFKA_MESSAGE_TIMEOUT=f"{MESSAGE_TIMEOUT_S}s", LEGACY_TIMEOUT=f"{int(LEGACY_TIMEOUT_S * 1000)}ms",
            **{**WITHOUT_BREAKER, **settings})
        if missing:
            self.gateway.wait_log("command topic is not there yet", topic=topic)
            self.gateway.wait_kafka()
        self.reaches_kafka = mode != "false" and not topic
        self.devices, self.statuses, self.expected = {}, {}, {}  # by cell
        self.replies_before = {}

    # --- what rows use ---

    def call(self, device, **headers):
        return self.gateway.bind(device, headers={**bearer(), **headers})

    def metric(self, name, **labels):
        return self.gateway.metrics().sum(name, **labels)

    def wait_reply_counted(self, result):
        """A reply with this result has come since the cell began."""
        eventually(lambda: self._replies()[result] > self.replies_before[result], f"a reply is {result}")

    def _replies(self):
        metrics = self.gateway.metrics()
        return {result: metrics.sum("syncgate_replies_total", result=result) for result in ("late", "duplicate")}

    def client(self, device, part=1.0):
        """A client that has sent its request, or a part of the body, and waits."""
        body = json.dumps({"qrData": {"deviceId": device, "bindingToken": QR_TOKEN}}).encode()
        head = {"Content-Type": "application/json", "Content-Length": str(len(body)), **bearer()}
        connection = RawConnection(self.gateway.address)
        connection.send(raw_request("POST", BIND, head) + body[:int(len(body) * part)])
        return connection

    def exchanges(self):
        """The log lines of finished calls."""
        return [entry for entry in self.gateway.logs() if entry.get("msg") == "exchange"]

    def wait_exchange(self, count):
        """The call that ended after `count` had."""
        eventually(lambda: len(self.exchanges()) > count, "the call has ended")
        return self.exchanges()[count]

    def legacy_reads(self, device):
        return len(self.legacy.requests_with(device))

    def _legacy_answer(self, request):
        for device, behaviour in list(self.legacy_behaviour.items()):
            if device.encode() in request["body"]:
                if behaviour == "dies":
                    return None
                if behaviour == "slow":
                    self.legacy_free.wait(PATIENCE_S)
        return LegacyStub.default_answer(request)

    # --- a cell ---

    def run(self, cell):
        row, device = cell.row, new_device()
        expect = self.expected[cell] = chosen(row.expect[cell.mode])
        self.devices[cell] = device
        self.legacy_free.clear()
        self.legacy_behaviour[device] = row.legacy
        self.world.answer(device, row.reply, row.replies)
        if row.legacy == "dies":
            assert self.gateway.call("GET", "/api/warm").status == 200
        self.replies_before = self._replies()
        try:
            rules = row.arrange(self, device) if row.arrange else ()
            rules = rules if isinstance(rules, (tuple, list)) else (rules,)
            before, start = len(self.exchanges()), time.monotonic()
            answer = row.act(self, device) if row.act else self.call(device, **row.headers)
            took_s = time.monotonic() - start
            if answer:
                self.statuses[cell] = answer.status
                expect = self.expected[cell] = chosen(row.expect[cell.mode], answer.status)
                self._check_answer(expect, answer, took_s)
            line = self.wait_exchange(before) if not answer else self.gateway.wait_log(
                "exchange", correlationId=answer.header("X-Correlation-Id"))
            self._check_line(expect, line)
            if row.legacy == "dies" and expect.legacy:
                warm, post = self.legacy.requests_with("/api/warm")[-1], self.legacy.requests_with(device)[-1]
                assert warm["connection"] == post["connection"], "the connection was not reused"
            if row.after:
                row.after(self, device)
            for rule in rules:
                if rule:
                    assert rule.hits, "the fault has not met its request"
        finally:
            self.legacy_free.set()
            self.recover()

    @staticmethod
    def _check_answer(expect, answer, took_s):
        assert answer.status == expect.status, answer
        if expect.code:
            body = answer.json()
            assert body["code"] == expect.code and body["statusCode"] == expect.status, answer
        retry_after = answer.header("Retry-After")
        if expect.status == 503 and expect.fallback != "too_large":
            assert retry_after and int(retry_after) >= 1, answer.headers
        else:
            assert retry_after is None, answer.headers
        assert expect.least_s <= took_s <= expect.within_s, f"{took_s:.2f} s"

    @staticmethod
    def _check_line(expect, line):
        assert line["path"] == expect.path and line["status"] == expect.status, line
        reasons = expect.fallback if isinstance(expect.fallback, (set, frozenset)) else {expect.fallback}
        assert line.get("fallback") in reasons, line
        if expect.uncertain is not None:
            assert line.get("uncertain", False) == expect.uncertain, line

    def recover(self):
        """Nothing is in the way any more, and the Kafka path works again."""
        self.proxy.reset()
        if not self.reaches_kafka:
            return

        def works():
            device = new_device()
            self.world.answer(device, 0)
            answer = self.call(device)
            line = self.gateway.wait_log("exchange", correlationId=answer.header("X-Correlation-Id"))
            return answer.status == 200 and line["path"] == "kafka"

        eventually(works, "the Kafka path works again")

    def stop(self):
        try:
            self.gateway.stop()
        finally:
            self.proxy.close()
            self.legacy.close()

    def check_executions(self, cell, commands):
        device, expect = self.devices[cell], self.expected[cell]
        copies = [n for (of, _), n in commands.items() if of == device]
        in_kafka, in_legacy = len(copies), self.legacy_reads(device)
        counted = f"{in_kafka} in Kafka, {in_legacy} by legacy, copies: {copies}"
        if in_kafka + in_legacy > 1 or sum(copies) > expect.copies:
            raise Executed(f"executed twice: {counted}")
        if self.statuses.get(cell) == 200 and in_kafka + in_legacy == 0:
            raise Executed("answered with 200, never executed")
        if self.statuses.get(cell) == 503 and in_kafka + in_legacy > 0:
            raise Executed(f"answered with 503, executed: {counted}")
        assert (in_kafka, in_legacy) == (expect.commands, expect.legacy), counted


class World:
    """Runs cells in the background; outcome(cell) waits for it and raises what went wrong. lanes: settings by kind of lane
    (`topic`, `missing` and `legacy_down` are not the gateway's). topics: where commands go. width: lanes for one kind and mode."""

    lane_class = Lane

    def __init__(self, kafka, service, lanes, topics, cells, width):
        self.kafka, self.service, self.lanes, self.topics = kafka, service, lanes, topics
        self.failures = {}
        groups, counts = {}, collections.Counter()
        for cell in cells:
            key = (cell.row.lane, cell.mode)
            groups.setdefault((*key, counts[key] % width.get(key, 1)), []).append(cell)
            counts[key] += 1
        self._pool = ThreadPoolExecutor(LANES_AT_ONCE)
        self._lanes = {}
        for (kind, mode, _), group in sorted(groups.items(), key=lambda item: -len(item[1])):
            future = self._pool.submit(self._run_lane, kind, mode, group)
            self._lanes.update({cell: future for cell in group})

    def close(self):
        self._pool.shutdown(cancel_futures=True)

    def answer(self, device, after_s, times=1):
        """What the service does with commands of this device."""

        def handle(service, command):
            def send():
                for _ in range(times):
                    service.send(bind_response(command))

            if after_s == 0:
                send()
            elif after_s is not None:
                threading.Timer(after_s, send).start()

        self.service.on(device, handle)

    def outcome(self, cell):
        self._lanes[cell].result()
        if cell in self.failures:
            raise self.failures[cell]

    def _run_lane(self, kind, mode, cells):
        lane = self.lane_class(self, kind, mode)
        try:
            for cell in cells:
                try:
                    lane.run(cell)
                except Exception as error:  # pylint: disable=broad-except # told by outcome()
                    error.add_note(f"the gateway's log:\n{lane.gateway.tail()}")
                    self.failures[cell] = error
        finally:
            lane.stop()  # a sanitizer's report belongs to all of its cells
        commands = commands_in_topics(self.kafka.bootstrap, *self.topics)
        for cell in cells:
            try:
                lane.check_executions(cell, commands)
            except AssertionError as error:
                answered = self.failures.get(cell)
                self.failures[cell] = type(error)(f"{error}; {answered!r}" if answered else str(error))
