# SPDX-License-Identifier: Apache-2.0
"""More connections than there is room for: the excess waits in the listening socket's queue, calls under way go on, nothing spins,
and everything is as before when there is room again."""
import contextlib
import os
import resource
import threading

import pytest

from contract import error_answer
from gateway import Gateway
from http_client import RawConnection, raw_request
from legacy_stub import LegacyStub
from process import eventually
from service import Service, answer, bind_response

pytestmark = pytest.mark.once
GET = raw_request("GET", "/api/x", {})


@pytest.fixture
def legacy():
    stub = LegacyStub()
    yield stub
    stub.close()


def waits(connection, for_s=0.5):
    """Its request is not answered."""
    connection.send(GET)
    connection.socket.settimeout(for_s)
    try:
        return connection.socket.recv(1) is None
    except TimeoutError:
        return True
    finally:
        connection.socket.settimeout(60)


def served(connection):
    connection.send(GET)
    return connection.read_response().status == 200


def cpu_s(gateway):
    with open(f"/proc/{gateway.pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_more_connections_than_allowed(stoppable, legacy):
    gateway = stoppable(Gateway(FEATURE_KAFKA_EVENTS="false", LEGACY_URL=legacy.url, SYNCGATE_MAX_CONNECTIONS=4))
    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(RawConnection(gateway.address)) for _ in range(4)]
        assert all(served(connection) for connection in first)
        late = stack.enter_context(RawConnection(gateway.address))
        before_s = cpu_s(gateway)
        assert waits(late, 2)
        assert cpu_s(gateway) - before_s < 1, "it spins"
        assert gateway.wait_log("not accepting connections for a moment")["reason"] == "SYNCGATE_MAX_CONNECTIONS reached"
        assert all(served(connection) for connection in first), "those that are in are served"
        assert gateway.admin_get("/health/ready").status == 200, "operators have a door of their own"
        first[0].close()
        assert late.read_response().status == 200


@contextlib.contextmanager
def descriptors_used_up(gateway):
    """The process may open none beyond those that it has."""
    limits = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir(f"/proc/{gateway.pid}/fd"))
    # Those below the highest that are free are handed out all the same: a few connections fit.
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, limits)


def test_no_descriptors_left(stoppable, legacy, device_id):
    """Calls that wait for a reply are answered, new connections wait, a call that needs a new connection to legacy is told so."""
    gateway = stoppable(Gateway(KAFKA_BROKERS="embedded", FEATURE_KAFKA_EVENTS="true", LEGACY_URL=legacy.url))
    with Service(gateway.bootstrap()) as service, contextlib.ExitStack() as stack:
        open_before = stack.enter_context(RawConnection(gateway.address))
        answers = []
        parked = threading.Thread(target=lambda: answers.append(gateway.bind(device_id)), daemon=True)
        parked.start()
        command = service.wait_command(device_id)
        with descriptors_used_up(gateway):
            excess = []

            def refuses():
                excess.append(stack.enter_context(RawConnection(gateway.address)))
                return any(line.get("reason") == "Too many open files" for line in gateway.logs())

            eventually(refuses, "descriptors are used up")
            assert waits(excess[-1])
            before_s = cpu_s(gateway)
            open_before.send(GET)
            error_answer(502, "LEGACY_UNREACHABLE", open_before.read_response())
            service.send(bind_response(command))
            parked.join(30)
            assert answers[0].status == 200
            assert cpu_s(gateway) - before_s < 1, "it spins"
        assert excess[-1].read_response().status == 200
        assert served(open_before)
        assert gateway.admin_get("/health/ready").status == 200
        service.on(device_id + "-2", answer(bind_response))
        assert gateway.bind(device_id + "-2").status == 200
