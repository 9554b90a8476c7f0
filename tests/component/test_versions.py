# SPDX-License-Identifier: Apache-2.0
"""Old and new replies side by side, replies of no use, and the dead-letter topic, with the embedded broker."""
import json
import os
import shutil
import signal
import threading
import time
import uuid

import pytest
from confluent_kafka import Consumer, Producer

from contract import MESSAGES, error_answer
from dead_letters import DEAD, TIMEOUT_MS, DeadLetters, dead_letters, of_version, versioned
from gateway import Gateway, copy_routes
from legacy_stub import LegacyStub
from process import PATIENCE_S, eventually
from service import CLIENT, RESPONSES, Service, answer, bind_response, bound_event, failure, unbound_event
from test_command_line import run
from tokens import USER

WRITTEN_MS = 1756714530455
SETTINGS = {"KAFKA_BROKERS": "embedded", "FEATURE_KAFKA_EVENTS": "true", "KAFKA_MESSAGE_TIMEOUT": "500ms",
            "SYNCGATE_BREAKER": "false"}


@pytest.fixture(scope="module")
def legacy():
    stub = LegacyStub()
    yield stub
    stub.close()


@pytest.fixture(scope="module")
def gateway(legacy):
    gateway = Gateway(copy_routes(versioned), LEGACY_URL=legacy.url, SYNCGATE_DEAD_LETTER_TOPIC=DEAD, **SETTINGS)
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def service(gateway):
    with Service(gateway.bootstrap()) as service:
        yield service


@pytest.fixture(scope="module")
def letters(gateway):
    letters = DeadLetters(gateway.bootstrap())
    yield letters
    letters.close()


def put(bootstrap, value, headers, key=None, topic=RESPONSES):
    """Produces one record; returns it as the broker has it."""
    done = []
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "log_level": 0})
    producer.produce(topic, value, key=key, headers=headers, timestamp=WRITTEN_MS,
                     on_delivery=lambda error, message: done.append((error, message)))
    producer.flush(PATIENCE_S)
    assert done and done[0][0] is None, done
    return done[0][1]


def replies(gateway, result):
    return gateway.metrics().sum("syncgate_replies_total", result=result)


def in_thread(function, *args):
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*args)), daemon=True)
    thread.start()

    def wait():
        thread.join(PATIENCE_S)
        assert results, "no answer"
        return results[0]

    return wait


# --- versions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", None, "2.0", "2.1"])
def test_old_and_new_side_by_side(gateway, service, device_id, version):
    def make(command):
        reply = {**bind_response(command, boundAt="2025-09-01T08:15:30.455Z"), "__version": version}
        return {name: value for name, value in reply.items() if value is not None}

    service.on(device_id, answer(make))
    response = gateway.bind(device_id)
    assert response.status == 200, response
    if version in ("2.0", "2.1"):
        assert response.json() == {"message": "bound by the new one", "since": "2025-09-01T08:15:30.455Z"}
    else:
        assert response.json() == {"message": MESSAGES["bound"], "device": {
            "deviceId": device_id, "userId": USER, "boundAt": "2025-09-01T08:15:30.455Z", "status": "bound"}}


def test_an_unknown_version_is_counted_logged_and_left(gateway, service, device_id):
    before = replies(gateway, "unknown_version")
    service.on(device_id, answer(lambda command: {**bind_response(command), "__version": "v7-" + "x" * 100}))
    response = gateway.bind(device_id)
    error_answer(504, "REPLY_TIMEOUT", response)
    assert replies(gateway, "unknown_version") == before + 1
    line = gateway.wait_log("reply ignored", correlationId=response.header("X-Correlation-Id"))
    assert line["reason"] == "unknown_version" and line["topic"] == RESPONSES and line["level"] == "warn"
    assert line["version"] == "v7-" + "x" * 61  # cut: it may be anything


@pytest.mark.parametrize("version", [7, None, {"a": "secret"}])
def test_a_version_that_is_no_string(gateway, service, device_id, version):
    def wrong_first(service, command):
        service.send({**bind_response(command), "__version": version}, key=device_id)
        service.send(bind_response(command), key=device_id)

    service.on(device_id, wrong_first)
    response = gateway.bind(device_id)
    assert response.status == 200
    line = gateway.wait_log("reply ignored", correlationId=response.header("X-Correlation-Id"))
    assert line["reason"] == "unknown_version" and line["version"] == json.dumps(version)


def test_the_call_goes_on_waiting_for_a_version_that_it_knows(gateway, service, device_id):
    def new_first(service, command):
        service.send({**bind_response(command), "__version": "3.0"}, key=device_id)
        service.send(bind_response(command), key=device_id)

    service.on(device_id, new_first)
    response = gateway.bind(device_id)
    assert response.status == 200 and response.json()["device"]["status"] == "bound"


@pytest.mark.parametrize("version", ["v1", "99", None, 5])
def test_a_rule_for_any_version(gateway, service, device_id, version):
    service.on(device_id, answer(lambda command: {**unbound_event(command), "__version": version}))
    response = gateway.unbind(device_id)
    assert response.status == 200, response
    assert response.json() == {"message": MESSAGES["unbound"], "deviceId": device_id}


# --- the schema of a rule -------------------------------------------------------------------------------------------


def test_a_reply_that_violates_its_rules_schema_is_left(gateway, service, device_id):
    before = replies(gateway, "invalid_schema")
    service.on(device_id, answer(lambda command: {
        **bind_response(command, userId="not a uuid: a secret"), "__version": "2.0"}))
    response = gateway.bind(device_id)
    error_answer(504, "REPLY_TIMEOUT", response)
    assert replies(gateway, "invalid_schema") == before + 1
    line = gateway.wait_log("reply ignored", correlationId=response.header("X-Correlation-Id"))
    assert line["reason"] == "invalid_schema" and line["place"] == "body.payload.userId"
    assert not any("a secret" in text for text in gateway.stderr.all)


def test_the_shipped_rules_stay_tolerant(gateway, service, device_id):
    """The same reply in the old version: nothing asks for a schema."""
    service.on(device_id, answer(lambda command: bind_response(command, userId="not a uuid")))
    assert gateway.bind(device_id).status == 200


# --- dead letters ---------------------------------------------------------------------------------------------------


def without_device(command):
    reply = {**bind_response(command), "__version": "2.0"}
    del reply["payload"]["deviceId"]
    return reply


def other_id(command):
    return {**bind_response(command), "correlationId": str(uuid.uuid4())}


def of_no_rule(command):
    reply = bind_response(command)
    del reply["success"]
    return reply


@pytest.mark.parametrize("reason, make, key", [
    ("invalid", lambda command: b'{"eventType":', b"a key"),
    ("invalid", lambda command: b"\xff\xfe\x00 not even text", b"\x00\xff"),
    ("invalid", lambda command: b"[" * 65 + b"]" * 65, None),
    ("invalid", lambda command: b"[" + b"0," * 65535 + b"0]", None),
    ("invalid", lambda command: b"", None),
    ("invalid", lambda command: None, b"tombstone"),
    ("mismatched", other_id, None),
    ("unknown_version", of_version, b"GH"),
    ("invalid_schema", without_device, b"GH"),
    ("unmapped", of_no_rule, b"GH"),
], ids=["cut", "no text", "deep", "many values", "empty", "tombstone", "other id", "version", "schema", "no rule"])
def test_a_dead_letter_is_the_reply_as_it_came(gateway, service, letters, device_id, reason, make, key):
    wait = in_thread(gateway.bind, device_id)
    command = service.wait_command(device_id)
    value = make(command)
    value = json.dumps(value, ensure_ascii=False).encode() if isinstance(value, dict) else value
    headers = [("correlation-id", command.id.encode()), ("event-type", b"anything"), ("x-twice", b"1"), ("x-twice", b"\x00\xff")]
    put_there = put(gateway.bootstrap(), value, headers, key)
    letter = letters.wait(command.id)[0]
    assert letter.key() == key and letter.value() == value
    assert letter.headers() == headers + [
        ("dead-letter-reason", reason.encode()),
        ("dead-letter-topic", RESPONSES.encode()),
        ("dead-letter-partition", str(put_there.partition()).encode()),
        ("dead-letter-offset", str(put_there.offset()).encode()),
        ("dead-letter-timestamp", str(WRITTEN_MS).encode()),
        ("dead-letter-instance", command.id[:8].encode()),
    ]
    if reason == "unmapped":
        error_answer(502, "REPLY_UNMAPPED", wait())
    else:
        service.send(bind_response(command))
        assert wait().status == 200
    assert len(letters.of(command.id)) == 1


def test_late_replies_duplicates_and_strangers_are_no_dead_letters(gateway, service, letters, device_id):
    before, late = dead_letters(gateway), replies(gateway, "late")
    bootstrap = gateway.bootstrap()
    error_answer(504, "REPLY_TIMEOUT", gateway.bind(device_id))
    over = service.wait_command(device_id).id
    foreign = str(uuid.uuid4())
    for headers in ([("correlation-id", over.encode())], [("correlation-id", foreign.encode())], None):
        for value in (b"{", json.dumps({**bind_response(service.wait_command(device_id)), "__version": "v9",
                                        "correlationId": headers and headers[0][1].decode()}).encode()):
            put(bootstrap, value, headers)
    # An event of the same story, with our id, while the call waits.
    wait = in_thread(gateway.bind, device_id + "-2")
    command = service.wait_command(device_id + "-2")
    service.send({**bound_event(command), "eventType": "device.status.changed"}, topic="device.events.v1")
    service.send(bind_response(command))
    service.send(bind_response(command))
    assert wait().status == 200
    eventually(lambda: replies(gateway, "late") == late + 2, "both late replies counted")
    # What came before it in time would be there by now.
    wait = in_thread(gateway.bind, device_id + "-3")
    last = service.wait_command(device_id + "-3")
    put(bootstrap, b"{", [("correlation-id", last.id.encode())])
    letters.wait(last.id)
    service.send(bind_response(last))
    assert wait().status == 200
    assert not letters.of(over) and not letters.of(foreign) and not letters.of(command.id)
    assert not [letter for letter in letters.all if "correlation-id" not in dict(letter.headers())]
    eventually(lambda: dead_letters(gateway) == {**before, "sent": before["sent"] + 1}, "one dead letter counted")


def test_a_replayed_dead_letter_is_late(gateway, service, letters, device_id):
    late = replies(gateway, "late")
    service.on(device_id, answer(of_version))
    error_answer(504, "REPLY_TIMEOUT", gateway.bind(device_id))
    letter = letters.wait(service.wait_command(device_id).id)[0]
    put(gateway.bootstrap(), letter.value(), letter.headers(), letter.key())
    eventually(lambda: replies(gateway, "late") == late + 1, "the replayed letter was read")
    assert len(letters.of(service.wait_command(device_id).id)) == 1


def test_a_flood_of_garbage_does_not_disturb_calls(gateway, service, device_id):
    """Every record carries the id of a call that waits, so each is a reply to it that is of no use."""
    service.default = lambda service, command: service.send(bind_response(command)) if "-calm-" in command.device_id else None
    before = dead_letters(gateway)
    wait = in_thread(gateway.bind, device_id)
    command = service.wait_command(device_id)
    producer = Producer({"bootstrap.servers": gateway.bootstrap(), "linger.ms": 5, "log_level": 0,
                         "queue.buffering.max.messages": 1000000})
    flood = 3000
    for _ in range(flood):
        producer.produce(RESPONSES, b"x" * 2000, headers=[("correlation-id", command.id.encode())])
        producer.poll(0)
    statuses, took = [], []
    for number in range(20):
        started = time.monotonic()
        statuses.append(gateway.bind(f"{device_id}-calm-{number}").status)
        took.append(time.monotonic() - started)
    producer.flush(PATIENCE_S)
    service.default = None
    error_answer(504, "REPLY_TIMEOUT", wait())
    assert statuses == [200] * 20
    assert sorted(took)[10] < 0.5, took
    # Some of it came after the deadline; that is late, and no dead letter.
    eventually(lambda: gateway.metrics().sum("syncgate_kafka_producer_queue_messages") == 0, "all reported")
    after = dead_letters(gateway)
    assert after["suppressed"] > before["suppressed"] and after["sent"] > before["sent"]
    assert after["sent"] - before["sent"] <= 100 * (TIMEOUT_MS / 1000 + 2)
    assert after["failed"] == before["failed"]


# --- settings -------------------------------------------------------------------------------------------------------


def test_without_the_setting_nothing_is_written(legacy, device_id, stoppable):
    gateway = stoppable(Gateway(copy_routes(versioned), LEGACY_URL=legacy.url, **SETTINGS))
    with Service(gateway.bootstrap()) as service:
        service.on(device_id, answer(lambda command: failure(command, "ALREADY_BOUND")))

        def bad_first(service, command):
            service.send(of_version(command), key=device_id)
            service.send(bind_response(command), key=device_id)

        service.on(device_id, bad_first)
        assert gateway.bind(device_id).status == 200
        assert replies(gateway, "unknown_version") == 1
        consumer = Consumer({"bootstrap.servers": gateway.bootstrap(), "group.id": "none", **CLIENT})
        assert DEAD not in consumer.list_topics(timeout=10).topics
        consumer.close()
        assert dead_letters(gateway) == {"sent": 0, "failed": 0, "suppressed": 0}


def test_a_reload_sets_changes_and_unsets_the_topic(legacy, device_id, stoppable, tmp_path):
    config = tmp_path / "syncgate.json"
    config.write_text("{}")
    gateway = stoppable(Gateway(copy_routes(versioned), config=str(config), LEGACY_URL=legacy.url, **SETTINGS))
    # One after the other: a topic that is made while it is written to is known a moment later.
    with Service(gateway.bootstrap()) as service:
        for number, topic in enumerate(["dead.one", "dead.two", None]):
            config.write_text(json.dumps({"kafka": {"deadLetterTopic": topic}} if topic else {}))
            gateway.popen.send_signal(signal.SIGHUP)
            eventually(lambda: gateway.metrics().sum("syncgate_config_reloads_total", result="ok") == number + 1, "reloaded")
            if topic:
                gateway.wait_log("command topic is known", topic=topic)
            wait = in_thread(gateway.bind, f"{device_id}-{number}")
            command = service.wait_command(f"{device_id}-{number}")
            put(gateway.bootstrap(), b"{", [("correlation-id", command.id.encode())])
            eventually(lambda: replies(gateway, "invalid") == number + 1, "the garbage was read")
            service.send(bind_response(command))
            assert wait().status == 200
            if topic:
                letters = DeadLetters(gateway.bootstrap(), topic)
                assert len(letters.wait(command.id)) == 1
                letters.close()
        eventually(lambda: dead_letters(gateway) == {"sent": 2, "failed": 0, "suppressed": 0}, "two were written")
    # A topic of a route is refused, and what runs stays.
    config.write_text(json.dumps({"kafka": {"deadLetterTopic": RESPONSES}}))
    gateway.popen.send_signal(signal.SIGHUP)
    assert RESPONSES in gateway.wait_log("configuration not reloaded, the old one stays")["error"]


def test_a_topic_that_had_replies_before_a_reload_does_not_feed_itself(legacy, device_id, stoppable, tmp_path):
    """Topics are read on for as long as the gateway runs, so what it writes there comes back to it."""
    def with_old_topic(route):
        versioned(route)
        if route["operationId"] == "bindDeviceQR":
            route["replies"].append({**route["replies"][-1], "topic": "old.replies"})

    folders = []
    for name, change in (("before", with_old_topic), ("after", versioned)):
        shutil.move(os.path.dirname(copy_routes(change)), tmp_path / name)
        folders.append(str(tmp_path / name / "routes"))
    config = tmp_path / "syncgate.json"
    config.write_text(json.dumps({"routes": folders[0]}))
    gateway = stoppable(Gateway(config=str(config), LEGACY_URL=legacy.url, **SETTINGS))
    config.write_text(json.dumps({"routes": folders[1], "kafka": {"deadLetterTopic": "old.replies"}}))
    gateway.popen.send_signal(signal.SIGHUP)
    gateway.wait_log("configuration reloaded")
    gateway.wait_log("command topic is known", topic="old.replies")
    with Service(gateway.bootstrap()) as service:
        wait = in_thread(gateway.bind, device_id)
        command = service.wait_command(device_id)
        put(gateway.bootstrap(), b"{", [("correlation-id", command.id.encode())])
        # As it came, and as it came back.
        eventually(lambda: replies(gateway, "invalid") >= 2, "the letter was read")
        service.send(bind_response(command))
        assert wait().status == 200
        assert replies(gateway, "invalid") == 2
        assert dead_letters(gateway) == {"sent": 1, "failed": 0, "suppressed": 0}


@pytest.mark.parametrize("topic, words", [
    ("device.commands.v1", "SYNCGATE_DEAD_LETTER_TOPIC: device.commands.v1 has commands or replies of"),
    ("device.events.v1", "SYNCGATE_DEAD_LETTER_TOPIC: device.events.v1 has commands or replies of"),
    ("no topic", "SYNCGATE_DEAD_LETTER_TOPIC: expected a Kafka topic"),
    ("..", "SYNCGATE_DEAD_LETTER_TOPIC: expected a Kafka topic"),
    ("x" * 250, "SYNCGATE_DEAD_LETTER_TOPIC: expected a Kafka topic"),
])
def test_a_topic_that_cannot_be_used(topic, words):
    status, _, err = run("check", SYNCGATE_DEAD_LETTER_TOPIC=topic)
    assert status == 1 and words in err, err


@pytest.mark.parametrize("settings, words", [
    ({"SYNCGATE_REPLY_TOPIC": "device.commands.v1"}, "SYNCGATE_REPLY_TOPIC: device.commands.v1 has commands of"),
    ({"SYNCGATE_REPLY_TOPIC": DEAD, "SYNCGATE_DEAD_LETTER_TOPIC": DEAD}, "is SYNCGATE_REPLY_TOPIC"),
])
def test_a_reply_address_that_cannot_be_used(settings, words):
    status, _, err = run("check", **settings)
    assert status == 1 and words in err, err
