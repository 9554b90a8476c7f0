# SPDX-License-Identifier: Apache-2.0
"""A gateway whose flags and files change while it runs, and the fixtures of the tests that change them."""
import json
import signal

import pytest

from gateway import Gateway
from http_client import request
from legacy_stub import LegacyStub
from process import eventually
from service import Service, answer, bind_response

ALICE, BOB = "alice-token-0123456789", "bob-token-01234567890"
TOKENS = f"alice:{ALICE},bob:{BOB}"
COMMON, OPERATION = "/admin/flags", "/admin/flags/bindDeviceQR"


def auth(token=ALICE):
    return {"Authorization": "Bearer " + token}


class Switched(Gateway):
    def flag(self, method, path, value=None, token=ALICE):
        body = None if value is None else {"value": value}
        return request(self.admin, method, path, body, auth(token) if token else {})

    def set(self, path, value):
        answer_ = self.flag("PUT", path, value)
        assert answer_.status == 200, answer_
        return answer_.json()

    def reload(self, ok=True):
        msg = "configuration reloaded" if ok else "configuration not reloaded, the old one stays"
        before = len([line for line in self.logs() if line.get("msg") == msg])
        self.popen.send_signal(signal.SIGHUP)
        eventually(lambda: len([line for line in self.logs() if line.get("msg") == msg]) > before, msg)
        return [line for line in self.logs() if line.get("msg") == msg][-1]

    def path_of(self, answer_):
        """The path that the log says a call took."""
        wanted = answer_.header("X-Correlation-Id")
        return self.wait_log("exchange", correlationId=wanted)["path"]


@pytest.fixture(scope="module")
def legacy():
    stub = LegacyStub()
    yield stub
    stub.close()


@pytest.fixture
def config(tmp_path):
    """write(**content) writes the configuration file, and returns its name."""
    path = tmp_path / "syncgate.json"

    def write(**content):
        path.write_text(json.dumps(content))
        return str(path)

    write()
    return write


@pytest.fixture
def start(legacy, stoppable):
    def make(file=None, **settings):
        env = {"KAFKA_BROKERS": "embedded", "FEATURE_KAFKA_EVENTS": "true", "LEGACY_URL": legacy.url,
               "SYNCGATE_ADMIN_TOKENS": TOKENS, **settings}
        return stoppable(Switched(config=file, **env))

    return make


class Answering(Service):
    """Answers every bind, whatever the device."""

    class All(dict):
        def get(self, _key, _default=None):
            return answer(bind_response)

    def __init__(self, bootstrap):
        super().__init__(bootstrap)
        self.handlers = self.All()
