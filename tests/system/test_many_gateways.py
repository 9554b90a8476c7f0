# SPDX-License-Identifier: Apache-2.0
"""Several gateways behind nginx, on real Kafka, under a steady load: one is killed, one is drained, one is added. Every
request is answered by its own reply, or fails because it was on a connection of the one that was killed.

sg-load checks each answer (status, kind, device), nginx logs which gateway gave it. The default is short; the full form is

    SG_MANY_RATE=2000 SG_MANY_SECONDS=60 SG_MANY_CONNECTIONS=64 ... pytest -s tests/system/test_many_gateways.py
"""
import collections
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

from device_service import DeviceService
from gateway import Gateway
from http_client import request
from process import Process, clean_environment, eventually, program
from service import RESPONSES
from tokens import token
from wire import free_addresses

RATE = float(os.environ.get("SG_MANY_RATE", 150))
SECONDS = float(os.environ.get("SG_MANY_SECONDS", 8))
CONNECTIONS = int(os.environ.get("SG_MANY_CONNECTIONS", 16))
GATEWAYS, KILLED, DRAINED, STAYS, ADDED = 4, 0, 1, 2, 3
SHARED_TOPIC = "many.gateways.shared"


class Balancer(Process):
    """nginx with its defaults for a group of servers: a refused connection goes to the next one, a POST that was sent goes
    nowhere else. It does not ask /health/ready itself; who does (here the test) says which group is in use: groups is a list
    of lists of addresses, use(n) takes the n-th from now on, without a reload that would close clients' connections."""

    CONF = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log crit;
events {{ worker_connections 1024; }}
http {{
    log_format line escape=json
        '{{"status":$status,"upstream":"$upstream_addr","uri":"$uri","body":"$request_body"}}';
    access_log {folder}/access.log line; keepalive_requests 100000000;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {groups}
    proxy_http_version 1.1; proxy_set_header Connection "";
    server {{ listen {listen}; location / {{ set $group group-0; {choices} proxy_pass http://$group; }} }}
}}
"""
    GROUP = "upstream group-{number} {{ {servers} keepalive 32; keepalive_requests 100000000; }}"
    CHOICE = "if (-f {folder}/use-{number}) {{ set $group group-{number}; }}"

    def __init__(self, groups):
        self.folder = tempfile.mkdtemp(prefix="syncgate-many-")
        self.address, = free_addresses(1)
        conf = os.path.join(self.folder, "nginx.conf")
        blocks = [self.GROUP.format(number=number, servers=" ".join(
            f"server {address} max_fails=1 fail_timeout=1s;" for address in addresses))
                  for number, addresses in enumerate(groups)]
        choices = [self.CHOICE.format(folder=self.folder, number=number) for number in range(1, len(groups))]
        with open(conf, "w", encoding="utf-8") as file:
            file.write(self.CONF.format(folder=self.folder, groups="\n    ".join(blocks), listen=self.address,
                                        choices=" ".join(choices)))
        binary = shutil.which("nginx") or "/usr/sbin/nginx"
        super().__init__([binary, "-e", self.folder + "/error.log", "-p", self.folder, "-c", conf],
                         clean_environment({}), name="nginx")
        eventually(self._answers, "nginx listens")

    def _answers(self):
        assert self.popen.poll() is None, self.tail()
        try:
            return request(self.address, "GET", "/") is not None
        except OSError:
            return False

    def use(self, number):
        with open(os.path.join(self.folder, f"use-{number}"), "w", encoding="ascii"):
            pass

    def calls(self):
        """(status, gateway that answered, kind, device) in the order of the answers."""
        found = []
        with open(os.path.join(self.folder, "access.log"), encoding="utf-8") as file:
            for line in map(json.loads, file):
                if not line["body"]:
                    continue  # that nginx is there
                body = json.loads(line["body"])
                device = body["deviceId"] if "deviceId" in body else body["qrData"]["deviceId"]
                found.append((line["status"], line["upstream"].split(", ")[-1],
                              "unbind" if line["uri"].endswith("unbind") else "bind", device))
        return found

    def stop(self, expect=0):
        super().stop(expect)
        shutil.rmtree(self.folder, ignore_errors=True)


def shared_topics(_number):
    return {}


def own_topics(number):
    return {"SYNCGATE_REPLY_TOPIC": f"many.gateways.{number}"}


def own_partitions(number):
    return {"SYNCGATE_REPLY_TOPIC": SHARED_TOPIC, "SYNCGATE_REPLY_PARTITION": number}


SETUPS = {"shared topics": shared_topics, "own topics": own_topics, "own partitions": own_partitions}


def reply_topics(cluster):
    """What the set-ups need besides the routes' topics; made once."""
    known = cluster.admin().list_topics(timeout=10).topics
    if SHARED_TOPIC not in known:
        cluster.create_topics(SHARED_TOPIC, partitions=GATEWAYS)
        cluster.create_topics(*(f"many.gateways.{number}" for number in range(GATEWAYS)), partitions=2)


class Load:
    def __init__(self, address, folder):
        path = os.path.join(folder, "token")
        with open(path, "w", encoding="ascii") as file:
            file.write(token(lifetime_s=86400))
        self.popen = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", program("bench/sg-load"), "--target", address, "--connections",
             str(CONNECTIONS), "--base", "1", "--rate", str(RATE), "--warmup", "1", "--seconds", str(SECONDS),
             "--token", path, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.started = time.monotonic()

    def wait_until(self, part):
        """Of the measured time: the load itself is what these tests are about, nothing announces its middle."""
        time.sleep(max(0, self.started + 1 + part * SECONDS - time.monotonic()))

    def end(self):
        out, err = self.popen.communicate(timeout=SECONDS + 120)
        assert out, err
        return json.loads(out.splitlines()[-1]), err


def expect_only_the_killed_one_failed(calls, result, killed, said):
    """A call that the killed gateway did not answer has an unknown outcome: the next one of that device may find it done."""
    seen, unknown, cut = set(), set(), 0
    for status, gateway, kind, device in calls:
        first, seen = device not in seen, seen | {device}
        if status == 200:
            unknown.discard(device)
            continue
        if status == 502:
            assert gateway == killed, (status, gateway, kind, device, said)
            unknown.add(device)
            cut += 1
            continue
        # 400: sg-load unbinds what may or may not be bound. 409: the cut bind was executed after that.
        assert (status == 400 and kind == "unbind" and (first or device in unknown)) or \
            (status == 409 and device in unknown), (status, gateway, kind, device, said)
        if status == 409:
            cut += 1
    assert result["crossed"] == 0 and result["errors"] == 0, (result, said)
    assert result["unexpected"] == cut, (result, said)
    return cut


@pytest.mark.parametrize("setup", SETUPS)
def test_one_killed_one_drained_one_added(kafka, stoppable, tmp_path, setup):
    reply_topics(kafka)
    device = stoppable(DeviceService(kafka.bootstrap, devices=CONNECTIONS))
    addresses = free_addresses(GATEWAYS)

    def start(number):
        return stoppable(Gateway(wait_kafka=False, KAFKA_BROKERS=kafka.bootstrap, FEATURE_KAFKA_EVENTS="only",
                                 SYNCGATE_LISTEN=addresses[number], SYNCGATE_LOOPS=1, SHUTDOWN_DELAY="2s",
                                 **SETUPS[setup](number)))

    gateways = [start(number) for number in (KILLED, DRAINED, STAYS)]
    balancer = stoppable(Balancer([[addresses[number] for number in group] for group in (
        (KILLED, DRAINED, STAYS), (KILLED, STAYS), (KILLED, STAYS, ADDED))]))
    load = Load(balancer.address, tmp_path)
    load.wait_until(0.25)
    gateways[KILLED].signal(signal.SIGKILL)
    load.wait_until(0.45)
    gateways[DRAINED].signal(signal.SIGTERM)
    eventually(lambda: gateways[DRAINED].admin_get("/health/ready").status == 503, "it says that it leaves")
    balancer.use(1)
    assert gateways[DRAINED].wait_exit() == 0
    load.wait_until(0.65)
    gateways.append(start(ADDED))  # returns when it is ready
    balancer.use(2)
    result, said = load.end()
    calls = balancer.calls()

    cut = expect_only_the_killed_one_failed(calls, result, addresses[KILLED], said)
    answered = collections.Counter((gateway, kind) for status, gateway, kind, _ in calls if status in (200, 400))
    by_gateway = {address: answered[address, "bind"] + answered[address, "unbind"] for address in addresses}
    assert all(by_gateway.values()), by_gateway
    for number in (STAYS, ADDED):
        metrics = gateways[number].metrics()
        assert metrics.sum("syncgate_awaiter_wins_total", winner="reply") == by_gateway[addresses[number]]
        for wrong in ("mismatched", "invalid", "late"):
            assert metrics.sum("syncgate_replies_total", result=wrong) == 0, wrong
    assert max(device.executions()["kafka"]["byCorrelationId"].values()) == 1

    # What the one that was there all the time had to read: an unbind is answered by a broadcast event, a bind by a reply.
    metrics = gateways[STAYS].metrics()
    binds = sum(answered[address, "bind"] for address in addresses)
    unbinds = sum(answered[address, "unbind"] for address in addresses)
    records = metrics.sum("syncgate_kafka_records_total")
    expected = unbinds + (binds if setup == "shared topics" else answered[addresses[STAYS], "bind"])
    slack = 2 * cut + 2 * CONNECTIONS  # commands of calls that were cut, and refused unbinds
    assert expected - slack <= records <= expected + slack, (records, expected, slack)
    print(f"\n{setup}: {len(calls)} calls, {result['rps']:.0f}/s, p50 {result['p50_ms']:.2f} ms, p99 {result['p99_ms']:.2f} "
          f"ms, max {result['max_ms']:.0f} ms; failed with the killed gateway: {cut}; answered by each: "
          f"{list(by_gateway.values())}; records read by the one that stays: {records:.0f}, strangers' "
          f"{metrics.sum('syncgate_replies_total', result='unmatched'):.0f}")


def test_the_routes_topic_is_read_besides_the_own_one(kafka, stoppable):
    """A service that does not look at the address is heard by the instance that asked, and by no other."""
    from service import Service, bind_response

    reply_topics(kafka)
    gateways = [stoppable(Gateway(KAFKA_BROKERS=kafka.bootstrap, FEATURE_KAFKA_EVENTS="only", **own_topics(number)))
                for number in range(2)]
    with Service(kafka.bootstrap, lambda service, command: service.send(bind_response(command), topic=RESPONSES)):
        for number in range(10):
            answer = gateways[number % 2].bind(f"GH-own-{os.getpid()}-{number}")
            assert answer.status == 200, answer
    assert [g.metrics().sum("syncgate_replies_total", result="matched") for g in gateways] == [5, 5]
