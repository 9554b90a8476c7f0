# SPDX-License-Identifier: Apache-2.0
"""What stands in topics, from the beginning to the end of now, as it is on the wire."""
import json

from confluent_kafka import Consumer, KafkaError, TopicPartition

from service import CLIENT


class Event:
    def __init__(self, message):
        self.topic = message.topic()
        self.key = message.key().decode() if message.key() is not None else None
        self.headers = [(name, value.decode()) for name, value in message.headers() or []]
        self.value = json.loads(message.value())
        self.id = dict(self.headers).get("correlation-id")

    def __repr__(self):
        return f"<{self.topic} {self.key} {self.headers} {self.value}>"


def read_records(bootstrap, *topics):
    """All records, from the beginning to the end of now."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "records", "enable.auto.commit": False,
                         "enable.partition.eof": True, **CLIENT})
    found = []
    try:
        places = [TopicPartition(topic, partition, 0) for topic in topics
                  for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions]
        # An empty one need not be readable.
        places = [place for place in places if consumer.get_watermark_offsets(place, timeout=10)[1] > 0]
        consumer.assign(places)
        left = {(place.topic, place.partition) for place in places}
        while left:
            message = consumer.poll(10)
            assert message is not None, "the topics could not be read"
            if not message.error():
                found.append(message)
            elif message.error().code() == KafkaError._PARTITION_EOF:
                left.discard((message.topic(), message.partition()))
    finally:
        consumer.close()
    return found


def read_events(bootstrap, *topics):
    return [Event(message) for message in read_records(bootstrap, *topics)]
