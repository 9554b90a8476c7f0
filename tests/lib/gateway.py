# SPDX-License-Identifier: Apache-2.0
"""The gateway under test: started on free ports, its JSON log lines collected, its metrics read, its end checked."""
import json
import os
import re
import shutil
import tempfile

from http_client import request
from process import PATIENCE_S, ROOT, Process, clean_environment, eventually, program
from tokens import SECRET, bearer

BIND, UNBIND = "/api/devices/bind-qr", "/api/devices/unbind"
QR_TOKEN = "q7Zt91LmPa03Xw5c"
# What keeps the circuit breakers out of tests that break things on purpose and look at each call by itself.
WITHOUT_BREAKER = {"SYNCGATE_BREAKER": "false"}


def copy_routes(change):
    """A copy of routes/ in which change(route) has been applied to each route; returns the folder."""
    folder = os.path.join(tempfile.mkdtemp(prefix="syncgate-routes-"), "routes")
    shutil.copytree(os.path.join(ROOT, "routes"), folder)
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if not name.endswith(".json"):
            continue
        with open(path, encoding="utf-8") as file:
            route = json.load(file)
        change(route)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(route, file, ensure_ascii=False)
    return folder


def reply_topics(folder):
    """The topics that the enabled routes of this folder need for replies."""
    topics = set()
    for name in os.listdir(folder):
        if name.endswith(".json"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                route = json.load(file)
            if route.get("enabled", True):
                topics.update(rule["topic"] for rule in route.get("replies", []))
    return topics


class Gateway(Process):
    """settings: environment variables of the gateway, None removes a default of this class. Returns when the gateway is
    ready and its Kafka path is open."""

    def __init__(self, routes=None, wait_ready=True, wait_kafka=True, config=None, **settings):
        env = {
            "SYNCGATE_LISTEN": "127.0.0.1:0",
            "SYNCGATE_ADMIN_LISTEN": "127.0.0.1:0",
            "SYNCGATE_LOOPS": 2,
            "SYNCGATE_ROUTES": routes,
            "AUTH_HS256_SECRET": SECRET,
            "SHUTDOWN_DELAY": "0s",
        }
        env.update(settings)
        self._routes = routes or os.path.join(ROOT, "routes")
        self._temporary = os.path.dirname(routes) if routes and routes.startswith(tempfile.gettempdir()) else None
        argv = [program("syncgate"), "--config", config] if config else [program("syncgate")]
        super().__init__(argv, clean_environment(env), name="gateway")
        listening = self.wait_log("listening")
        self.address, self.admin = listening["listen"], listening["admin"]
        if wait_ready:
            self.wait_log("ready")
            self.wait_ready()
            if wait_kafka and env.get("KAFKA_BROKERS") and env.get("FEATURE_KAFKA_EVENTS") not in ("false", "off", None):
                self.wait_kafka()

    def wait_log(self, msg, timeout_s=PATIENCE_S, **fields):
        """The first log line with this msg and these fields."""

        def wanted(line):
            entry = parse_log(line)
            if entry.get("msg") == msg and all(entry.get(name) == value for name, value in fields.items()):
                return entry
            return None

        return self.wait_line(self.stderr, wanted, f"log line {msg!r} {fields}", timeout_s)

    def wait_ready(self, timeout_s=PATIENCE_S):
        eventually(lambda: self.admin_get("/health/ready").status == 200, "/health/ready", timeout_s)

    def wait_kafka(self):
        """Where legacy can serve, readiness does not wait for the Kafka path. It is open when the partitions of all
        reply topics (three or more each) are read."""
        wanted = 3 * len(reply_topics(self._routes))
        eventually(lambda: self.metrics().sum("syncgate_kafka_reply_partitions") >= wanted, "the reply topics are read")

    def logs(self):
        return [parse_log(line) for line in list(self.stderr.all)]

    def admin_get(self, path):
        return request(self.admin, "GET", path)

    def call(self, method, path, body=None, headers=None, **kwargs):
        return request(self.address, method, path, body, headers, **kwargs)

    def bind(self, device_id, headers=None, qr=None, **kwargs):
        qr = qr or {"deviceId": device_id, "bindingToken": QR_TOKEN}
        return self.call("POST", BIND, {"qrData": qr}, bearer() if headers is None else headers, **kwargs)

    def unbind(self, device_id, headers=None, **fields):
        return self.call("POST", UNBIND, {"deviceId": device_id, **fields}, bearer() if headers is None else headers)

    def bootstrap(self):
        """The address of the embedded broker."""
        return self.wait_log("embedded broker")["bootstrap"]

    def metrics(self):
        return Metrics(self.admin_get("/metrics").body.decode())

    def stop(self, expect=0):
        try:
            super().stop(expect)
        finally:
            if self._temporary:
                shutil.rmtree(self._temporary, ignore_errors=True)


def parse_log(line):
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


class Metrics:
    """Prometheus text format 0.0.4."""

    SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$')
    LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"(?:,|$)')

    def __init__(self, text):
        self.text = text
        self.types, self.samples = {}, []
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ")
                self.types[name] = kind
            elif line and not line.startswith("#"):
                match = self.SAMPLE.match(line)
                assert match, f"not a sample: {line!r}"
                name, labels, value = match.groups()
                self.samples.append((name, dict(self.LABEL.findall(labels or "")), float(value)))

    def sum(self, name, **labels):
        """The sum over all samples of this name that carry these labels; 0 without any."""
        return sum(value for sample, have, value in self.samples
                   if sample == name and all(have.get(key) == wanted for key, wanted in labels.items()))
