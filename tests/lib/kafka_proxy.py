# SPDX-License-Identifier: Apache-2.0
"""A wire between a Kafka client and its brokers that fails on purpose. Frames (four bytes of length, then the message)
are forwarded as they are; a rule that matches a request decides what becomes of it and of its response. Broker addresses
in responses are replaced by the proxy's, so the client never leaves it; other clients talk to the brokers directly.

    proxy = KafkaProxy(kafka.bootstrap)
    rule = proxy.on(PRODUCE, b"GH-1", drop_response=True)   # the broker appends, the client never hears of it
    ... rule.wait_hit() ...
    proxy.reset()
"""
import socket
import struct
import threading
import time

from process import PATIENCE_S

PRODUCE, FETCH, METADATA = 0, 1, 3
NOT_LEADER, UNKNOWN_TOPIC, REQUEST_TIMED_OUT, MESSAGE_TOO_LARGE = 6, 3, 7, 10
NOT_ENOUGH_REPLICAS, NOT_ENOUGH_REPLICAS_AFTER_APPEND = 19, 20
TOPIC_AUTHORIZATION_FAILED, CLUSTER_AUTHORIZATION_FAILED, STORAGE_ERROR, UNKNOWN = 29, 31, 56, -1


class Rule:
    """What becomes of requests of one kind whose bytes contain `match`; times: how often, None: until reset().

    request_delay_s   the broker gets it later
    response_delay_s  the client gets the answer later
    drop_request      it never arrives; nothing is answered
    drop_response     the broker has worked; nothing is answered
    cut               "before": the connection dies instead of the request reaching the broker,
                      "after": it dies when the broker has answered, before the client knows
    error             a Produce is answered with this code; forward: the broker executes it all the same
    patch             a function of the response and the request's version that returns another response
    then              called when the broker has answered, before the client is told"""

    def __init__(self, api, match=b"", times=None, *, request_delay_s=0, response_delay_s=0, drop_request=False,
                 drop_response=False, cut=None, error=None, forward=False, patch=None, then=None):
        self.api, self.match, self.times = api, match, times
        self.request_delay_s, self.response_delay_s = request_delay_s, response_delay_s
        self.drop_request, self.drop_response, self.cut = drop_request, drop_response, cut
        self.error, self.forward, self.patch, self.then = error, forward, patch, then
        self.hits = 0
        self.hit = threading.Event()

    def takes(self, api, frame):
        return api == self.api and (self.times is None or self.hits < self.times) and self.match in frame

    def wait_hit(self, timeout_s=PATIENCE_S):
        assert self.hit.wait(timeout_s), "the fault has not met its request"


def _receive(source, count):
    data = b""
    while len(data) < count:
        part = source.recv(count - len(data))
        if not part:
            raise OSError("closed")
        data += part
    return data


def _read_frame(source):
    return _receive(source, struct.unpack(">i", _receive(source, 4))[0])


def _write_frame(target, frame):
    target.sendall(struct.pack(">i", len(frame)) + frame)


class Reader:
    """Big-endian primitives of the Kafka protocol (versions without compact types)."""

    def __init__(self, data, at=0):
        self.data, self.at = data, at

    def take(self, shape):
        values = struct.unpack_from(">" + shape, self.data, self.at)
        self.at += struct.calcsize(">" + shape)
        return values[0]

    def text(self):
        length = self.take("h")
        start = self.at
        self.at += max(length, 0)
        return self.data[start:self.at]

    def skip_array(self, size):
        count = self.take("i")
        self.at += size * max(count, 0)


def refusal(frame, version, code):
    """The answer of a broker that refuses this Produce request (versions 3 to 8: one topic, one partition)."""
    request = Reader(frame, 4)
    correlation = request.take("i")
    request.text()  # client id
    request.text()  # transactional id
    request.at += 2 + 4 + 4  # acks, timeout, number of topics
    topic = request.text()
    request.at += 4  # number of partitions
    partition = request.take("i")
    body = struct.pack(">ii", correlation, 1) + struct.pack(">h", len(topic)) + topic
    body += struct.pack(">iihqq", 1, partition, code, -1, -1)
    if version >= 5:
        body += struct.pack(">q", -1)
    return body + struct.pack(">i", 0)


def with_error(response, code):
    """A broker's Produce response with another error code."""
    reader = Reader(response, 4 + 4)
    reader.text()
    reader.at += 4 + 4
    return response[:reader.at] + struct.pack(">h", code) + response[reader.at + 2:]


def leaderless(topic):
    """A patch of Metadata responses (up to version 8): no partition of this topic has a leader."""

    def patch(response, version):
        reader, out = Reader(response, 4), bytearray(response)
        reader.at += 4 if version >= 3 else 0  # throttle time
        for _ in range(reader.take("i")):  # brokers
            reader.at += 4
            reader.text()
            reader.at += 4
            if version >= 1:
                reader.text()
        if version >= 2:
            reader.text()
        reader.at += 4 if version >= 1 else 0  # controller
        for _ in range(reader.take("i")):
            reader.at += 2
            name = reader.text()
            reader.at += 1 if version >= 1 else 0
            for _ in range(reader.take("i")):
                if name == topic.encode():
                    struct.pack_into(">h", out, reader.at, 5)  # LEADER_NOT_AVAILABLE
                    struct.pack_into(">i", out, reader.at + 6, -1)
                reader.at += 2 + 4 + 4 + (4 if version >= 7 else 0)
                reader.skip_array(4)
                reader.skip_array(4)
                if version >= 5:
                    reader.skip_array(4)
        return bytes(out)

    return patch


class Connection:
    """One of the client's, and its other half to the broker. Two threads: one for each direction; the last one gives the
    descriptors back, so none is used again while the other may still read it."""

    def __init__(self, proxy, client, broker):
        self.proxy, self.client, self.broker = proxy, client, broker
        self.asked = {}  # correlation id: (rule or None, api, version)
        self.write_lock = threading.Lock()
        self.working = 2
        proxy.remember(self)
        for work in (self._requests, self._responses):
            threading.Thread(target=self._guard, args=(work,), daemon=True).start()

    def cut(self):
        for end in (self.client, self.broker):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _guard(self, work):
        try:
            work()
        except (OSError, struct.error):
            pass
        self.cut()
        if self.proxy.forget(self):
            self.client.close()
            self.broker.close()

    def _requests(self):
        while True:
            frame = _read_frame(self.client)
            api, version, correlation = struct.unpack_from(">hhi", frame)
            rule = self.proxy.rule_for(api, frame)
            self.proxy.flowing.wait()
            if rule:
                if rule.request_delay_s:
                    time.sleep(rule.request_delay_s)
                if rule.cut == "before":
                    return
                if rule.drop_request:
                    continue
                if rule.error is not None and not rule.forward:
                    self._answer(refusal(frame, version, rule.error))
                    continue
            self.asked[correlation] = (rule, api, version)
            _write_frame(self.broker, frame)

    def _responses(self):
        while True:
            frame = _read_frame(self.broker)
            rule, api, version = self.asked.pop(struct.unpack_from(">i", frame)[0], (None, None, None))
            self.proxy.flowing.wait()
            if rule:
                if rule.then:
                    rule.then()
                if rule.response_delay_s:
                    time.sleep(rule.response_delay_s)
                if rule.cut == "after":
                    return
                if rule.drop_response:
                    continue
                if rule.error is not None:
                    frame = with_error(frame, rule.error)
                if rule.patch:
                    frame = rule.patch(frame, version)
            if api != FETCH and api != PRODUCE:
                frame = self.proxy.readdress(frame)
            self._answer(frame)

    def _answer(self, frame):
        with self.write_lock:
            _write_frame(self.client, frame)


class KafkaProxy:
    """bootstrap: the brokers' advertised addresses, 127.0.0.1:port each. ports: where to listen, one for each broker, so
    that the proxy can go down and come back."""

    def __init__(self, bootstrap, ports):
        self.brokers = [int(address.rsplit(":", 1)[1]) for address in bootstrap.split(",")]
        self.ports = ports[:len(self.brokers)]
        self.lock = threading.Lock()
        self.rules, self.connections, self.listeners = [], set(), []
        self.flowing = threading.Event()
        self.flowing.set()
        self.up()

    @property
    def bootstrap(self):
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def on(self, api, match=b"", times=None, **actions):
        """Adds a rule; the oldest that matches wins."""
        rule = Rule(api, match, times, **actions)
        with self.lock:
            self.rules.append(rule)
        return rule

    def rule_for(self, api, frame):
        with self.lock:
            for rule in self.rules:
                if rule.takes(api, frame):
                    rule.hits += 1
                    rule.hit.set()
                    return rule
        return None

    def readdress(self, frame):
        for broker, port in zip(self.brokers, self.ports):
            frame = frame.replace(b"\x00\x09127.0.0.1" + struct.pack(">i", broker),
                                  b"\x00\x09127.0.0.1" + struct.pack(">i", port))
        return frame

    def silence(self):
        """Connections stay, nothing moves in either direction, until resume() lets all of it through."""
        self.flowing.clear()

    def resume(self):
        self.flowing.set()

    def cut(self):
        """Every connection dies; new ones are taken."""
        with self.lock:
            connections = list(self.connections)
        for connection in connections:
            connection.cut()

    def down(self):
        for listener in self.listeners:
            try:
                listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            listener.close()
        self.listeners = []
        self.cut()

    def up(self):
        if self.listeners:
            return
        for broker, port in zip(self.brokers, self.ports):
            listener = socket.create_server(("127.0.0.1", port), backlog=64)
            self.listeners.append(listener)
            threading.Thread(target=self._accept, args=(listener, broker), daemon=True).start()

    def reset(self):
        """Everything passes again."""
        with self.lock:
            self.rules = []
        self.resume()
        self.up()

    def close(self):
        self.resume()
        self.down()

    def remember(self, connection):
        with self.lock:
            self.connections.add(connection)

    def forget(self, connection):
        """One of its threads ends; true: the last one."""
        with self.lock:
            connection.working -= 1
            if connection.working == 0:
                self.connections.discard(connection)
            return connection.working == 0

    def _accept(self, listener, broker):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                upstream = socket.create_connection(("127.0.0.1", broker), timeout=5)
            except OSError:
                client.close()
                continue
            upstream.settimeout(None)
            for end in (client, upstream):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, client, upstream)
            if listener not in self.listeners:  # down() came between
                connection.cut()
