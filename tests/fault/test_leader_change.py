# SPDX-License-Identifier: Apache-2.0
"""Three brokers lose their leaders while commands are on their way: one is killed, one hangs and wakes up again, one is
shut down in good order. Three gateways work at the same time: whatever their clients are told, no device is bound twice,
and none that was answered with 200 was not bound."""
import collections
import json
import threading

import pytest
from confluent_kafka.admin import AdminClient

from broker import KafkaCluster
from fault_matrix import SLACK_S, Executed, commands_in_topics, new_device
from gateway import WITHOUT_BREAKER, Gateway, copy_routes
from legacy_stub import LegacyStub
from process import eventually
from service import COMMANDS, TOPICS, Service, bind_response

TIMEOUT_S = 4
GATEWAYS = {
    "primary": {"FEATURE_KAFKA_EVENTS": "true"},
    "only": {"FEATURE_KAFKA_EVENTS": "only", "LEGACY_URL": None},
    "idempotent": {"FEATURE_KAFKA_EVENTS": "true", "KAFKA_ENABLE_IDEMPOTENCE": "true"},
}
CLIENTS = 3
PAUSE_S = 0.02  # of each client between two calls: the brokers have two cores, too


class Load:
    """Clients of one gateway that bind a new device each time."""

    def __init__(self, gateway):
        self.gateway, self.answers, self.errors = gateway, {}, []
        self.stopped, self.lock = threading.Event(), threading.Lock()
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def _run(self):
        while not self.stopped.wait(PAUSE_S):
            device = new_device()
            try:
                answer = self.gateway.bind(device, timeout_s=TIMEOUT_S + SLACK_S)
            except OSError as error:
                self.errors.append((device, error))
                continue
            with self.lock:
                self.answers[device] = answer

    def over_kafka(self):
        return self.gateway.metrics().sum("syncgate_requests_total", path="kafka", status="200")

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join(30)


def leader_of(cluster, partition, paused=None):
    """The node that leads this partition of the command topic, as those see it that can be asked; None: nobody does."""
    asked = ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes if node.process and node is not paused)
    admin = AdminClient({"bootstrap.servers": asked})
    leader = admin.list_topics(COMMANDS, timeout=10).topics[COMMANDS].partitions[partition].leader
    return cluster.nodes[leader - 1] if leader > 0 else None


def wait_progress(loads, count=40):
    """Each gateway has answered that many more calls over Kafka."""
    goals = [load.over_kafka() + count for load in loads]
    eventually(lambda: all(load.over_kafka() >= goal for load, goal in zip(loads, goals)), "calls are answered over Kafka")


@pytest.fixture(scope="module")
def scenario():
    """By gateway: its answers, what legacy has read, and the commands in the topic."""
    legacies = {name: LegacyStub() for name in GATEWAYS}

    def short_timeout(route):
        route["timeoutMs"] = TIMEOUT_S * 1000

    with KafkaCluster(nodes=3) as cluster:
        cluster.create_topics(*TOPICS)
        with Service(cluster.bootstrap, lambda service, command: service.post(bind_response(command))):
            gateways = {name: Gateway(copy_routes(short_timeout), KAFKA_BROKERS=cluster.bootstrap,
                                      KAFKA_MESSAGE_TIMEOUT="1s", SYNCGATE_LOOPS=1, **WITHOUT_BREAKER,
                                      **{"LEGACY_URL": legacies[name].url, **settings})
                        for name, settings in GATEWAYS.items()}
            loads = {name: Load(gateway) for name, gateway in gateways.items()}
            work = list(loads.values())
            wait_progress(work)

            killed = leader_of(cluster, 0)
            killed.kill()
            wait_progress(work)
            killed.start()

            paused = leader_of(cluster, 1)
            paused.pause()
            eventually(lambda: leader_of(cluster, 1, paused) not in (paused, None), "another node leads")
            paused.resume()
            wait_progress(work)

            stopped = leader_of(cluster, 2)
            stopped.stop()
            wait_progress(work)
            stopped.start()
            wait_progress(work)

            for load in work:
                load.stop()
            for gateway in gateways.values():
                gateway.stop()
            commands = commands_in_topics(cluster.bootstrap, COMMANDS)
    yield {name: (loads[name], legacies[name], commands) for name in GATEWAYS}
    for legacy in legacies.values():
        legacy.close()


@pytest.mark.parametrize("name", list(GATEWAYS))
def test_leaders_change_under_load(scenario, name):
    load, legacy, commands = scenario[name]
    assert not load.errors, load.errors[:3]
    statuses = collections.Counter(answer.status for answer in load.answers.values())
    allowed = {200, 504} if GATEWAYS[name]["FEATURE_KAFKA_EVENTS"] == "true" else {200, 503, 504}
    assert set(statuses) <= allowed, statuses
    assert statuses[200] > 0.5 * len(load.answers), statuses
    # Copies of one command with one id are executed once by a service that remembers ids (docs/services.md).
    by_kafka = collections.Counter(device for device, _ in commands)
    by_legacy = collections.Counter(json.loads(request["body"])["qrData"]["deviceId"] for request in legacy.requests)
    for device, answer in load.answers.items():
        executed = by_kafka[device] + by_legacy[device]
        told = f"{device}: {answer.status}, {by_kafka[device]} in Kafka, {by_legacy[device]} by legacy"
        if executed > 1 or (answer.status == 200 and executed == 0) or (answer.status == 503 and executed):
            raise Executed(told)
