# SPDX-License-Identifier: Apache-2.0
"""A call that is answered by server-sent events. A browser's EventSource cannot POST, so clients read such an answer as this
class does: line by line."""
import http.client
import json

from http_client import split_address
from tokens import bearer

EVENTS = {"Accept": "text/event-stream"}


class EventStream:
    """A call whose answer is read event by event. The head is read by the first event()."""

    def __init__(self, address, path, body, method="POST", connection=None, **headers):
        self.connection = connection or http.client.HTTPConnection(*split_address(address), timeout=30)
        self.connection.request(method, path, json.dumps(body), {
            "Content-Type": "application/json", **bearer(), **EVENTS, **headers})
        self._answer = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    @property
    def answer(self):
        if not self._answer:
            self._answer = self.connection.getresponse()
        return self._answer

    def event(self):
        """(type, id, data) of the next event; None at the end."""
        fields = {}
        while True:
            line = self.answer.readline().decode()
            if not line:
                assert not fields, fields
                return None
            line = line.rstrip("\n")
            if not line and fields:
                return fields["event"], int(fields["id"]), json.loads(fields["data"])
            if line and not line.startswith(":"):
                name, value = line.split(": ", 1)
                assert name not in fields, line
                fields[name] = value

    def rest(self):
        return list(iter(self.event, None))
