# SPDX-License-Identifier: Apache-2.0
"""Routes whose replies have versions, and what is in the dead-letter topic."""
import uuid

from confluent_kafka import Consumer, TopicPartition

from process import eventually
from service import CLIENT, RESPONSES, bind_response

TIMEOUT_MS = 2000
DEAD = "syncgate.dead-letters"
NEW_RULE = {
    "topic": RESPONSES, "eventType": "device.response.bind", "versions": ["2.0", "2.1"],
    "when": [{"value": "${reply.success}", "is": True}],
    "schema": "schemas/device-replies.json#/$defs/bindResponse",
    "status": 200, "body": {"message": "bound by the new one", "since": "${reply.payload.boundAt}"},
}


def versioned(route):
    """bind: v1 for the shipped rules, one rule for two newer versions; unbind: v1, but its event in any version."""
    if route["operationId"] not in ("bindDeviceQR", "unbindDevice"):
        return
    route["timeoutMs"] = TIMEOUT_MS
    route["versions"] = ["v1"]
    if route["operationId"] == "bindDeviceQR":
        route["replies"].insert(0, NEW_RULE)
    else:
        for rule in route["replies"]:
            if rule["eventType"] == "device.unbound":
                rule["versions"] = ["*"]


def of_version(command):
    return {**bind_response(command), "__version": "v9", "note": "Устройство"}


class DeadLetters:
    """What is in the topic, from its beginning."""

    def __init__(self, bootstrap, topic=DEAD):
        self.consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex,
                                  "enable.auto.commit": False, "auto.offset.reset": "earliest", **CLIENT})
        partitions = self.consumer.list_topics(topic, timeout=10).topics[topic].partitions
        self.consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        self.all = []

    def close(self):
        self.consumer.close()

    def of(self, correlation_id):
        """Those with this id in a header so far."""
        for message in self.consumer.consume(1000, 0.05):
            assert message.error() is None, message.error()
            self.all.append(message)
        return [message for message in self.all if dict(message.headers()).get("correlation-id") == correlation_id.encode()]

    def wait(self, correlation_id, count=1):
        found = []
        eventually(lambda: found.extend(self.of(correlation_id)[len(found):]) or len(found) >= count, "a dead letter")
        return found


def dead_letters(gateway):
    metrics = gateway.metrics()
    return {result: metrics.sum("syncgate_dead_letters_total", result=result) for result in ("sent", "failed", "suppressed")}
