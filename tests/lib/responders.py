# SPDX-License-Identifier: Apache-2.0
"""The responders of examples/ as processes of their own. ./dev builds them in .cache/."""
import os
import uuid

from confluent_kafka import Consumer, KafkaException, TopicPartition

from process import PATIENCE_S, ROOT, Process, clean_environment, eventually
from service import COMMANDS

CACHE = os.path.join(ROOT, ".cache")
# name: what starts it, the words of the line that says it has its partitions, what the framework adds to its group's name
RESPONDERS = {
    "nestjs": ([CACHE + "/node", CACHE + "/nestjs-responder/dist/main.js"], "ready", "-server"),
    "spring": (["java", "-XX:TieredStopAtLevel=1", "-Xmx128m", "-jar",
                CACHE + "/spring-responder/target/spring-responder.jar"], "partitions assigned", ""),
    "python": (["/usr/bin/python3", ROOT + "/examples/python-responder/responder.py"], "ready", ""),
}


def ends(consumer, topic):
    """The places behind the last record of each partition."""

    def look():
        try:
            partitions = consumer.list_topics(topic, timeout=PATIENCE_S).topics[topic].partitions
            places = [TopicPartition(topic, partition) for partition in partitions]
            for place in places:
                place.offset = consumer.get_watermark_offsets(place, timeout=PATIENCE_S)[1]
            return places
        except KafkaException:  # a broker that does not know yet that it leads a new partition
            return None

    return eventually(look, f"the ends of {topic}")


def begin_at_end(bootstrap, group):
    """What other tests have left in the command topic is not for this group."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    consumer.commit(offsets=ends(consumer, COMMANDS), asynchronous=False)
    consumer.close()


class Responder(Process):
    def __init__(self, name, bootstrap):
        argv, ready, suffix = RESPONDERS[name]
        for path in argv:
            if path.startswith(CACHE) and not os.path.exists(path):
                raise FileNotFoundError(f"{path} is not built; run ./dev test system")
        group = f"{name}-{uuid.uuid4().hex}"
        begin_at_end(bootstrap, group + suffix)
        super().__init__(argv, clean_environment({"KAFKA_BROKERS": bootstrap, "KAFKA_GROUP": group, "NO_COLOR": 1}),
                         name=name)
        self.wait_line(self.stdout, lambda line: True if ready in line else None, f"line with {ready!r}",
                       timeout_s=3 * PATIENCE_S)  # a JVM beside other tests
