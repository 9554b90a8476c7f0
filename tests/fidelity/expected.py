# SPDX-License-Identifier: Apache-2.0
"""What the legacy backend answers to bind-qr and unbind, written down from the facts that were seen on the wire (legacy
contract sections 0.1-0.3, 1.2, 2 and 6), not from the example service: a request is judged here before any program sees it.
Texts of JSON.parse() are in v8_messages.json, recorded from Node.js 20.20 behind body-parser 2.2."""
import copy
import re

BIND, UNBIND = "/api/devices/bind-qr", "/api/devices/unbind"
ABSENT = object()  # no body, or one of a type that is not read: undefined
TIME, ID = "<time>", "<id>"
UUID = re.compile(r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")


class Answer:
    def __init__(self, status, body):
        self.status, self.body = status, body


def nest(status, message):
    error = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}[status]
    return Answer(status, {"message": message, "error": error, "statusCode": status})


def parser_error(status, message):
    return Answer(status, {"statusCode": status, "message": message})


UNAUTHORIZED = nest(401, "Ошибка аутентификации")
TOO_LARGE = parser_error(413, "request entity too large")
NO_COMMAND = Answer(501, {"message": "This request has no Kafka command, and the legacy path is off",
                          "error": "Not Implemented", "statusCode": 501, "code": "NO_KAFKA_COMMAND", "correlationId": ID})


def unsupported_charset(name):
    return parser_error(415, f'unsupported charset "{name}"')


# ---- validation (section 0.3) ----

VALID, DIRTY, ABORTED = range(3)


def type_name(value):
    if value is ABSENT:
        return "undefined"
    if value is None:
        return "null"
    return {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}[type(value)]


def utf16_length(text):
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def wrong_type(expected, value, path):
    received = type_name(value)
    return {"code": "invalid_type", "expected": expected, "received": received, "path": path,
            "message": "Required" if value is ABSENT else f"Expected {expected}, received {received}"}


def string(value, path, low=None, high=None, start=None):
    if not isinstance(value, str):
        return ABORTED, [wrong_type("string", value, path)]
    issues, length = [], utf16_length(value)
    if low is not None and length < low:
        issues.append({"code": "too_small", "minimum": low, "type": "string", "inclusive": True, "exact": False,
                       "message": f"String must contain at least {low} character(s)", "path": path})
    if high is not None and length > high:
        issues.append({"code": "too_big", "maximum": high, "type": "string", "inclusive": True, "exact": False,
                       "message": f"String must contain at most {high} character(s)", "path": path})
    if start is not None and not value.startswith(start):
        issues.append({"code": "invalid_string", "validation": {"startsWith": start},
                       "message": f'Invalid input: must start with "{start}"', "path": path})
    return (DIRTY if issues else VALID), issues


def number(value, path):
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (VALID, []) if good else (ABORTED, [wrong_type("number", value, path)])


def js_key_order(keys):
    """Array indexes first, ascending; the others as they came."""
    indexes = [key for key in keys if re.match(r"^(0|[1-9]\d{0,9})$", key) and int(key) < 2**32 - 1]
    return sorted(indexes, key=int) + [key for key in keys if key not in indexes]


def obj(value, path, fields, strict):
    """fields: [(name, optional, check)]."""
    if not isinstance(value, dict):
        return ABORTED, [wrong_type("object", value, path)]
    worst, issues = VALID, []
    for name, optional, check in fields:
        field = value.get(name, ABSENT)
        if field is ABSENT and optional:
            continue
        outcome, found = check(field, path + [name])
        worst, issues = max(worst, outcome), issues + found
    known = [name for name, _, _ in fields]
    extra = js_key_order([name for name in value if name not in known])
    if strict and extra:
        text = ", ".join(f"'{name}'" for name in extra)
        issues.append({"code": "unrecognized_keys", "keys": extra, "path": path,
                       "message": f"Unrecognized key(s) in object: {text}"})
        worst = max(worst, DIRTY)
    return worst, issues


def qr_data(value, path):
    shapes = [
        [("deviceId", False, string), ("fingerprint", False, string), ("v", True, number)],
        [("deviceId", False, string), ("bindingToken", False, lambda v, p: string(v, p, 16, 64)), ("v", True, number)],
        [("deviceId", False, string), ("fingerprint", False, string),
         ("keyHash", False, lambda v, p: string(v, p, start="sha256-")), ("v", True, number)],
    ]
    errors = []
    for shape in shapes:
        outcome, issues = obj(value, path, shape, True)
        if outcome == VALID:
            return VALID, []
        errors.append((outcome, issues))
    for outcome, issues in errors:
        if outcome == DIRTY:
            return DIRTY, issues
    return ABORTED, [{"code": "invalid_union", "unionErrors": [{"issues": issues, "name": "ZodError"} for _, issues in errors],
                      "path": path, "message": "Invalid input"}]


def invalid(route, value):
    """The E-val answer, or None when the body is good."""
    if route == BIND:
        outcome, issues = obj(value, [], [("qrData", False, qr_data)], True)
    else:
        outcome, issues = obj(value, [], [("deviceId", False, string), ("reason", True, string)], False)
    if outcome == VALID:
        return None
    return Answer(400, {"paramsResult": None, "headersResult": None, "queryResult": None,
                        "bodyResult": {"issues": issues, "name": "ZodError"}})


# ---- the endpoints (section 1.2) ----


class Legacy:
    """The devices and what is done to them, as seen through a gateway with this flag. `only`: it has no legacy path, and what
    fits no command is 501."""

    def __init__(self, count, flag=None):
        self.owners, self.flag = {f"GH-{n}": None for n in range(1, count + 1)}, flag

    def answer(self, case):
        """In the order of checks: body, token, route, validation, endpoint."""
        if case.by_flag.get(self.flag) is not None:
            return case.by_flag[self.flag]
        if case.answer is not None:
            return case.answer
        if isinstance(case.value, Answer):
            return case.value
        if case.user is None:
            return UNAUTHORIZED
        if case.route is None:
            return nest(404, f"Cannot {case.method} {case.path}")
        refusal = invalid(case.route, case.value)
        if refusal:
            return refusal
        body = case.value["qrData"] if case.route == BIND else case.value
        if self.flag == "only" and not (body["deviceId"] and UUID.match(case.user) and (case.route == UNBIND or "bindingToken" in body)):
            return NO_COMMAND
        return (self.bind if case.route == BIND else self.unbind)(body["deviceId"], case.user)

    def bind(self, device, user):
        if device not in self.owners:
            return Answer(404, {"message": "Устройство не найдено"})
        if self.owners[device]:
            return Answer(409, {"message": "Устройство уже привязано", "code": "ALREADY_BOUND"})
        self.owners[device] = user
        return Answer(200, {"message": "Устройство успешно привязано",
                            "device": {"deviceId": device, "userId": user, "boundAt": TIME, "status": "bound"}})

    def unbind(self, device, user):
        if device not in self.owners:
            return Answer(404, {"message": "Устройство не найдено"})
        if not self.owners[device]:
            return Answer(400, {"message": f"Device with ID {device} is already unbound"})
        if self.owners[device] != user:
            return Answer(400, {"message": f"User {user} is not the owner of device {device}"})
        self.owners[device] = None
        return Answer(200, {"message": "Устройство успешно отвязано", "deviceId": device})


def normalised(value):
    """Times and ids that differ from run to run."""
    if isinstance(value, dict):
        return {key: ID if key == "correlationId" else normalised(item) for key, item in value.items()}
    if isinstance(value, list):
        return [normalised(item) for item in value]
    if isinstance(value, str) and re.match(r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$", value):
        return TIME
    return copy.copy(value)
