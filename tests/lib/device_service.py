# SPDX-License-Identifier: Apache-2.0
"""The example device service with its test hooks: legacy REST backend and Kafka responder over the same devices."""
from http_client import request
from process import Process, clean_environment, program
from tokens import SECRET


class DeviceService(Process):
    """devices: that many, GH-1 and so on, exist from the start."""

    def __init__(self, kafka=None, listen="127.0.0.1:0", devices=0):
        argv = [program("device-service"), "--listen", listen, "--test-hooks", "--hs256-secret", SECRET]
        if devices:
            argv += ["--devices", str(devices)]
        if kafka:
            argv += ["--kafka", kafka]
        super().__init__(argv, clean_environment({}), name="device-service")
        self.address = self.wait_line(
            self.stdout, lambda line: line.split(" ")[-1] if line.startswith("listening ") else None, "listening line")
        self.wait_line(self.stdout, lambda line: True if line == "ready" else None, "ready line")

    @property
    def url(self):
        return "http://" + self.address

    def call(self, method, path, body=None, headers=None):
        return request(self.address, method, path, body, headers)

    def register(self, device_id):
        answer = self.call("POST", "/api/manufacturing/generate-device-qr", {
            "deviceId": device_id, "model": "GrowBox-2", "firmwareVersion": "2.4.1", "publicKeyPem": "test"})
        assert answer.status == 201, answer
        return device_id

    def executions(self):
        """{"rest": {"bind", "unbind"}, "kafka": {"commands", "redelivered", "byCorrelationId": {id: count}, ...}, ...}"""
        answer = self.call("GET", "/__test/executions")
        assert answer.status == 200, answer
        return answer.json()

    def behave(self, **behaviour):
        answer = self.call("POST", "/__test/behaviour", behaviour)
        assert answer.status in (200, 204), answer
