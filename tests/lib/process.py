# SPDX-License-Identifier: Apache-2.0
"""One child process of a test: its lines are collected as they come, tests wait for lines instead of sleeping, and
nothing outlives the test run: setpriv makes the kernel kill a child whose test runner has died."""
import atexit
import os
import signal
import subprocess
import threading
import time

BUILD = os.environ.get("TEST_BUILD", os.path.join(os.path.dirname(__file__), "..", "..", "build"))
ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
# A sanitizer build is slower; deadlines that only guard against hanging are stretched, no measured ones.
PATIENCE_S = 60 if "san" in os.path.basename(BUILD) else 30
SANITIZER_WORDS = ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "WARNING: ThreadSanitizer", "runtime error:")

_alive = set()


def program(name):
    path = os.path.join(BUILD, name)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} is not built; run ./dev test or ./dev build")
    return path


def clean_environment(extra):
    """The gateway refuses variables it does not know, so it gets the few it needs, not the tester's."""
    kept = ("PATH", "LANG", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    env.update({name: str(value) for name, value in extra.items() if value is not None})
    return env


class Lines:
    """Lines of a stream, appended by a reader thread."""

    def __init__(self):
        self.all = []
        self.closed = False
        self.changed = threading.Condition()

    def read_from(self, stream):
        for raw in stream:
            with self.changed:
                self.all.append(raw.decode("utf-8", "replace").rstrip("\n"))
                self.changed.notify_all()
        stream.close()
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def wait_for(self, wanted, timeout_s):
        """The first non-None wanted(line); None when the stream ends or time is up."""
        deadline = time.monotonic() + timeout_s
        seen = 0
        with self.changed:
            while True:
                while seen < len(self.all):
                    found = wanted(self.all[seen])
                    seen += 1
                    if found is not None:
                        return found
                left = deadline - time.monotonic()
                if self.closed or left <= 0:
                    return None
                self.changed.wait(left)


class Process:
    def __init__(self, argv, env, cwd=ROOT, name=None):
        self.name = name or os.path.basename(argv[0])
        self.popen = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *argv], env=env, cwd=cwd,
                                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        _alive.add(self.popen)
        self.stdout, self.stderr = Lines(), Lines()
        self._readers = []
        for lines, stream in ((self.stdout, self.popen.stdout), (self.stderr, self.popen.stderr)):
            reader = threading.Thread(target=lines.read_from, args=(stream,), daemon=True)
            reader.start()
            self._readers.append(reader)

    @property
    def pid(self):
        return self.popen.pid

    def wait_line(self, lines, wanted, what, timeout_s=PATIENCE_S):
        found = lines.wait_for(wanted, timeout_s)
        if found is None:
            raise AssertionError(f"{self.name}: no {what}; exit status {self.popen.poll()}\n{self.tail()}")
        return found

    def tail(self, count=40):
        return "\n".join(self.stdout.all[-count:] + self.stderr.all[-count:])

    def signal(self, number):
        self.popen.send_signal(number)

    def wait_exit(self, timeout_s=PATIENCE_S):
        try:
            status = self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end in {timeout_s} s\n{self.tail()}") from None
        _alive.discard(self.popen)
        for reader in self._readers:
            reader.join(5)
        return status

    def kill(self):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        _alive.discard(self.popen)

    def pause(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def assert_no_sanitizer_report(self):
        text = "\n".join(self.stderr.all)
        for words in SANITIZER_WORDS:
            assert words not in text, f"{self.name}: {text[max(0, text.index(words) - 200):][:6000]}"

    def stop(self, expect=0):
        """SIGTERM, and the exit status and the sanitizers' silence are part of every test."""
        if self.popen.poll() is None:
            self.signal(signal.SIGTERM)
        status = self.wait_exit()
        self.assert_no_sanitizer_report()
        if expect is not None:
            assert status == expect, f"{self.name} ended with {status}\n{self.tail()}"


@atexit.register
def _kill_the_rest():
    for popen in list(_alive):
        if popen.poll() is None:
            popen.kill()
            popen.wait()


def eventually(condition, what, timeout_s=PATIENCE_S):
    """Polls a condition that no line announces (a counter of another process)."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.01)
