# SPDX-License-Identifier: Apache-2.0
"""The legacy Kafka contract for commands, field by field (contract sections 3.1, 3.3, 3.4)."""
import re
import time

from service import COMMANDS

UUID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
DATE_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")
TRACEPARENT = re.compile(r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")
ENVELOPE = {"eventType", "correlationId", "timestamp", "source", "__version", "timeout", "responseRequired", "payload"}


def date_time_ms(text):
    import calendar

    head, _, fraction = text.rstrip("Z").partition(".")
    seconds = calendar.timegm(time.strptime(head, "%Y-%m-%dT%H:%M:%S"))
    return seconds * 1000 + int((fraction + "000")[:3])


def check_command(command, event_type, payload, topic=COMMANDS, key=None):
    """payload: exactly what the command must carry."""
    value = command.value
    assert command.topic == topic
    assert command.key == (payload["deviceId"] if key is None else key)
    assert set(value) == ENVELOPE
    assert value["eventType"] == event_type
    assert UUID.match(value["correlationId"])
    timestamp = value["timestamp"]
    if isinstance(timestamp, str):
        assert DATE_TIME.match(timestamp)
        timestamp = date_time_ms(timestamp)
    assert type(timestamp) is int and abs(timestamp - time.time() * 1000) < 60000
    assert value["source"] == {"type": "backend", "id": "rest-api-gateway"}
    assert value["__version"] == "v1"
    assert type(value["timeout"]) is int and 1000 <= value["timeout"] <= 60000
    assert value["responseRequired"] is True
    assert value["payload"] == payload
    check_headers(command)


def check_headers(command):
    headers = {name: value.decode("latin-1") for name, value in command.headers.items()}
    assert headers["content-type"] == "application/json"
    assert headers["correlation-id"] == command.id
    assert headers["kafka_correlationId"] == command.id
    assert headers["event-type"] == command.value["eventType"]
    assert headers["kafka_replyTopic"] == command.topic.replace(".commands.", ".commands.responses.")
    assert TRACEPARENT.match(headers["traceparent"])
    assert re.match(r"^\d{13}$", headers["deadline"])
    assert abs(int(headers["deadline"]) - time.time() * 1000) < 65000


def error_answer(status, code, answer):
    """A gateway-made error has the legacy shape (design section 5)."""
    assert answer.status == status, answer
    body = answer.json()
    assert set(body) == {"message", "error", "statusCode", "code", "correlationId"}
    assert body["statusCode"] == status and body["code"] == code
    assert UUID.match(body["correlationId"]) and answer.header("X-Correlation-Id") == body["correlationId"]


MESSAGES = {
    "bound": "Устройство успешно привязано",
    "unbound": "Устройство успешно отвязано",
    "not found": "Устройство не найдено",
    "already bound": "Устройство уже привязано",
    "unauthorized": "Ошибка аутентификации",
    "bind failed": "Ошибка привязки устройства",
    "unbind failed": "Ошибка отвязки устройства",
}
UNAUTHORIZED = {"message": MESSAGES["unauthorized"], "error": "Unauthorized", "statusCode": 401}
