"""Starts a keeper and gives it orders, from the trainer (see `keeper`)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from rung.reward import keeper
from rung.reward.connection import Connection, WorkerFailure
from rung.reward.environment import worker_environment

REWARD_PROGRAM = "rung.reward.worker_main"  # what a worker process runs: the function `serve` of this module
ANSWER_S = 10.0  # the keeper runs no code of a user, so that it answers within milliseconds


class KeeperProcess:
    """A keeper, which ends with this object, with the trainer, or when `close` is called. Not thread-safe."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", keeper.__file__, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=worker_environment(),
                start_new_session=True,  # Ctrl-C does not reach it
            )
        self.connection = Connection(ours)
        self.owner = os.getpid()
        self._finalizer = weakref.finalize(self, _end, self.process, self.connection, self.owner)

    @property
    def is_running(self) -> bool:
        """Whether it can be given orders; False after `close`, in a child of a fork, or if it was killed."""
        return self.owner == os.getpid() and self._finalizer.alive and self.process.poll() is None

    def spawn(self, env: Mapping[str, str], program: str) -> tuple[Connection, int]:
        """Starts a worker process that runs the module `program`, with `env` added to its environment.

        Returns a connection to it and its id.
        """
        ours, theirs = socket.socketpair()
        connection = Connection(ours)
        with theirs:
            path = [os.path.abspath(folder) for folder in sys.path]
            order = {"op": "spawn", "path": path, "env": dict(env), "program": program}
            pid = self._ask(order, [theirs.fileno()])["pid"]
        return connection, pid

    def end(self, pids: Sequence[int]) -> None:
        """Kills worker processes with all their descendants."""
        if pids:
            self._ask({"op": "end", "pids": list(pids)})

    def status(self, pid: int) -> int | None:
        """The exit code of a process that `spawn` started, the negative number of the signal that ended it, or None."""
        return self._ask({"op": "status", "pid": pid})["status"]

    def close(self) -> None:
        """Ends it, with all worker processes and their descendants."""
        self._finalizer()

    def _ask(self, order: Mapping[str, Any], descriptors: Sequence[int] = ()) -> dict[str, Any]:
        try:
            return self.connection.ask(order, ANSWER_S, descriptors)
        except TimeoutError:
            raise WorkerFailure("the process that keeps it does not answer") from None


class CurrentKeeper:
    """A keeper that is started when it is first needed, and again if it has ended or belongs to another process."""

    def __init__(self) -> None:
        self._keeper: KeeperProcess | None = None

    def get(self) -> KeeperProcess:
        """The keeper, which runs."""
        if self._keeper is None or not self._keeper.is_running:
            self._keeper = KeeperProcess()
        return self._keeper

    def close(self) -> None:
        """Ends it, with all worker processes and their descendants."""
        if self._keeper is not None:
            self._keeper.close()
        self._keeper = None


def _end(process: subprocess.Popen[bytes], connection: Connection, owner: int) -> None:
    connection.close()
    if os.getpid() != owner:  # a child of a fork has copies of both
        return
    try:
        process.wait(ANSWER_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
