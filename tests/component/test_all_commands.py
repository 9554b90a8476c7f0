# SPDX-License-Identifier: Apache-2.0
"""Every route that is shipped, with the embedded broker: the command as the contract has it, and the answer to each kind of
reply. A route that is disabled leaves its requests to legacy, and works when one key of its file is changed."""
import itertools
import json
import os
import time

import pytest

from contract import check_command
from gateway import Gateway, copy_routes, reply_topics
from legacy_stub import LegacyStub
from process import ROOT
from service import ALL_COMMANDS, TOPICS, Service, answer, envelope, now_text, reply_headers
from tokens import USER, bearer

pytestmark = pytest.mark.once  # much of the same way, little of threads

ID = "7c1f0e52-93a4-4b6d-8e2f-1a2b3c4d5e6f"
ORGANIZATION = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
AT = "2025-09-01T08:15:30.455Z"
REASON = "text of the service"
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
_numbers = itertools.count(1)


def plain(status, message, code=None):
    return status, {"message": message, **({"code": code} if code else {})}


def nest(status, message, error):
    return status, {"message": message, "error": error, "statusCode": status}


def device_failures(default):
    """error.code (or another failing reply) -> answer, of the endpoints that only the gateway has."""
    return {"DEVICE_NOT_FOUND": plain(404, "Устройство не найдено"), "NOT_FOUND": plain(404, "Устройство не найдено"),
            "FORBIDDEN": plain(403, REASON, "FORBIDDEN"), "NOT_OWNER": plain(403, REASON, "FORBIDDEN"),
            "VALIDATION_FAILED": plain(422, REASON, "VALIDATION_FAILED"),
            "UNAUTHORIZED": plain(401, REASON, "UNAUTHORIZED"),
            "EXECUTION_FAILED": plain(400, REASON), "SOMETHING_ELSE": plain(400, REASON), None: plain(400, default)}


def nest_failures(default, missing=None, code=None, conflict=None):
    failures = {"FORBIDDEN": nest(403, REASON, "Forbidden"), "NOT_OWNER": nest(403, REASON, "Forbidden"),
                "UNAUTHORIZED": nest(401, "Ошибка аутентификации", "Unauthorized"),
                "VALIDATION_FAILED": nest(400, REASON, "Bad Request"),
                "EXECUTION_FAILED": nest(400, REASON, "Bad Request"),
                "SOMETHING_ELSE": nest(400, REASON, "Bad Request"), None: nest(400, default, "Bad Request")}
    if missing:
        failures.update({"NOT_FOUND": nest(404, missing, "Not Found"), code: nest(404, missing, "Not Found")})
    if conflict:
        failures.update({"ALREADY_EXISTS": nest(409, conflict, "Conflict"), "CONFLICT": nest(409, conflict, "Conflict")})
    return failures


class Case:
    """One way to call a route. path, key, payload, replies and failures: {0} stands for an id that nothing else has.
    replies: (eventType, payload, answer's status and body); failures: error.code -> answer; None: success false alone."""

    def __init__(self, operation, method, path, body, event_type, key, payload, replies, failures):
        self.operation, self.method, self.path, self.body = operation, method, path, body
        self.event_type, self.key, self.payload, self.replies, self.failures = event_type, key, payload, replies, failures
        self.family = event_type.split(".")[0]

    def __repr__(self):
        return self.operation


RPC = "Команда выполнена"
CONFIGURED = "Конфигурация устройства обновлена"
FLASHED = "Прошивка устройства обновлена"
CONFIGURATION = {"name": "North", "samplingInterval": 1000, "reportingInterval": 5000,
                 "sensors": [{"id": "t1", "enabled": True, "threshold": -1.5}],
                 "outputs": [{"id": "o1", "enabled": False, "name": "fan", "defaultState": True}]}
FIRMWARE = {"firmwareVersion": "2.5.0", "downloadUrl": "https://example.com/2.5.0.bin", "checksum": "sha256:00"}
RENEWED = {"oldCertificateId": "{0}", "newCertificateId": "c-2", "deviceId": "GH-1", "renewedBy": USER, "renewedAt": AT,
           "oldValidTo": AT, "newValidTo": AT, "privateKeyChanged": False}
RENEWED_ANSWER = (200, {"message": "Сертификат успешно продлён", "certificate": {
    "oldCertificateId": "{0}", "newCertificateId": "c-2", "deviceId": "GH-1", "renewedAt": AT, "oldValidTo": AT,
    "newValidTo": AT, "privateKeyChanged": False}})
USER_MISSING, ORGANIZATION_MISSING = "User with ID {0} not found", 'Organization with ID "{0}" not found'

ENABLED = [
    Case("sendDeviceRpc", "POST", "/api/devices/{0}/rpc", {"method": "getSensors", "params": {"all": True}},
         "device.command.rpc", "{0}",
         {"deviceId": "{0}", "method": "getSensors", "params": {"all": True}, "requestedBy": USER},
         [("device.response.rpc", {"deviceId": "{0}", "method": "getSensors", "result": {"t": 21.50}, "executionTime": 12},
           (200, {"message": RPC, "deviceId": "{0}", "method": "getSensors", "result": {"t": 21.5}, "executionTime": 12})),
          ("device.response.rpc", {}, (200, {"message": RPC, "deviceId": "{0}", "method": "getSensors"}))],
         device_failures("Ошибка выполнения команды")),
    Case("updateDeviceConfiguration", "PATCH", "/api/devices/{0}/configuration", CONFIGURATION,
         "device.command.config.update", "{0}", {"deviceId": "{0}", "configuration": CONFIGURATION, "requestedBy": USER},
         [("device.response.config.update",
           {"deviceId": "{0}", "appliedConfiguration": {"name": "North"}, "failedFields": ["outputs"]},
           (200, {"message": CONFIGURED, "deviceId": "{0}", "appliedConfiguration": {"name": "North"},
                  "failedFields": ["outputs"]})),
          ("device.configuration.updated",
           {"deviceId": "{0}", "previousConfiguration": {}, "newConfiguration": {"name": "North"}, "updatedBy": USER,
            "updatedAt": AT, "changes": []},
           (200, {"message": CONFIGURED, "deviceId": "{0}", "appliedConfiguration": {"name": "North"}}))],
         device_failures("Ошибка обновления конфигурации")),
    Case("updateDeviceFirmware", "POST", "/api/devices/{0}/ota", {**FIRMWARE, "forced": True}, "device.command.ota", "{0}",
         {"deviceId": "{0}", **FIRMWARE, "forced": True, "requestedBy": USER},
         [("device.response.ota", {"deviceId": "{0}", "status": "completed", "progress": 100, "currentVersion": "2.5.0"},
           (200, {"message": FLASHED, "deviceId": "{0}", "status": "completed", "currentVersion": "2.5.0",
                  "targetVersion": "2.5.0"})),
          ("device.response.ota", {"deviceId": "{0}", "status": "failed"}, plain(400, "Ошибка обновления прошивки"))],
         device_failures("Ошибка обновления прошивки")),
    Case("deleteUser", "DELETE", "/api/users/{0}", None, "user.command.delete", "{0}",
         {"userId": "{0}", "deletedBy": USER, "hardDelete": True},
         [("user.response.delete", {"userId": "{0}"}, (204, None)),
          ("user.deleted", {"userId": "{0}", "email": "", "deletedBy": "system", "deletedAt": AT, "hardDelete": True},
           (204, None))],
         nest_failures("The user was not deleted", USER_MISSING, "USER_NOT_FOUND")),
    Case("deleteOrganization", "DELETE", "/api/organizations/{0}", None, "organization.command.delete", "{0}",
         {"organizationId": "{0}", "deletedBy": USER},
         [("organization.response.delete", {"organizationId": "{0}"}, (204, None)),
          ("organization.deleted", {"organizationId": "{0}", "name": "x", "deletedBy": USER, "deletedAt": AT,
                                    "hardDelete": False}, (204, None))],
         nest_failures("The organization was not deleted", ORGANIZATION_MISSING, "ORGANIZATION_NOT_FOUND")),
    Case("renewCertificate", "POST", "/api/certificates/{0}/renew", {"validityDays": 3650, "keepPrivateKey": True},
         "certificate.command.renew", "{0}",
         {"certificateId": "{0}", "validityDays": 3650, "requestedBy": USER, "keepPrivateKey": True},
         [("certificate.response.renew", RENEWED, RENEWED_ANSWER), ("certificate.renewed", RENEWED, RENEWED_ANSWER)],
         {**device_failures("Ошибка продления сертификата"), "DEVICE_NOT_FOUND": plain(400, REASON),
          "NOT_FOUND": plain(404, "Сертификат не найден"), "CERTIFICATE_NOT_FOUND": plain(404, "Сертификат не найден")}),
    Case("renewCertificate", "POST", "/api/certificates/{0}/renew", None, "certificate.command.renew", "{0}",
         {"certificateId": "{0}", "requestedBy": USER}, [("certificate.renewed", RENEWED, RENEWED_ANSWER)], {}),
]

NEW_USER = {"userId": ID, "email": "{0}@example.com", "name": "Ann Lee", "organizationId": ORGANIZATION}
USER_CREATED = (201, {"id": ID, "email": "{0}@example.com", "name": "Ann Lee", "organizationId": ORGANIZATION,
                      "createdAt": AT, "updatedAt": AT})
CREATED_ORGANIZATION = (201, {"id": ID, "name": "{0}", "description": "d", "domain": "north.example", "isActive": True,
                              "createdAt": AT, "updatedAt": AT})
SIGN, REVOKE = "Внутренняя ошибка сервера при подписании CSR", "Внутренняя ошибка сервера при отзыве сертификата"
REVOKED = (200, {"message": "Сертификат успешно отозван", "deviceId": "{0}", "timestamp": AT})


def certificate_failures(text, missing):
    failures = device_failures(text)
    failures.update({code: plain(500, text) for code in ("EXECUTION_FAILED", "SOMETHING_ELSE", None)})
    failures.update({code: plain(404, missing) for code in ("DEVICE_NOT_FOUND", "NOT_FOUND")})
    return failures


DISABLED = [
    Case("createUser", "POST", "/api/users", NEW_USER, "user.command.create", "{0}@example.com",
         {"email": "{0}@example.com", "firstName": "Ann Lee", "lastName": "-", "organizationId": ORGANIZATION,
          "invitedBy": USER},
         [("user.response.create", {"userId": ID, "createdAt": AT}, USER_CREATED),
          ("user.created", {"userId": ID, "email": "{0}@example.com", "firstName": "Ann Lee", "lastName": "-",
                            "role": "user", "createdAt": AT}, USER_CREATED)],
         nest_failures("The user was not created", conflict="User with email {0}@example.com already exists")),
    Case("updateUser", "PATCH", "/api/users/{0}", {"name": "Ann", "email": "ann@example.com"}, "user.command.update", "{0}",
         {"userId": "{0}", "updates": {"firstName": "Ann", "email": "ann@example.com"}, "updatedBy": USER},
         [("user.response.update", {"userId": "{0}", "newData": {"id": "{0}"}}, (200, {"id": "{0}"})),
          ("user.updated", {"userId": "{0}", "newData": {"id": "{0}"}}, (200, {"id": "{0}"}))],
         nest_failures("The user was not updated", USER_MISSING, "USER_NOT_FOUND")),
    Case("createOrganization", "POST", "/api/organizations",
         {"name": "{0}", "description": "d", "domain": "north.example", "logo": "https://example.com/l.png"},
         "organization.command.create", "{0}",
         {"name": "{0}", "domain": "north.example", "description": "d", "ownerId": USER},
         [("organization.response.create", {"organizationId": ID, "createdAt": AT}, CREATED_ORGANIZATION),
          ("organization.created", {"organizationId": ID, "name": "{0}", "domain": "north.example", "description": "d",
                                    "ownerId": USER, "createdAt": AT, "isEnabled": True}, CREATED_ORGANIZATION)],
         nest_failures("The organization was not created",
                       conflict='Organization with name "{0}" already exists')),
    Case("updateOrganization", "PATCH", "/api/organizations/{0}", {"name": "South", "isActive": False},
         "organization.command.update", "{0}",
         {"organizationId": "{0}", "updates": {"name": "South", "isEnabled": False}, "updatedBy": USER},
         [("organization.response.update", {"organizationId": "{0}", "newData": {"name": "South"}}, (200, {"name": "South"})),
          ("organization.updated", {"organizationId": "{0}", "newData": {"name": "South"}}, (200, {"name": "South"})),
          # Some write it as text.
          ("organization.updated", {"organizationId": "{0}", "newData": '{"name":"South"}'}, (200, {"name": "South"}))],
         nest_failures("The organization was not updated", ORGANIZATION_MISSING, "ORGANIZATION_NOT_FOUND",
                       'Organization with name "South" already exists')),
    Case("signDeviceCSR", "POST", "/api/devices/certificates/{0}/sign-csr", {"csrPem": "pem", "more": 1},
         "certificate.command.create", "{0}",
         {"deviceId": "{0}", "certificateType": "client", "requestedBy": USER, "metadata": {"commonName": "{0}"}},
         [("certificate.response.create", {"certificateId": "c-1", "deviceId": "{0}", "certificatePem": PEM,
                                           "caCertificatePem": PEM, "fingerprint": "AA:BB"},
           (201, {"certificate": PEM, "caCertificate": PEM, "fingerprint": "AA:BB"}))],
         {**certificate_failures(SIGN, "Устройство не найдено"), "VALIDATION_FAILED": plain(400, "Неверные данные CSR"),
          "ALREADY_EXISTS": plain(409, "Сертификат уже существует")}),
    Case("revokeCertificate", "DELETE", "/api/devices/certificates/{0}/certificate", None, "certificate.command.revoke",
         "{0}", {"certificateId": "{0}", "reason": "unspecified", "revokedBy": USER},
         [("certificate.response.revoke", {"deviceId": "{0}", "revokedAt": AT}, REVOKED),
          ("certificate.revoked", {"certificateId": "c-1", "deviceId": "{0}", "serialNumber": "1", "reason": "unspecified",
                                   "revokedBy": USER, "revokedAt": AT, "previousValidTo": AT}, REVOKED)],
         {**certificate_failures(REVOKE, "Устройство или сертификат не найден"), "VALIDATION_FAILED": plain(500, REVOKE),
          "CERTIFICATE_NOT_FOUND": plain(404, "Устройство или сертификат не найден")}),
]


def shipped():
    folder = os.path.join(ROOT, "routes")
    for name in sorted(os.listdir(folder)):
        if name.endswith(".json"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                yield json.load(file)


def fill(value, subject):
    """A copy in which {0} is the subject."""
    if isinstance(value, str):
        return value.replace("{0}", subject)
    if isinstance(value, (list, tuple)):
        return type(value)(fill(item, subject) for item in value)
    return {key: fill(item, subject) for key, item in value.items()} if isinstance(value, dict) else value


def new_subject():
    """An id that is unused so far and good wherever the contract wants a uuid."""
    return "%08x-0000-4000-8000-%012x" % (os.getpid(), next(_numbers))


@pytest.fixture(scope="module")
def legacy():
    stub = LegacyStub()
    yield stub
    stub.close()


@pytest.fixture(scope="module")
def gateway(legacy):
    gateway = Gateway(KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="true", LEGACY_URL=legacy.url)
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def service(gateway):
    with Service(gateway.bootstrap(), topics=ALL_COMMANDS) as service:
        yield service


@pytest.fixture(scope="module")
def all_enabled():
    """Without a legacy backend: what is no command is refused."""
    gateway = Gateway(copy_routes(lambda route: route.update(enabled=True) if "enabled" in route else None),
                      KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="only")
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def full_service(all_enabled):
    with Service(all_enabled.bootstrap(), topics=ALL_COMMANDS) as service:
        yield service


def call(gateway, case, subject, headers=None):
    return gateway.call(case.method, fill(case.path, subject), fill(case.body, subject),
                        bearer() if headers is None else headers)


def reply_to(event_type, payload):
    """A handler that sends this reply; of the response kind with success true."""
    more = {"success": True} if ".response." in event_type else {}
    return answer(lambda command: envelope(event_type, command.id, payload, **more))


def failing(case, code, **more):
    error = {"error": {"code": code, "message": REASON}} if code else {}
    event_type = case.event_type.replace(".command.", ".response.")
    return answer(lambda command: envelope(event_type, command.id, {}, success=False, **error, **more))


def check_answer(response, status, body):
    assert response.status == status, response
    if body is None:
        assert response.body == b""
    else:
        assert response.json() == body


def check_success(gateway, service, case, event_type, payload, expected):
    subject = new_subject()
    service.on(fill(case.key, subject), reply_to(event_type, fill(payload, subject)))
    check_answer(call(gateway, case, subject), *fill(expected, subject))
    command = service.wait_command(fill(case.key, subject))
    check_command(command, case.event_type, fill(case.payload, subject), f"{case.family}.commands.v1",
                  fill(case.key, subject))


def check_failures(gateway, service, case):
    for code, expected in case.failures.items():
        subject = new_subject()
        service.on(fill(case.key, subject), failing(case, code))
        check_answer(call(gateway, case, subject), *fill(expected, subject))


def successes(cases):
    return [pytest.param(case, *reply, id=f"{case}-{reply[0]}-{number}")
            for case in cases for number, reply in enumerate(case.replies)]


def test_every_command_of_the_contract_has_a_route():
    have = {route["command"]["eventType"] for route in shipped() if "command" in route}
    wanted = {"device.command." + name for name in ("bind", "unbind", "rpc", "config.update", "ota")}
    wanted |= {f"{family}.command.{name}" for family in ("user", "organization") for name in ("create", "update", "delete")}
    wanted |= {"certificate.command." + name for name in ("create", "revoke", "renew")}
    assert wanted <= have


def test_the_tables_above_have_every_route():
    enabled = {case.operation for case in ENABLED} | {"bindDeviceQR", "unbindDevice"}
    for route in shipped():
        if ".command." in route.get("command", {}).get("eventType", ""):
            assert route["operationId"] in (enabled if route.get("enabled", True) else {case.operation for case in DISABLED})


def test_the_tests_know_the_topics():
    assert reply_topics(os.path.join(ROOT, "routes")) <= set(TOPICS)


def test_the_openapi_document_has_every_status_of_the_rules():
    """And what the gateway says when Kafka or legacy fails."""
    with open(os.path.join(ROOT, "openapi", "openapi.json"), encoding="utf-8") as file:
        paths = json.load(file)["paths"]
    for route in shipped():
        told = set(paths[route["path"]][route["method"].lower()]["responses"])
        answers = [rule["status"] for rule in route.get("replies", []) if "status" in rule] + [501, 502, 503, 504]
        assert {str(status) for status in answers} <= told, route["operationId"]


@pytest.mark.parametrize("case, event_type, payload, expected", successes(ENABLED))
def test_success(gateway, service, case, event_type, payload, expected):
    check_success(gateway, service, case, event_type, payload, expected)


@pytest.mark.parametrize("case", ENABLED, ids=repr)
def test_failures(gateway, service, case):
    check_failures(gateway, service, case)


@pytest.mark.parametrize("case, event_type, payload, expected", successes(DISABLED))
def test_a_disabled_route_works_when_it_is_enabled(all_enabled, full_service, case, event_type, payload, expected):
    check_success(all_enabled, full_service, case, event_type, payload, expected)


@pytest.mark.parametrize("case", DISABLED, ids=repr)
def test_failures_of_a_disabled_route_that_is_enabled(all_enabled, full_service, case):
    check_failures(all_enabled, full_service, case)


@pytest.mark.parametrize("case", DISABLED, ids=repr)
def test_a_disabled_route_leaves_its_requests_to_legacy(gateway, service, legacy, case):
    """As if there were no file: nothing is checked, no token is needed, nothing is produced."""
    subject = new_subject()
    path = fill(case.path, subject) + "?of=" + subject
    response = gateway.call(case.method, path, fill(case.body, subject), {})
    check_answer(response, 200, {"legacy": True, "path": path})
    [seen] = legacy.requests_with("?of=" + subject)
    assert seen["method"] == case.method and (json.loads(seen["body"]) if case.body else None) == fill(case.body, subject)
    assert service.commands_of(fill(case.key, subject)) == []


@pytest.mark.parametrize("path, body, status", [
    ("/api/devices/{0}/rpc", {"method": "noSuchMethod"}, 400),
    ("/api/devices/{0}/rpc", {"method": "reboot", "params": []}, 400),
    ("/api/devices/{0}/rpc", {"method": "reboot", "more": 1}, 400),
    ("/api/devices/{0}/ota", {**FIRMWARE, "downloadUrl": "www.example.com"}, 400),
    ("/api/devices/{0}/ota", {"firmwareVersion": "1"}, 400),
    ("/api/certificates/{0}/renew", {"validityDays": 3651}, 400),
    ("/api/certificates/{0}/renew", {"validityDays": 0}, 400),
    ("/api/certificates/{0}/renew", {"keepPrivateKey": None}, 400),
])
def test_bad_input(gateway, service, path, body, status):
    subject = new_subject()
    response = gateway.call("POST", fill(path, subject), body, bearer())
    assert response.status == status and "bodyResult" in response.json(), response
    assert gateway.call("POST", fill(path, subject), body, {}).status == 401
    assert service.commands_of(subject) == []


@pytest.mark.parametrize("configuration", [
    {"samplingInterval": 999}, {"reportingInterval": 4999}, {"samplingInterval": 1000.5}, {"sensors": [{"id": "a"}]},
    {"outputs": [{"id": "a", "enabled": 1}]}, {"colour": "red"}, []])
def test_bad_configuration(gateway, configuration):
    response = gateway.call("PATCH", "/api/devices/GH-1/configuration", configuration, bearer())
    assert response.status == 400 and "bodyResult" in response.json(), response


@pytest.mark.parametrize("headers", [
    {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": "application/json; charset=utf-16"},
    {"Content-Type": "application/json", "Content-Encoding": "gzip"}], ids=str)
def test_a_body_that_may_be_left_out_but_cannot_be_read_is_refused(all_enabled, full_service, headers):
    """Without a legacy backend that could read it: the certificate must not be renewed for another time than the caller asks."""
    subject = new_subject()
    full_service.on(subject, reply_to("certificate.renewed", {}))
    path = f"/api/certificates/{subject}/renew"
    response = all_enabled.call("POST", path, b'{"validityDays":10}', {**headers, **bearer()})
    assert response.status == 400 and response.json()["bodyResult"]["issues"][0]["message"] == "Required", response
    assert full_service.commands_of(subject) == []
    assert all_enabled.call("POST", path, b"", {**headers, **bearer(), "Content-Length": "0"}).status == 200


@pytest.mark.parametrize("path", ["/api/users/42", "/api/organizations/42"])
def test_an_id_that_the_command_cannot_hold_takes_legacy(gateway, all_enabled, legacy, path):
    assert gateway.call("DELETE", path, None, bearer()).status == 200
    assert [r["method"] for r in legacy.requests_with(path)][-1] == "DELETE"
    response = all_enabled.call("DELETE", path, None, bearer())
    assert response.status == 501, response


def test_with_the_flag_off_everything_is_legacys(stoppable, legacy):
    """New endpoints too: what legacy answers there, a 404, is the answer."""
    off = stoppable(Gateway(FEATURE_KAFKA_EVENTS="false", LEGACY_URL=legacy.url))
    subject = new_subject()
    for case in ENABLED + DISABLED:
        path = fill(case.path, subject)
        check_answer(call(off, case, subject, {}), 200, {"legacy": True, "path": path})


def test_a_failure_event_is_a_rule_like_any_other(stoppable):
    """Of a service that tells of failures by events alone."""
    def change(route):
        if route["operationId"] == "deleteUser":
            route["replies"].append({"topic": "user.events.v1", "eventType": "user.deletion.failed", "status": 409,
                                     "body": {"message": "${reply.payload.reason}"}})

    gateway = stoppable(Gateway(copy_routes(change), KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="only"))
    subject = new_subject()
    with Service(gateway.bootstrap(), topics=ALL_COMMANDS) as service:
        service.on(subject, answer(lambda command: envelope("user.deletion.failed", command.id, {"reason": "owns devices"})))
        check_answer(gateway.call("DELETE", f"/api/users/{subject}", None, bearer()), *plain(409, "owns devices"))


def test_now_is_the_time_of_the_answer(stoppable):
    """A certificate is not renewed before the service says so."""
    def change(route):
        if route["operationId"] == "renewCertificate":
            for rule in route["replies"]:
                if rule["status"] == 200:
                    rule["body"] = {"sent": "${reply.sent}", "now": "${nowMs}"}

    gateway = stoppable(Gateway(copy_routes(change), KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="only"))
    with Service(gateway.bootstrap(), topics=ALL_COMMANDS) as service:
        def reply(service, command):
            while now_text() <= command.value["timestamp"]:
                pass  # the clock has not moved since
            service.send(envelope("certificate.renewed", command.id, {}, sent=int(time.time() * 1000)),
                         topic="certificate.events.v1")

        service.default = reply
        response = gateway.call("POST", "/api/certificates/c-1/renew", None, bearer())
        assert response.status == 200 and response.json()["now"] >= response.json()["sent"], response


def test_topics_have_other_names(stoppable):
    gateway = stoppable(Gateway(KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="only",
                                SYNCGATE_TOPIC_NAMES="organization.commands.v1=org.in, organization.events.v1=org.out,"
                                                     "organization.commands.responses.v1=org.replies"))
    subject = new_subject()
    with Service(gateway.bootstrap(), topics=("org.in",)) as service:
        def reply(service, command):
            assert command.headers["kafka_replyTopic"] == b"org.replies"
            value = envelope("organization.deleted", command.id, {"organizationId": subject})
            service.send(value, topic="org.out", headers=reply_headers(value))

        service.on(subject, reply)
        check_answer(gateway.call("DELETE", f"/api/organizations/{subject}", None, bearer()), 204, None)
        assert service.wait_command(subject).topic == "org.in"


def test_the_worked_example_of_the_docs_works(stoppable, tmp_path):
    """docs/routes.md, "Adding a command": its files as they stand there, added to those that are shipped."""
    with open(os.path.join(ROOT, "docs", "routes.md"), encoding="utf-8") as file:
        section = file.read().split("## Adding a command")[1].split("\n## ")[0]
    paths, schemas, command_schema, route, message = [
        json.loads(block.split("```")[0].replace("2c9d...", ID).replace("5e0c...", USER))
        for block in section.split("```json\n")[1:]]
    folder = copy_routes(lambda route: None)
    with open(os.path.join(ROOT, "openapi", "openapi.json"), encoding="utf-8") as file:
        openapi = json.load(file)
    openapi["paths"].update(paths)
    openapi["components"]["schemas"].update(schemas)
    for name, content in ((tmp_path / "openapi.json", openapi), (os.path.join(folder, "set-light.json"), route),
                          (os.path.join(folder, "schemas", "room-commands.json"), command_schema)):
        with open(name, "w", encoding="utf-8") as file:
            json.dump(content, file)
    gateway = stoppable(Gateway(folder, KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="only",
                                SYNCGATE_OPENAPI=tmp_path / "openapi.json"))
    with Service(gateway.bootstrap(), topics=("room.commands",)) as service:
        def reply(status, body, **value):
            service.on("12", lambda service, command: service.send(
                {"eventType": "room.response.light", "correlationId": command.id, "timestamp": 1756714530455, **value},
                topic="room.replies"))
            check_answer(gateway.call("PUT", "/api/rooms/12/light", {"level": 40}, bearer()), status, body)

        reply(200, {"room": "12", "level": 40, "at": AT}, success=True, payload={"level": 40})
        reply(404, {"message": "There is no room 12"}, success=False, error={"code": "NO_SUCH_ROOM"})
        reply(400, {"message": "broken"}, success=False, error={"code": "X", "message": "broken"})
        command = service.wait_command("12")
        expected = {**message, "correlationId": command.id, "timestamp": command.value["timestamp"]}
        assert command.value == expected and list(command.value) == list(expected)
        assert gateway.call("PUT", "/api/rooms/12/light", {"level": 101}, bearer()).status == 400
        assert gateway.call("PUT", "/api/rooms/attic/light", {"level": 4}, bearer()).status == 501
