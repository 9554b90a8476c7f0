# SPDX-License-Identifier: Apache-2.0
"""sg-load must notice what it is there to notice. Run by hand: python3 -m pytest bench/test_load.py

Each test serves answers of one kind from a small server and looks at what sg-load counts and how it exits.
SG_LOAD names the program (build/bench/sg-load by default)."""
import asyncio
import json
import os
import pathlib
import re
import signal
import subprocess
import threading

import pytest

PROGRAM = os.environ.get('SG_LOAD', str(pathlib.Path(__file__).parent.parent / 'build/bench/sg-load'))


class Server:
    """Reads requests on any number of connections; `respond(server, path, body)` gives (status, body) or None."""

    def __init__(self, respond, chunked=False, close=False, split=False):
        self.respond, self.chunked, self.close, self.split = respond, chunked, close, split
        self.bound, self.served, self.extra = {}, 0, False
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(ready,), daemon=True)
        self.thread.start()
        assert ready.wait(5)

    def run(self, ready):
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(asyncio.start_server(self.serve, '127.0.0.1', 0, backlog=512))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self.loop.run_forever()

    def stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)

    def frame(self, status, body):
        close = 'Connection: close\r\n' if self.close else ''
        if self.chunked:
            half = len(body) // 2
            parts = b''.join(b'%x\r\n%s\r\n' % (len(p), p) for p in (body[:half], body[half:]) if p)
            return f'HTTP/1.1 {status} X\r\ntransfer-encoding: chunked\r\n{close}\r\n'.encode() + parts + b'0\r\n\r\n'
        return f'HTTP/1.1 {status} X\r\ncontent-length:{len(body)}\r\n{close}\r\n'.encode() + body

    async def serve(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b'\r\n\r\n')
                length = re.search(rb'content-length: *(\d+)', head, re.I)
                body = await reader.readexactly(int(length[1])) if length else b''
                answer = self.respond(self, head.split(b' ')[1].decode(), body)
                self.served += 1
                if answer is None:
                    continue
                if answer == 'drop':
                    break
                data = self.frame(answer[0], json.dumps(answer[1]).encode())
                if self.extra:
                    data += data
                for part in ([data[:20], data[20:]] if self.split else [data]):
                    writer.write(part)
                    await writer.drain()
                    if self.split:
                        await asyncio.sleep(0)
                if self.close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


def right(server, path, body):
    if path == '/metrics':
        return 200, ''
    device = re.search(rb'"deviceId":"([^"]+)"', body)[1].decode()
    if path.endswith('/unbind'):
        if not server.bound.pop(device, None):
            return 400, {'message': 'already unbound'}
        return 200, {'message': 'ok', 'deviceId': device}
    if device in server.bound:
        return 409, {'message': 'bound'}
    server.bound[device] = True
    return 200, {'message': 'ok', 'device': {'deviceId': device, 'boundAt': '2025-01-01T00:00:00.000Z'}}


def every(n, wrong):
    def respond(server, path, body):
        answer = right(server, path, body)
        return wrong(answer) if server.served % n == n - 1 and answer[0] == 200 else answer
    return respond


def other_device(answer):
    return answer[0], json.loads(re.sub(r'GH-', 'GH-9', json.dumps(answer[1])))


def other_kind(answer):
    if 'device' in answer[1]:
        return 200, {'message': 'ok', 'deviceId': answer[1]['device']['deviceId']}
    return 200, {'message': 'ok', 'device': {'deviceId': answer[1]['deviceId'], 'boundAt': 'x'}}


def run(server, *args, connections=16, seconds=0.5):
    done = subprocess.run([PROGRAM, '--target', f'127.0.0.1:{server.port}', '--connections', str(connections),
                           '--seconds', str(seconds), '--warmup', '0.1', '--drain', '1', '--json', '--token', 'abc',
                           *args], capture_output=True, text=True, timeout=60, check=False)
    server.stop()
    return done.returncode, json.loads(done.stdout.splitlines()[-1]) if done.stdout else None, done.stderr


@pytest.mark.parametrize('how', [{}, {'chunked': True}, {'close': True}, {'split': True}])
def test_right_answers(how):
    server = Server(right, **how)
    server.bound['GH-1'] = True  # left over by an earlier run
    code, result, stderr = run(server)
    assert (code, stderr) == (0, '')
    assert result['requests'] > 100 and result['checked'] >= result['requests']
    assert 0 < result['p50_ms'] <= result['p90_ms'] <= result['p99_ms'] <= result['max_ms']


@pytest.mark.parametrize('wrong, counter', [(other_device, 'crossed'), (other_kind, 'crossed'),
                                            (lambda answer: (503, answer[1]), 'unexpected'),
                                            (lambda answer: 'drop', 'errors')])
def test_wrong_answers(wrong, counter):
    code, result, _ = run(Server(every(50, wrong)))
    assert code == 1
    assert result[counter] > 0
    assert sum(result[name] for name in ('crossed', 'unexpected', 'errors')) == result[counter]


def test_answer_to_no_request():
    server = Server(right)
    server.extra = True
    code, result, _ = run(server)
    assert code == 1 and result['crossed'] > 0


def test_lost_answer_is_an_error_and_ends():
    server = Server(lambda server, path, body: None if server.served == 100 else right(server, path, body))
    code, result, _ = run(server)
    assert code == 1 and result['errors'] == 1


def test_plain_requests_and_limit():
    server = Server(lambda server, path, body: (200, {'path': path}))
    code, result, _ = run(server, '--get', '/x', '--requests', '500', seconds=20)
    assert code == 0 and 500 <= result['requests'] <= 516


def test_rate():
    code, result, _ = run(Server(right), '--rate', '400', seconds=1)
    assert code == 0 and 350 <= result['rps'] <= 450


class Parking(Server):
    """Answers the gauge at once and the binds all together, when release() is called."""

    def __init__(self, status):
        self.waiting, self.status = [], status
        super().__init__(None)

    async def serve(self, reader, writer):
        head = await reader.readuntil(b'\r\n\r\n')
        if b'/metrics' in head:
            text = f'# TYPE syncgate_parked_requests gauge\nsyncgate_parked_requests {len(self.waiting)}\n'.encode()
            writer.write(f'HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n'.encode() + text)
            writer.close()
        else:
            self.waiting.append(writer)

    def release(self):
        for writer in self.waiting:
            writer.write(self.frame(self.status, b'{}'))


@pytest.mark.parametrize('status, code', [(504, 0), (200, 1)])
def test_park(status, code):
    server = Parking(status)
    address = f'127.0.0.1:{server.port}'
    with subprocess.Popen([PROGRAM, '--target', address, '--admin', address, '--park', '300', '--seconds', '20',
                           '--json'], stdout=subprocess.PIPE, text=True) as load:
        assert load.stdout.readline() == 'parked 300\n'
        load.send_signal(signal.SIGTERM)
        server.loop.call_soon_threadsafe(server.release)
        result = json.loads(load.stdout.readline())
        assert load.wait(10) == code
    server.stop()
    assert result['parked'] == 300
    assert result['checked' if status == 504 else 'unexpected'] == 300


@pytest.mark.parametrize('target', ['10.0.0.1:80', 'localhost:80', '127.0.0.1', '127.0.0.1:0', '127.0.0.1:80x'])
def test_other_addresses_are_refused(target):
    assert subprocess.run([PROGRAM, '--target', target], capture_output=True, check=False).returncode == 2
