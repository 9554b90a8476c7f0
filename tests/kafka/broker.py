# SPDX-License-Identifier: Apache-2.0
"""Apache Kafka for tests: N KRaft nodes (each controller and broker) on free ports, data in a temporary folder.

The jars come from ./dev (tests/kafka/pom.xml). A node starts in about a second: small serial-GC heap, C1 only, and a
class archive (AppCDS) that is made once per Java installation and lies beside the jars. No JVM outlives its test run:
they are killed at exit, and by the kernel when the test runner dies.

    with KafkaCluster() as kafka:
        kafka.create_topics("orders")
        ... kafka.bootstrap ...
"""
import fcntl
import glob
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))
from process import ROOT, Process, clean_environment  # noqa: E402

JAVA_OPTIONS = ["-Xms64m", "-Xmx256m", "-Xshare:auto", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                "-Djava.awt.headless=true", "-Djava.net.preferIPv4Stack=true"]
CLUSTER_ID = "c3luY2dhdGUtdGVzdHMtMQ"  # any 16 bytes in base64
START_S = 60
LOG4J = """log4j.rootLogger=WARN, out
log4j.logger.kafka.server.KafkaRaftServer=INFO
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d{ISO8601} %p %c{1} %m%n
"""


def jars():
    folder = os.environ.get("TEST_KAFKA_JARS")
    if not folder:
        found = sorted(os.path.dirname(path) for path in glob.glob(os.path.join(ROOT, ".cache/kafka-*/complete")))
        if not found:
            raise FileNotFoundError("Apache Kafka's jars are missing; run ./dev test system")
        folder = found[-1]
    return folder


def free_port():
    """Below the range of ephemeral ports, so that no outgoing connection takes it before its user does."""
    while True:
        port = random.randint(12000, 31000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Node:
    """One JVM. It keeps its ports and data over a restart."""

    def __init__(self, cluster, node_id):
        self.cluster, self.id = cluster, node_id
        self.port, self.controller_port = free_port(), free_port()
        self.folder = os.path.join(cluster.folder, str(node_id))
        self.process = None

    def configure(self):
        nodes = self.cluster.nodes
        replicas = min(3, len(nodes))
        settings = {
            "process.roles": "broker,controller",
            "node.id": self.id,
            "controller.quorum.voters": ",".join(f"{n.id}@127.0.0.1:{n.controller_port}" for n in nodes),
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": os.path.join(self.folder, "data"),
            "num.partitions": 3,
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": max(1, replicas - 1),
            "offsets.topic.num.partitions": 1,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.num.partitions": 1,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "num.network.threads": 2,
            "num.io.threads": 2,
            "log.cleaner.enable": "false",
            # A restarted broker is let in when the session of its former life has ended.
            "broker.session.timeout.ms": 1000,
            "broker.heartbeat.interval.ms": 200,
            "controlled.shutdown.enable": "true" if len(nodes) > 1 else "false",
            **self.cluster.settings,
        }
        os.makedirs(self.folder, exist_ok=True)
        with open(self._path("server.properties"), "w", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in settings.items())
        with open(self._path("log4j.properties"), "w", encoding="utf-8") as file:
            file.write(LOG4J)

    def format(self):
        done = subprocess.run(self._java("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c",
                                         self._path("server.properties")),
                              env=clean_environment({}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"kafka-storage format: {done.stdout.decode()[-2000:]}")

    def launch(self, *java_options):
        argv = self._java(*java_options, "kafka.Kafka", self._path("server.properties"))
        self.process = Process(argv, clean_environment({}), name=f"kafka-{self.id}")

    def wait_started(self):
        self.process.wait_line(self.process.stdout, lambda line: True if "Kafka Server started" in line else None,
                               "'Kafka Server started'", START_S)

    def start(self):
        self.launch()
        self.wait_started()

    def stop(self, patience_s=START_S):
        """SIGTERM and wait."""
        if self.process:
            self.process.signal(signal.SIGTERM)
            try:
                self.process.popen.wait(patience_s)
            except subprocess.TimeoutExpired:
                pass
            self.kill()

    def kill(self):
        if self.process:
            self.process.kill()
            self.process = None

    def pause(self):
        """The broker keeps its connections and answers nothing."""
        self.process.pause()

    def resume(self):
        self.process.resume()

    def _path(self, name):
        return os.path.join(self.folder, name)

    def _java(self, *arguments):
        archive = archive_path()
        shared = [f"-XX:SharedArchiveFile={archive}"] if os.path.exists(archive) else []
        return ["java", *JAVA_OPTIONS, *shared, f"-Dlog4j.configuration=file:{self._path('log4j.properties')}",
                "-cp", os.path.join(jars(), "*"), *arguments]


class KafkaCluster:
    """settings override the nodes' server properties. start=False leaves the nodes configured and formatted only."""

    def __init__(self, nodes=1, start=True, **settings):
        make_archive()
        self._prepare(nodes, settings)
        for node in self.nodes:
            node.format()
        if start:
            self.start()

    def _prepare(self, nodes, settings):
        self.settings = {name.replace("_", "."): value for name, value in settings.items()}
        self.folder = tempfile.mkdtemp(prefix="syncgate-kafka-")
        self.nodes = []
        for number in range(nodes):
            self.nodes.append(Node(self, number + 1))
        for node in self.nodes:
            node.configure()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def bootstrap(self):
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self):
        for node in self.nodes:
            if not node.process:
                node.launch()
        for node in self.nodes:
            node.wait_started()

    def stop(self):
        """All at once; a controller that has lost its quorum does not end by itself and is killed."""
        for node in self.nodes:
            if node.process:
                node.process.signal(signal.SIGTERM)
        for node in self.nodes:
            node.stop(patience_s=5 if len(self.nodes) > 1 else START_S)

    def kill(self):
        for node in self.nodes:
            node.kill()

    def pause(self):
        for node in self.nodes:
            node.pause()

    def resume(self):
        for node in self.nodes:
            node.resume()

    def close(self):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def admin(self):
        from confluent_kafka.admin import AdminClient

        return AdminClient({"bootstrap.servers": self.bootstrap, "socket.timeout.ms": 10000})

    def allow_only_describe(self, topic):
        """Nobody may read or write it (the cluster has an authorizer; clients have no names here)."""
        done = subprocess.run(
            self.nodes[0]._java("kafka.admin.AclCommand", "--bootstrap-server", self.bootstrap, "--add",
                                "--allow-principal", "User:ANONYMOUS", "--operation", "Describe", "--topic", topic),
            env=clean_environment({}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"kafka-acls: {done.stdout.decode()[-2000:]}")

    def create_topics(self, *names, partitions=3):
        """Returns when every partition has a leader, so that a producer's first message needs no retry."""
        from confluent_kafka.admin import NewTopic

        admin = self.admin()
        replicas = min(3, len(self.nodes))
        topics = [NewTopic(name, num_partitions=partitions, replication_factor=replicas) for name in names]
        for future in admin.create_topics(topics).values():
            future.result(30)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            known = admin.list_topics(timeout=10).topics
            if all(name in known and len(known[name].partitions) == partitions and
                   all(p.leader >= 0 for p in known[name].partitions.values()) for name in names):
                return
            time.sleep(0.02)
        raise RuntimeError(f"no leader for {names}")


def archive_path():
    java = os.path.realpath(shutil.which("java") or "java")
    return os.path.join(jars(), "classes-" + hashlib.sha256(java.encode()).hexdigest()[:8] + ".jsa")


def make_archive():
    """Once per Java installation: one broker is started and stopped so that it writes down the classes it has loaded."""
    path = archive_path()
    with open(os.path.join(jars(), "classes.lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(path):
            return
        cluster = KafkaCluster.__new__(KafkaCluster)
        cluster._prepare(1, {})
        try:
            node = cluster.nodes[0]
            node.format()
            node.launch(f"-XX:ArchiveClassesAtExit={path}.new")
            node.wait_started()
            cluster.create_topics("a")
            node.stop()
            if os.path.exists(path + ".new"):
                os.replace(path + ".new", path)
        finally:
            cluster.close()
