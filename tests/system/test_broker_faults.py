# SPDX-License-Identifier: Apache-2.0
"""The broker goes, comes back, hangs or is not there. Whatever a client is told, nothing is executed twice and nothing
that was answered with 200 was not executed. What counts is what lies in the command topic and what the device service
did: commands by correlation id, REST calls by number."""
import collections
import contextlib
import http.client
import json
import signal
import threading
import time
import uuid

import pytest

from broker import KafkaCluster
from contract import error_answer
from device_service import DeviceService
from event_stream import EventStream
from events import read_records
from gateway import BIND, QR_TOKEN, Gateway, copy_routes
from process import eventually
from service import COMMANDS, RESPONSES, TOPICS, Service, answer, bind_response, envelope, reply_headers
from tokens import bearer

TIMEOUT_MS = 4000


def short_timeout(route):
    route["timeoutMs"] = TIMEOUT_MS


@pytest.fixture
def own_kafka():
    """A broker that a test may stop; its topics exist."""
    with KafkaCluster() as cluster:
        cluster.create_topics(*TOPICS)
        yield cluster


@pytest.fixture
def stopped_kafka():
    """A broker that a test starts; it knows no topic. (The fixture ends after the processes that use the broker.)"""
    with KafkaCluster(start=False) as cluster:
        yield cluster


@pytest.fixture
def three_brokers():
    with KafkaCluster(nodes=3) as cluster:
        cluster.create_topics(*TOPICS)
        yield cluster


def make_gateway(cluster, flag, device=None, **settings):
    return Gateway(copy_routes(short_timeout), KAFKA_BROKERS=cluster.bootstrap, FEATURE_KAFKA_EVENTS=flag,
                   LEGACY_URL=device.url if device else None, KAFKA_MESSAGE_TIMEOUT="1s", **settings)


def commands_in_kafka(cluster):
    """Every command in the topic, as (correlation id, device id)."""
    values = [json.loads(message.value()) for message in read_records(cluster.bootstrap, COMMANDS)]
    return [(value["correlationId"], value["payload"]["deviceId"]) for value in values]


class Burst:
    """Binds of many devices at once, on a thread each."""

    def __init__(self, gateway, device, count):
        self.ids = [device.register(f"GH-{uuid.uuid4()}") for _ in range(count)]
        self.answers = {}
        self.threads = [threading.Thread(target=self._bind, args=(gateway, name), daemon=True) for name in self.ids]

    def _bind(self, gateway, name):
        self.answers[name] = gateway.bind(name)

    def start(self, part=slice(None)):
        for thread in self.threads[part]:
            thread.start()

    def wait(self):
        for thread in self.threads:
            if thread.ident:
                thread.join(60)
        started = [name for name, thread in zip(self.ids, self.threads) if thread.ident]
        assert all(name in self.answers for name in started), "a request was never answered"
        return self.answers


def assert_executed_at_most_once(cluster, device, answers, rest_binds=None):
    """answers: of binds, each of another device, none of which had been bound before. rest_binds: how many of them legacy
    executed, where other binds have gone there since."""
    commands = commands_in_kafka(cluster)
    ids = collections.Counter(correlation_id for correlation_id, _ in commands)
    assert max(ids.values(), default=0) <= 1, "one command was written twice"
    by_device = collections.Counter(name for _, name in commands if name in answers)
    assert max(by_device.values(), default=0) <= 1, "two commands for one request"
    counts = device.executions()
    rest_binds = counts["rest"]["bind"] if rest_binds is None else rest_binds
    assert rest_binds + len(by_device) <= len(answers), "a request took both paths"
    executed = counts["kafka"]["byCorrelationId"]
    assert max(executed.values(), default=0) <= 1
    for name, answer in answers.items():
        assert answer.status in (200, 503, 504), (name, answer)
        if answer.status == 200:
            # Executed: the device has an owner now, and it is the caller.
            unbound = device.call("POST", "/api/devices/unbind", {"deviceId": name}, bearer())
            assert unbound.status == 200, (name, unbound)
    return counts


def binds_over_kafka(gateway, device):
    """True once a bind was answered over Kafka: the path is open again."""
    answer = gateway.bind(device.register(f"GH-{uuid.uuid4()}"))
    line = gateway.wait_log("exchange", correlationId=answer.header("X-Correlation-Id"))
    return answer.status == 200 and line["path"] == "kafka"


@pytest.mark.parametrize("flag", ["true", "only"])
@pytest.mark.parametrize("how", ["stop", "kill", "pause"])
def test_broker_lost_in_mid_flight(own_kafka, stoppable, flag, how):
    device = stoppable(DeviceService(own_kafka.bootstrap))
    gateway = stoppable(make_gateway(own_kafka, flag, device if flag == "true" else None))
    eventually(lambda: binds_over_kafka(gateway, device), "the Kafka path works")
    base = device.executions()
    assert base["rest"]["bind"] == 0
    # Replies wait in the service, so the broker goes while commands have been executed but not answered.
    device.behave(replyDelayMs=300)
    burst = Burst(gateway, device, 60)
    burst.start(slice(0, 30))
    eventually(lambda: device.executions()["kafka"]["commands"] > base["kafka"]["commands"] + 5, "some executed")
    getattr(own_kafka, how)()
    burst.start(slice(30, 60))
    answers = burst.wait()
    # Every call has its answer, so legacy executes nothing more of them; the probes below may fall back, too.
    rest_binds = device.executions()["rest"]["bind"]
    if how == "pause":
        own_kafka.resume()
    else:
        own_kafka.start()
    device.behave()
    eventually(lambda: binds_over_kafka(gateway, device), "the Kafka path works again")
    counts = assert_executed_at_most_once(own_kafka, device, answers, rest_binds)
    if flag == "only":
        assert counts["rest"]["bind"] == 0
    statuses = collections.Counter(answer.status for answer in answers.values())
    if flag == "true":
        assert statuses[503] == 0, statuses
    metrics = gateway.metrics()
    assert metrics.sum("syncgate_parked_requests") == 0
    assert metrics.sum("syncgate_fallbacks_total") >= (counts["rest"]["bind"] > 0)


def test_broker_absent_at_start_legacy_serves(stopped_kafka, stoppable):
    device = stoppable(DeviceService())
    gateway = stoppable(make_gateway(stopped_kafka, "true", device, wait_kafka=False))
    burst = Burst(gateway, device, 10)
    burst.start()
    answers = burst.wait()
    assert {answer.status for answer in answers.values()} == {200}
    assert device.executions()["rest"]["bind"] == 10
    assert gateway.admin_get("/health/ready").status == 200
    stopped_kafka.start()
    stopped_kafka.create_topics(*TOPICS)
    second = stoppable(DeviceService(stopped_kafka.bootstrap))
    eventually(lambda: binds_over_kafka(gateway, second), "the Kafka path opens without a restart")
    assert second.executions()["rest"]["bind"] == 0


def test_broker_absent_at_start_only(stopped_kafka, stoppable):
    gateway = stoppable(make_gateway(stopped_kafka, "only", wait_ready=False))
    answer = gateway.bind("GH-1")
    error_answer(503, "KAFKA_UNAVAILABLE", answer)
    assert answer.header("Retry-After")
    assert gateway.admin_get("/health/live").status == 200
    assert gateway.admin_get("/health/ready").status == 503
    stopped_kafka.start()
    stopped_kafka.create_topics(*TOPICS)
    gateway.wait_ready()
    device = stoppable(DeviceService(stopped_kafka.bootstrap))
    # The breaker of the cluster opened; its first probe goes within a tenth of SYNCGATE_BREAKER_OPEN.
    eventually(lambda: binds_over_kafka(gateway, device), "the Kafka path opens", timeout_s=5)


def test_gateway_killed_with_parked_calls(kafka, stoppable):
    """The replies of a former life answer nobody in the next one."""
    device = stoppable(DeviceService(kafka.bootstrap))
    first = stoppable(make_gateway(kafka, "true", device))
    eventually(lambda: binds_over_kafka(first, device), "the Kafka path works")
    before = device.executions()["kafka"]
    device.behave(replyDelayMs=1500)
    names = [device.register(f"GH-{uuid.uuid4()}") for _ in range(20)]

    def bind_and_lose(name):
        with contextlib.suppress(OSError, http.client.HTTPException):
            first.bind(name)

    threads = [threading.Thread(target=bind_and_lose, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    eventually(lambda: device.executions()["kafka"]["commands"] == before["commands"] + 20, "all executed")
    first.kill()
    for thread in threads:
        thread.join(10)
    device.behave()  # what is delayed already stays delayed
    second = stoppable(make_gateway(kafka, "true", device))
    # The lost calls' replies arrive while the second gateway serves; a retry by the client is answered by the truth.
    answers = [second.bind(name).status for name in names]
    assert answers == [409] * 20
    counts = device.executions()
    assert set(counts["kafka"]["byCorrelationId"].values()) == {1}
    assert counts["kafka"]["redelivered"] == 0 and counts["rest"]["bind"] == 0


def test_gateway_stopped_with_parked_calls(kafka, stoppable):
    """SIGTERM: parked calls still get their answers, and the next gateway starts with none of them."""
    device = stoppable(DeviceService(kafka.bootstrap))
    first = stoppable(make_gateway(kafka, "only"))
    eventually(lambda: binds_over_kafka(first, device), "the Kafka path works")
    device.behave(replyDelayMs=500)
    burst = Burst(first, device, 20)
    base = device.executions()["kafka"]["commands"]
    burst.start()
    eventually(lambda: device.executions()["kafka"]["commands"] == base + 20, "all executed")
    first.stop()
    assert {answer.status for answer in burst.wait().values()} == {200}
    device.behave()
    second = stoppable(make_gateway(kafka, "only"))
    assert binds_over_kafka(second, device)
    assert second.metrics().sum("syncgate_replies_total", result="late") == 0


def test_one_of_three_brokers_lost(three_brokers, stoppable):
    """With a majority left every call is answered; none is executed twice."""
    device = stoppable(DeviceService(three_brokers.bootstrap))
    gateway = stoppable(make_gateway(three_brokers, "true", device))
    eventually(lambda: binds_over_kafka(gateway, device), "the Kafka path works")
    burst = Burst(gateway, device, 60)
    burst.start(slice(0, 30))
    three_brokers.nodes[0].kill()
    burst.start(slice(30, 60))
    answers = burst.wait()
    rest_binds = device.executions()["rest"]["bind"]
    eventually(lambda: binds_over_kafka(gateway, device), "the Kafka path works again")
    assert_executed_at_most_once(three_brokers, device, answers, rest_binds)


def answer_in(producer, partition, topic=RESPONSES):
    """A handler that writes its reply to this partition."""

    def handler(_, command):
        value = bind_response(command)
        producer.produce(topic, json.dumps(value).encode(), partition=partition,
                         headers=list(reply_headers(value).items()))
        assert producer.flush(10) == 0

    return handler


def add_partitions(cluster, topic, count):
    """Returns when it has that many, each with a leader."""
    from confluent_kafka.admin import NewPartitions

    admin = cluster.admin()
    for future in admin.create_partitions([NewPartitions(topic, count)]).values():
        future.result(30)
    eventually(lambda: sum(p.leader >= 0 for p in admin.list_topics(timeout=10).topics[topic].partitions.values())
               == count, "the new partitions have leaders")


@pytest.mark.parametrize("topic", [RESPONSES, "own.replies"])
def test_partitions_added_to_a_reply_topic(own_kafka, stoppable, topic):
    """The gateway notices them by itself, and has missed nothing of what was written to them before."""
    from confluent_kafka import Producer

    if topic != RESPONSES:
        own_kafka.create_topics(topic)
    gateway = stoppable(Gateway(copy_routes(lambda route: route.update(timeoutMs=12000)), FEATURE_KAFKA_EVENTS="only",
                                KAFKA_BROKERS=own_kafka.bootstrap, KAFKA_MESSAGE_TIMEOUT="1s",
                                SYNCGATE_REPLY_TOPIC=topic if topic != RESPONSES else None))

    def partitions():
        return gateway.metrics().sum("syncgate_kafka_reply_partitions")

    before = partitions()
    add_partitions(own_kafka, topic, 5)
    with Service(own_kafka.bootstrap) as service:
        producer, answers = Producer({"bootstrap.servers": own_kafka.bootstrap, "linger.ms": 0, "log_level": 0}), {}

        def bind(partition):
            name = f"GH-{uuid.uuid4()}"
            service.on(name, answer_in(producer, partition, topic))
            started = time.monotonic()
            answers[partition] = gateway.bind(name).status, time.monotonic() - started

        # The replies lie in the new partitions before the gateway knows of them.
        threads = [threading.Thread(target=bind, args=(partition,), daemon=True) for partition in (3, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert {partition: status for partition, (status, _) in answers.items()} == {3: 200, 4: 200}
        assert partitions() == before + 2
        for partition in range(5):  # none is slow now, and the old ones are still read
            bind(partition)
            assert answers[partition][0] == 200 and answers[partition][1] < 3, answers
    assert gateway.metrics().sum("syncgate_replies_total", result="late") == 0


def test_own_partition_added_later(own_kafka, stoppable):
    """Kafka stays closed until the partition that is this instance's exists; others that are added change nothing."""
    own_kafka.create_topics("own.replies", partitions=2)
    device = stoppable(DeviceService(own_kafka.bootstrap))
    gateway = stoppable(Gateway(copy_routes(short_timeout), wait_ready=False, FEATURE_KAFKA_EVENTS="only",
                                KAFKA_BROKERS=own_kafka.bootstrap, KAFKA_MESSAGE_TIMEOUT="1s",
                                SYNCGATE_REPLY_TOPIC="own.replies", SYNCGATE_REPLY_PARTITION=2))
    gateway.wait_log("the reply partition of this instance does not exist", partition=2, partitions=2)
    gateway.wait_log("reading replies", topic="device.events.v1")
    assert gateway.bind(device.register(f"GH-{uuid.uuid4()}")).status == 503
    for count in (3, 5):
        add_partitions(own_kafka, "own.replies", count)
        gateway.wait_ready()
        for _ in range(3):
            assert gateway.bind(device.register(f"GH-{uuid.uuid4()}")).status == 200
    assert len([line for line in gateway.logs() if line.get("topic") == "own.replies" and "reading" in line["msg"]]) == 1


def test_partitions_added_to_a_command_topic(own_kafka, stoppable):
    """The producer looks for them every topic.metadata.refresh.interval.ms, 5 minutes unless it is told otherwise; keys go to
    other partitions then, as with any Kafka producer."""
    gateway = stoppable(make_gateway(own_kafka, "only", KAFKA_TOPIC_METADATA_REFRESH_INTERVAL_MS=500))
    device = stoppable(DeviceService(own_kafka.bootstrap))
    assert gateway.bind(device.register(f"GH-{uuid.uuid4()}")).status == 200
    add_partitions(own_kafka, COMMANDS, 6)
    started = time.monotonic()
    with Service(own_kafka.bootstrap) as service:

        def reached():
            burst = Burst(gateway, device, 12)
            burst.start()
            answers = burst.wait()
            # The service's own consumer looks as seldom: what it has not seen yet is executed later, or never if too late.
            assert {answer.status for answer in answers.values()} <= {200, 504}, answers
            return {command.partition for command in service.commands} & {3, 4, 5}

        eventually(reached, "commands in the new partitions", 30)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("flag", ["true", "only"])
def test_a_missing_command_topic_is_its_routes_own_trouble(own_kafka, stoppable, device_id, flag):
    """Its calls go to legacy or are refused at once, nothing else is touched, everybody is told which topic it is, and it is used
    when it comes."""

    def missing(route):
        short_timeout(route)
        if route["operationId"] == "bindDeviceQR":
            route["command"]["topic"] = "late.commands.v1"

    device = stoppable(DeviceService(own_kafka.bootstrap))
    gateway = stoppable(Gateway(copy_routes(missing), KAFKA_BROKERS=own_kafka.bootstrap, FEATURE_KAFKA_EVENTS=flag,
                                LEGACY_URL=device.url if flag == "true" else None))
    assert gateway.wait_log("ready")["topic"] == "late.commands.v1"
    gateway.wait_log("command topic is not there yet", topic="late.commands.v1", reason="UNKNOWN_TOPIC_OR_PART")
    health = gateway.admin_get("/health/ready")
    assert health.status == 200 and "a command topic is not there yet: late.commands.v1" in health.body.decode()
    for _ in range(30):  # a breaker would open after 20
        name = device.register(f"GH-{uuid.uuid4()}")
        if flag == "true":
            assert gateway.bind(name).status == 200
        else:
            error_answer(503, "KAFKA_UNAVAILABLE", gateway.bind(name))
            assert device.call("POST", BIND, {"qrData": {"deviceId": name, "bindingToken": QR_TOKEN}}, bearer()).status == 200
        assert gateway.unbind(name).status == 200
    metrics = gateway.metrics()
    assert metrics.sum("syncgate_fallbacks_total", reason="no_topic") == metrics.sum("syncgate_fallbacks_total") == 30
    breakers = json.loads(gateway.admin_get("/admin/breakers").body)["breakers"]
    assert {(breaker["state"], breaker["produceFailures"]) for breaker in breakers} == {("closed", 0)}
    since = time.monotonic()
    gateway.popen.send_signal(signal.SIGHUP)
    gateway.wait_log("configuration reloaded")
    assert time.monotonic() - since < 4, "a reload waits for topics that are new, not for this one"
    own_kafka.create_topics("late.commands.v1")
    gateway.wait_log("command topic is known", topic="late.commands.v1")
    with Service(own_kafka.bootstrap, topics=("late.commands.v1",)) as service:
        service.on(device_id, answer(bind_response))
        bound = gateway.bind(device_id)
        assert bound.status == 200 and bound.header("X-Correlation-Id") == service.wait_command(device_id).id


def test_event_stream_outlives_its_broker(own_kafka, stoppable, device_id):
    """The broker dies in mid-stream and comes back: the client sees a pause, then what the service has to say."""
    gateway = stoppable(Gateway(KAFKA_BROKERS=own_kafka.bootstrap, FEATURE_KAFKA_EVENTS="only"))
    body = {"firmwareVersion": "2.5.0", "downloadUrl": "https://example.com/2.5.0.bin", "checksum": "sha256:00"}
    with Service(own_kafka.bootstrap) as service, \
            EventStream(gateway.address, f"/api/devices/{device_id}/ota", body) as stream:
        command = service.wait_command(device_id)

        def say(status, **more):
            service.send(envelope("device.response.ota", command.id, {"deviceId": device_id, "status": status, **more},
                                  success=True),
                         key=device_id)

        def progress(number, status, **more):
            return "progress", number, {"deviceId": device_id, "status": status, "targetVersion": "2.5.0", **more}

        say("started")
        say("downloading", progress=40)
        assert [stream.event(), stream.event()] == [progress(1, "started"), progress(2, "downloading", progress=40)]
        own_kafka.kill()
        gateway.wait_log("kafka unreachable")
        own_kafka.start()
        say("installing")
        assert stream.event() == progress(3, "installing")
        say("completed", currentVersion="2.5.0")
        (event, number, result), = stream.rest()
        assert (event, number, result["status"], result["currentVersion"]) == ("result", 4, "completed", "2.5.0")
    line = gateway.wait_log("exchange", correlationId=command.id)
    assert (line["path"], line["status"], line["events"]) == ("kafka", 200, 4)
