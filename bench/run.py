#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""./dev bench: measures the gateway on this machine, next to what it is compared with.

Every group of cases starts its own processes (Apache Kafka, the device service, the gateway, nginx), runs its cases
in several rounds, every other round in the opposite order, and keeps the median of each number. What the numbers mean
is in docs/performance.md. Nothing but 127.0.0.1 is talked to, and nothing outlives this program."""
import argparse
import base64
import hashlib
import hmac
import json
import os
import platform
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("TEST_BUILD", os.path.join(ROOT, "build"))
SECRET = "a-secret-of-the-bench-0123456789abcdef"
USER = "5e0c6a1d-2b7f-4c39-9a64-8d1f3b20c7e5"
# All that the routes need: with `only` the gateway is not ready without them.
TOPICS = tuple(f"{family}.{kind}.v1" for family in ("device", "user", "organization", "certificate")
               for kind in ("commands", "commands.responses", "events"))
CONNECTIONS = (1, 64, 512)
# Device numbers: each kind of load has its own.
RAW_DEVICES, PARKED_DEVICES, ALL_DEVICES = 1001, 10001, 30000
START_S = 60

UNITS = {"cpu_us": "us", "rps": "1/s", "p50_ms": "ms", "p99_ms": "ms"}


class BenchError(Exception):
    """A run that went wrong; its numbers are worth nothing."""


def note(text):
    print(text, file=sys.stderr, flush=True)


# ---- processes ----

class Child:
    """A process with its output in a file; the kernel kills it when this program dies."""

    alive = []

    def __init__(self, name, folder, argv, env=None):
        self.name, self.log = name, os.path.join(folder, name + ".log")
        kept = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
        # Append mode: the file can be cut to nothing between runs.
        with open(self.log, "wb"), open(self.log, "ab") as log:
            self.popen = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *argv], stdin=subprocess.DEVNULL,
                                          stdout=log, stderr=log, env={**kept, **(env or {})}, cwd=ROOT)
        Child.alive.append(self)

    @property
    def pid(self):
        return self.popen.pid

    def lines(self):
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()

    def wait_for(self, find, what):
        """The first value that find(line) gives for a line of the output."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            status = self.popen.poll()
            for line in self.lines():
                value = find(line)
                if value:
                    return value
            if status is not None:
                break
            time.sleep(0.02)
        raise BenchError(f"{self.name}: no {what}\n" + "\n".join(self.lines()[-20:]))

    def cut_log(self):
        os.truncate(self.log, 0)

    def stop(self):
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(60)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        if self in Child.alive:
            Child.alive.remove(self)


def program(*names):
    for name in names:
        path = os.path.join(BUILD, name)
        if os.path.exists(path):
            return path
    raise BenchError(f"{names[0]} is not built in {BUILD}; run ./dev build")


def http(method, address, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{address}{path}", data, {"Content-Type": "application/json"},
                                     method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def token():
    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    now = int(time.time())
    claims = {"sub": USER, "email": "bench@example.com", "iat": now, "exp": now + 86400}
    text = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(claims).encode())
    return (text + b"." + part(hmac.new(SECRET.encode(), text, hashlib.sha256).digest())).decode()


class DeviceService(Child):
    def __init__(self, folder, brokers=None, embedded=False):
        argv = [program("device-service", "examples/device-service/device-service"), "--listen", "127.0.0.1:0",
                "--hs256-secret", SECRET, "--devices", str(ALL_DEVICES), "--test-hooks"]
        if brokers:
            argv += ["--kafka", brokers]
        if embedded:
            argv += ["-X", "fetch.wait.max.ms=5"]  # the embedded broker's fetch always waits the full time
        super().__init__("device-service", folder, argv)
        self.address = self.wait_for(lambda line: line.startswith("listening ") and line.split()[-1], "listening line")
        self.wait_for(lambda line: line == "ready", "ready line")

    def drop_commands(self, count):
        status, body = http("POST", self.address, "/__test/behaviour", {"dropCommands": count})
        if status not in (200, 204):
            raise BenchError(f"device-service: behaviour: {status} {body!r}")


class Gateway(Child):
    """It logs a line for each exchange, to a file, as in production."""

    def __init__(self, folder, loops, **settings):
        super().__init__("gateway", folder, [program("syncgate", "src/syncgate")], {
            "SYNCGATE_LISTEN": "127.0.0.1:0", "SYNCGATE_ADMIN_LISTEN": "127.0.0.1:0", "SYNCGATE_LOOPS": str(loops),
            "AUTH_HS256_SECRET": SECRET, "SHUTDOWN_DELAY": "0s", **settings})
        listening = self.log_entry("listening")
        self.address, self.admin = listening["listen"], listening["admin"]

    def log_entry(self, msg):
        def find(line):
            try:
                entry = json.loads(line)
            except ValueError:
                return None
            return entry if isinstance(entry, dict) and entry.get("msg") == msg else None

        return self.wait_for(find, f"log line {msg!r}")

    def wait_ready(self):
        deadline = time.monotonic() + START_S
        while http("GET", self.admin, "/health/ready")[0] != 200:
            if time.monotonic() > deadline or self.popen.poll() is not None:
                raise BenchError("gateway: not ready\n" + "\n".join(self.lines()[-20:]))
            time.sleep(0.02)

    def rss_bytes(self):
        with open(f"/proc/{self.pid}/smaps_rollup", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Rss:"))

    def metric(self, name):
        text = http("GET", self.admin, "/metrics")[1].decode()
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    def parked(self):
        return self.metric("syncgate_parked_requests")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Nginx(Child):
    """A plain reverse proxy with kept-alive connections on both sides, and its access log on like the gateway's."""

    CONF = """
daemon off; worker_processes {workers}; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
    access_log {folder}/nginx-access.log; keepalive_requests 1000000000; client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    upstream backend {{ server {backend}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
"""

    def __init__(self, folder, workers, backend):
        self.address = f"127.0.0.1:{free_port()}"
        conf = os.path.join(folder, "nginx.conf")
        with open(conf, "w", encoding="utf-8") as file:
            file.write(self.CONF.format(workers=workers, folder=folder, backend=backend,
                                        port=self.address.split(":")[1]))
        binary = shutil.which("nginx") or "/usr/sbin/nginx"
        super().__init__("nginx", folder, [binary, "-e", folder + "/nginx-error.log", "-p", folder, "-c", conf])
        self.access_log = folder + "/nginx-access.log"
        deadline = time.monotonic() + START_S
        while http("GET", self.address, "/")[0] == 0 or len(self.workers()) < workers:
            if time.monotonic() > deadline or self.popen.poll() is not None:
                raise BenchError("nginx did not start\n" + "\n".join(self.lines()[-20:]))
            time.sleep(0.02)

    def workers(self):
        with open(f"/proc/{self.pid}/task/{self.pid}/children", encoding="ascii") as file:
            return file.read().split()

    def cut_log(self):
        os.truncate(self.access_log, 0)


# ---- numbers ----

class Numbers:
    """Samples by name, in the order in which the names first came."""

    def __init__(self):
        self.samples, self.units = {}, {}

    def add(self, name, value, unit):
        self.samples.setdefault(name, []).append(value)
        self.units[name] = unit

    def last(self, name):
        return self.samples[name][-1]

    def add_load(self, prefix, suffix, result, kinds=("cpu_us", "rps", "p50_ms", "p99_ms")):
        for kind in kinds:
            self.add(f"{prefix}_{kind}_{suffix}", result[kind], UNITS[kind])

    def medians(self):
        return [{"name": name, "value": round(statistics.median(values), 4), "unit": self.units[name]}
                for name, values in self.samples.items()]

    def table(self):
        width = max([len(name) for name in self.samples] + [4])
        rows = [f"{'name':{width}}  {'median':>12}  {'lowest':>12}  {'highest':>12}  unit"]
        for name, values in self.samples.items():
            rows.append(f"{name:{width}}  {statistics.median(values):12.3f}  {min(values):12.3f}  {max(values):12.3f}"
                        f"  {self.units[name]}")
        return "\n".join(rows)


class Bench:
    def __init__(self, options, folder):
        self.options, self.folder, self.numbers, self.kafka = options, folder, Numbers(), None
        self.token_file = os.path.join(folder, "token")
        with open(self.token_file, "w", encoding="ascii") as file:
            file.write(token())

    def rounds(self, cases):
        """Runs the cases in rounds, every other one backwards, so that a drift of the machine hits all alike."""
        for number in range(self.options.repeats):
            for case in cases if number % 2 == 0 else reversed(cases):
                case()

    def load(self, server, connections, watched, base=1):
        """One run of sg-load; its result, with the CPU time of the watched processes as cpu_us."""
        server.cut_log()
        argv = [program("bench/sg-load"), "--target", server.address, "--connections", str(connections), "--base",
                str(base), "--seconds", str(self.options.seconds), "--warmup", str(self.options.warmup), "--token",
                self.token_file, "--json"]
        for pid in watched:
            argv += ["--watch", f"it={pid}"]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise BenchError(f"sg-load, {connections} connections to {server.name}: "
                             f"{done.stdout.strip()}\n{done.stderr.strip()}")
        result = json.loads(done.stdout.splitlines()[-1])
        result["cpu_us"] = result["cpu_us_it"]
        if result["requests"] == 0 or result["cpu_us"] <= 0:
            raise BenchError(f"sg-load measured nothing: {result}")
        note(f"  {server.name} c{connections}: {result['cpu_us']:.1f} us, {result['rps']:.0f}/s, "
             f"p50 {result['p50_ms']:.2f} ms, p99 {result['p99_ms']:.2f} ms, sg-load {result['load_cpu_us']:.1f} us")
        return result

    def gateway_case(self, gateway, prefix, connections):
        def case():
            result = self.load(gateway, connections, [gateway.pid])
            self.numbers.add_load(prefix, f"c{connections}", result)
            with open(gateway.log, "rb") as file:
                lines = file.read().count(b"\n")
            # The gateway drops lines (and counts them) when its log is written too slowly; logging must not be off.
            if lines < result["requests"] / 2:
                raise BenchError(f"the gateway logged {lines} lines for {result['requests']} exchanges")
            if lines < result["requests"]:
                note(f"    only {lines} log lines for {result['requests']} exchanges")
        return case

    # ---- the groups ----

    def raw_run(self, seconds, arguments=()):
        argv = [program("bench/sg-roundtrip"), "--brokers", self.kafka.bootstrap, "--seconds", str(seconds), "--warmup",
                str(self.options.warmup), "--base", str(RAW_DEVICES), "--json", *arguments]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, timeout=300)
        if done.returncode != 0:
            raise BenchError(f"sg-roundtrip: {done.stdout}{done.stderr}")
        results = [json.loads(line) for line in done.stdout.splitlines()]
        for result in results:
            if result["refused"] or not result["replies"]:
                raise BenchError(f"sg-roundtrip: commands were refused: {result}")
            note(f"  raw, {result['in_flight']} in flight: {result['cpu_us']:.1f} us, {result['rps']:.0f}/s, "
                 f"p50 {result['p50_ms']:.2f} ms, p99 {result['p99_ms']:.2f} ms")
        return results

    def raw_case(self):
        for result in self.raw_run(self.options.seconds):
            suffix = "" if result["in_flight"] == 1 else f"_c{result['in_flight']}"
            for kind in ("p50_ms", "p99_ms", "cpu_us", "rps"):
                self.numbers.add(f"raw_roundtrip_{kind}{suffix}", result[kind], UNITS[kind])

    def start_kafka(self):
        """One broker for all groups that need it: it has to run for a while before it is as fast as it gets."""
        if self.kafka:
            return self.kafka
        sys.path.insert(0, os.path.join(ROOT, "tests", "kafka"))
        import broker  # pylint: disable=import-outside-toplevel,import-error

        # The tests' broker starts fast; one that is measured runs with the server compiler and more memory.
        broker.JAVA_OPTIONS[:] = [option for option in broker.JAVA_OPTIONS if "TieredStopAtLevel" not in option
                                  and not option.startswith("-Xm")] + ["-Xms512m", "-Xmx512m"]
        self.kafka = broker.KafkaCluster()
        self.kafka.create_topics(*TOPICS)
        devices = DeviceService(self.folder, self.kafka.bootstrap)
        note(f"  warming Kafka up for {self.options.kafka_warmup:g} s")
        self.raw_run(self.options.kafka_warmup, ["--in-flight", "64"])
        devices.stop()
        return self.kafka

    def stop_kafka(self):
        if self.kafka:
            self.kafka.close()
        self.kafka = None

    def kafka_gateway(self, kafka, folder=None):
        gateway = Gateway(folder or self.folder, self.options.loops, KAFKA_BROKERS=kafka.bootstrap, FEATURE_KAFKA_EVENTS="only")
        gateway.wait_ready()
        return gateway

    def group_kafka(self):
        kafka = self.start_kafka()
        DeviceService(self.folder, kafka.bootstrap)
        gateway = self.kafka_gateway(kafka)
        self.rounds([self.raw_case] + [self.gateway_case(gateway, "kafka", c) for c in CONNECTIONS])
        for gateway_p50, raw_p50 in zip(self.numbers.samples["kafka_p50_ms_c1"],
                                        self.numbers.samples["raw_roundtrip_p50_ms"]):
            self.numbers.add("kafka_added_ms_c1", gateway_p50 - raw_p50, "ms")

    def group_embedded(self):
        gateway = Gateway(self.folder, self.options.loops, KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="only")
        DeviceService(self.folder, gateway.log_entry("embedded broker")["bootstrap"], embedded=True)
        gateway.wait_ready()
        self.rounds([self.gateway_case(gateway, "embedded", c) for c in CONNECTIONS])

    def group_parked(self):
        kafka = self.start_kafka()
        devices = DeviceService(self.folder, kafka.bootstrap)
        for number in range(self.options.repeats):
            # A new gateway each time: memory that once held parked requests stays with the process.
            gateway = self.kafka_gateway(kafka)
            self.load(gateway, 64, [gateway.pid])
            self.parked_round(devices, gateway, parked_first=number % 2 == 1,
                              until_deadline=number == self.options.repeats - 1)
            gateway.stop()

    def parked_round(self, devices, gateway, parked_first, until_deadline):
        if not parked_first:
            alone = self.load(gateway, 64, [gateway.pid])
        before = gateway.rss_bytes()
        parking = self.park(devices, gateway, until_deadline)
        self.numbers.add("parked_rss_bytes", (gateway.rss_bytes() - before) / self.options.parked, "bytes")
        idle = cpu_us(gateway.pid)
        time.sleep(1)
        self.numbers.add("parked_idle_cpu_ms_per_s", (cpu_us(gateway.pid) - idle) / 1000, "ms/s")
        beside = self.load(gateway, 64, [gateway.pid])
        if gateway.parked() < self.options.parked:
            raise BenchError("parked requests were answered while others were measured")
        if not until_deadline:
            parking.terminate()
        out, err = parking.communicate(timeout=120)
        if parking.returncode != 0:
            raise BenchError(f"sg-load --park: {out}{err}")
        if parked_first:
            alone = self.load(gateway, 64, [gateway.pid])
        self.numbers.add("parked_cpu_us_c64_without", alone["cpu_us"], "us")
        self.numbers.add("parked_cpu_us_c64_with", beside["cpu_us"], "us")
        self.numbers.add("parked_cost_ratio", beside["cpu_us"] / alone["cpu_us"], "ratio")

    def park(self, devices, gateway, until_deadline):
        """Parks the requests and returns the process that holds them."""
        devices.drop_commands(self.options.parked)
        argv = [program("bench/sg-load"), "--target", gateway.address, "--admin", gateway.admin, "--park",
                str(self.options.parked), "--base", str(PARKED_DEVICES), "--token", self.token_file, "--json"]
        # The last one waits for the deadline of all requests and checks that each ends with 504.
        argv += ["--seconds", "0", "--drain", "90"] if until_deadline else ["--seconds", "90", "--abandon"]
        parking = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *argv], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        if not parking.stdout.readline().startswith("parked "):
            raise BenchError("sg-load --park: " + parking.communicate()[1])
        return parking

    def group_strangers(self):
        """What replies to another instance cost this one: read, looked at, skipped. Nothing else goes on in it."""
        kafka = self.start_kafka()
        DeviceService(self.folder, kafka.bootstrap)
        folder = os.path.join(self.folder, "busy")
        os.makedirs(folder, exist_ok=True)
        idle, busy = self.kafka_gateway(kafka), self.kafka_gateway(kafka, folder)

        def flood(suffix, arguments):
            return lambda: self.flood(kafka, idle, busy, suffix, arguments)

        def live(connections):
            def run():  # every call has one reply: a bind its response, an unbind its event
                result = self.load(busy, connections, [idle.pid])
                self.numbers.add(f"stranger_ns_live_c{connections}", result["cpu_us"] * 1000, "ns")
            return run

        self.rounds([flood("header", []), flood("body", ["--no-headers"]), live(1), live(64)])
        if idle.metric('syncgate_replies_total{result="invalid"}'):
            raise BenchError("a stranger's reply was not understood")

    def flood(self, kafka, idle, busy, suffix, arguments):
        records = "syncgate_kafka_records_total"
        before, used = [gateway.metric(records) for gateway in (idle, busy)], cpu_us(idle.pid)
        argv = [program("bench/sg-roundtrip"), "--brokers", kafka.bootstrap, "--strangers", str(self.options.strangers),
                *arguments]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, timeout=300)
        if done.returncode != 0:
            raise BenchError(f"sg-roundtrip --strangers: {done.stdout}{done.stderr}")
        for gateway, start in zip((idle, busy), before):
            deadline = time.monotonic() + START_S
            while gateway.metric(records) - start < self.options.strangers:
                if time.monotonic() > deadline:
                    raise BenchError("a gateway has not read all replies")
                time.sleep(0.05)
        per_reply = (cpu_us(idle.pid) - used) * 1000 / self.options.strangers
        note(f"  stranger's reply, id in the {suffix}: {per_reply:.0f} ns")
        self.numbers.add(f"stranger_ns_{suffix}", per_reply, "ns")

    def group_legacy(self):
        devices = DeviceService(self.folder)
        gateway = Gateway(self.folder, self.options.loops, FEATURE_KAFKA_EVENTS="false",
                          LEGACY_URL="http://" + devices.address)
        nginx = Nginx(self.folder, self.options.loops, devices.address)
        gateway.wait_ready()

        def nginx_case():
            self.numbers.add_load("nginx", "c64", self.load(nginx, 64, [nginx.pid, *nginx.workers()]))

        self.rounds([self.gateway_case(gateway, "legacy", 1), self.gateway_case(gateway, "legacy", 64), nginx_case])
        for legacy, plain in zip(self.numbers.samples["legacy_cpu_us_c64"], self.numbers.samples["nginx_cpu_us_c64"]):
            self.numbers.add("legacy_vs_nginx_ratio", legacy / plain, "ratio")

    def run(self, groups):
        failed = []
        try:
            for name in groups:
                note(f"{name}:")
                if name not in KAFKA_GROUPS:
                    self.stop_kafka()
                if not self.run_group(name):
                    failed.append(name)
        finally:
            self.stop_kafka()
        return failed

    def run_group(self, name):
        try:
            getattr(self, "group_" + name)()
            return True
        except (BenchError, OSError, RuntimeError, subprocess.TimeoutExpired) as error:
            note(f"{name} failed: {error}")
            return False
        finally:
            for child in reversed(list(Child.alive)):
                child.stop()


def cpu_us(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        words = file.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) * 1e6 / os.sysconf("SC_CLK_TCK")


KAFKA_GROUPS = ("kafka", "parked", "strangers")
GROUPS = (*KAFKA_GROUPS, "embedded", "legacy")


def conditions(options):
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown CPU")
    except OSError:
        model = "unknown CPU"
    cores = len(os.sched_getaffinity(0))
    return (f"{model}, {cores} cores shared by load generator, gateway, device service and broker; Linux "
            f"{platform.release()}; {options.loops} loops, nginx with as many workers; median of {options.repeats} runs "
            f"of {options.seconds:g} s")


def parse_arguments():
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", metavar="FILE", help='write [{"name", "value", "unit"}] to FILE')
    parser.add_argument("--quick", action="store_true", help="one short run of each case, 1000 parked: for a first look")
    parser.add_argument("--only", metavar="NAME", action="append", choices=GROUPS,
                        help="only this group (may be repeated): " + ", ".join(GROUPS))
    parser.add_argument("--repeats", type=int, metavar="N", help="runs of each case (3)")
    parser.add_argument("--seconds", type=float, metavar="S", help="measured time of each run (3)")
    parser.add_argument("--parked", type=int, metavar="N", help="parked requests (10000)")
    parser.add_argument("--loops", type=int, metavar="N", default=len(os.sched_getaffinity(0)),
                        help="loops of the gateway and workers of nginx (the cores)")
    options = parser.parse_args()
    options.repeats = options.repeats or (1 if options.quick else 3)
    options.seconds = options.seconds or (1.0 if options.quick else 3.0)
    options.parked = options.parked or (1000 if options.quick else 10000)
    options.strangers = 100000 if options.quick else 1000000
    options.kafka_warmup = 5.0 if options.quick else 20.0
    options.warmup = 0.5 if options.quick else 1.0
    if options.parked > ALL_DEVICES - PARKED_DEVICES:
        parser.error(f"at most {ALL_DEVICES - PARKED_DEVICES} parked requests")
    return options


def main():
    options = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the children inherit it
    if hard != resource.RLIM_INFINITY and hard < options.parked + 1000:
        note(f"the limit of {hard} open files is too low for {options.parked} parked requests")
        return 1
    with tempfile.TemporaryDirectory(prefix="syncgate-bench-") as folder:
        bench = Bench(options, folder)
        failed = bench.run([name for name in GROUPS if name in (options.only or GROUPS)])
    print(bench.numbers.table())
    print(conditions(options))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(bench.numbers.medians(), file, indent=1)
            file.write("\n")
    if failed:
        print("failed: " + ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
