"""Runs rewards that may hang in a separate process, which is killed with all its children at a deadline.

Unlike a thread, a process group can be killed even if it is in a busy loop in C or ignores SIGTERM. Messages are a
4-byte big-endian length followed by JSON, never pickle: the process may have run code from a completion, so its replies
are not trusted.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rung.reward.call import Reply
from rung.reward.decorator import Verdict
from rung.reward.outcome import Outcome, timed_out
from rung.reward.trainer_state import TrainerState

START_TIMEOUT_S = 120.0  # to start Python and import the module of a reward; its own timeout starts afterwards
MAX_REPLY_BYTES = 64 * 2**20


class _WorkerFailure(Exception):
    """Raised if the process exited or sent an invalid reply."""


class Worker:
    """A process that runs rewards; it is started at the first call, and again after it was killed. Not thread-safe."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._loaded: set[str] = set()
        self._finalizer: weakref.finalize | None = None

    def call(
        self,
        key: str,
        address: Mapping[str, Any],
        arguments: Mapping[str, Any],
        state: TrainerState,
        timeout: float,
    ) -> Reply | Outcome:
        """Calls a reward once, with `timeout` in seconds; `address` has its `name`, `base` and `args` for loading.

        `key` identifies the reward in this worker. Returns a timeout outcome after the deadline, and an error outcome
        if the process exited.
        """
        waiting = START_TIMEOUT_S
        try:
            process = self._running()
            if key not in self._loaded:
                self._send(process, {"op": "load", "key": key, **address})
                loaded = self._receive(process, waiting)
                if "error" in loaded:
                    return _outcome(loaded["error"])
                self._loaded.add(key)
            self._send(process, {"op": "call", "key": key, "arguments": arguments, "state": asdict(state)})
            waiting = timeout
            return _reply(self._receive(process, waiting))
        except TimeoutError:
            self.close()
            return timed_out(waiting)
        except (_WorkerFailure, BrokenPipeError) as error:
            self.close()
            return Outcome("error", note=f"the worker died: {error}")

    def close(self) -> None:
        """Kills the process and all its children."""
        if self._finalizer is not None:
            self._finalizer()
        self._process, self._finalizer = None, None
        self._loaded.clear()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "rung.reward.worker_main"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # its own process group: Ctrl-C does not reach it, `killpg` kills all of it
            )
            self._finalizer = weakref.finalize(self, _kill, self._process)
        return self._process

    @staticmethod
    def _send(process: subprocess.Popen[bytes], request: Mapping[str, Any]) -> None:
        payload = json.dumps(request).encode()
        assert process.stdin is not None
        process.stdin.write(struct.pack(">I", len(payload)) + payload)
        process.stdin.flush()

    @staticmethod
    def _receive(process: subprocess.Popen[bytes], timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        length = struct.unpack(">I", _read(process, 4, deadline))[0]
        if length > MAX_REPLY_BYTES:
            raise _WorkerFailure(f"it sent a reply of {length} bytes")
        try:
            answer = json.loads(_read(process, length, deadline))
        except ValueError:
            raise _WorkerFailure("its reply is not JSON") from None
        if not isinstance(answer, dict):
            raise _WorkerFailure("its reply is not a mapping")
        return answer


def _read(process: subprocess.Popen[bytes], count: int, deadline: float) -> bytes:
    """Reads `count` bytes of the process's reply; raises TimeoutError at the deadline."""
    assert process.stdout is not None
    descriptor, received = process.stdout.fileno(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while len(received) < count:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not selector.select(remaining):
                raise TimeoutError
            chunk = os.read(descriptor, count - len(received))
            if not chunk:
                raise _WorkerFailure(f"it exited with {process.wait()}")
            received += chunk
    return bytes(received)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(BrokenPipeError):
            if stream is not None:
                stream.close()


def _reply(answer: dict[str, Any]) -> Reply | Outcome:
    if "error" in answer:
        return _outcome(answer["error"])
    returned = answer.get("returned")
    many = [_verdict(value) for value in returned] if isinstance(returned, list) else _verdict(returned)
    return Reply(many, answer.get("columns", {}), answer.get("metrics", {}))


def _verdict(value: object) -> object:
    return Verdict(**value["verdict"]) if isinstance(value, dict) and "verdict" in value else value


def _outcome(error: dict[str, Any]) -> Outcome:
    return Outcome("error", note=str(error.get("note", "")), detail=str(error.get("detail", "")))
