# SPDX-License-Identifier: Apache-2.0
import itertools
import os
import sys

import pytest

sys.path[:0] = [os.path.join(os.path.dirname(__file__), folder) for folder in ("lib", "kafka")]

_numbers = itertools.count(1)


@pytest.fixture
def device_id():
    """Unused so far, in this run and in others on the same broker."""
    return f"GH-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def stoppable():
    """stoppable(x): x.stop() is called at the end of the test, last started first; every stop is tried."""
    things = []

    def add(thing):
        things.append(thing)
        return thing

    yield add
    errors = []
    for thing in reversed(things):
        try:
            if thing.popen.poll() is None or thing.popen.returncode == 0:
                thing.stop()
        except AssertionError as error:
            errors.append(error)
    if errors:
        raise errors[0]


@pytest.fixture(scope="session")
def kafka():
    """One Apache Kafka node with the topics of the routes, for tests that leave it running."""
    from broker import KafkaCluster
    from service import TOPICS

    with KafkaCluster() as cluster:
        cluster.create_topics(*TOPICS)
        yield cluster
