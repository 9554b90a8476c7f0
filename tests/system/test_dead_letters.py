# SPDX-License-Identifier: Apache-2.0
"""The dead-letter topic in Apache Kafka: a letter is whole, and a topic that is not there costs calls nothing."""
import uuid

import pytest

from dead_letters import DeadLetters, dead_letters, of_version, versioned
from gateway import Gateway, copy_routes
from process import eventually
from service import Service, answer, bind_response

SETTINGS = {"FEATURE_KAFKA_EVENTS": "only", "KAFKA_MESSAGE_TIMEOUT": "500ms"}


def bad_first(service, command):
    service.send(of_version(command), key=command.device_id)
    service.send(bind_response(command), key=command.device_id)


@pytest.mark.parametrize("exists", [True, False])
def test_dead_letters(kafka, device_id, stoppable, exists):
    topic = "dead-" + uuid.uuid4().hex
    if exists:
        kafka.create_topics(topic)
    gateway = stoppable(Gateway(copy_routes(versioned), KAFKA_BROKERS=kafka.bootstrap, SYNCGATE_DEAD_LETTER_TOPIC=topic,
                                **SETTINGS))
    with Service(kafka.bootstrap) as service:
        service.on(device_id, bad_first)
        assert gateway.bind(device_id).status == 200
        command = service.wait_command(device_id)
        if exists:
            letters = DeadLetters(kafka.bootstrap, topic)
            letter = letters.wait(command.id)[0]
            letters.close()
            assert letter.key() == device_id.encode() and b'"v9"' in letter.value()
            assert dict(letter.headers())["dead-letter-reason"] == b"unknown_version"
        else:
            assert gateway.wait_log("dead letter not written")["topic"] == topic
        result = "sent" if exists else "failed"
        eventually(lambda: dead_letters(gateway)[result] == 1, "the letter is counted")
        # Calls go on, and the gateway is ready, topic or not.
        service.on(device_id + "-2", answer(bind_response))
        assert gateway.bind(device_id + "-2").status == 200
        assert gateway.admin_get("/health/ready").status == 200
        metrics = gateway.metrics()
        assert metrics.sum("syncgate_kafka_deliveries_total") == 2, "letters are no commands"
        assert metrics.sum("syncgate_kafka_deliveries_total", result="persisted") == 2
