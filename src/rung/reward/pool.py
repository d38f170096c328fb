"""The worker processes of the functions of one file or module: one that has loaded it, and lanes forked from it."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rung.reward.connection import Connection, WorkerFailure
from rung.reward.deadline import START_TIMEOUT_S
from rung.reward.keeper_process import REWARD_PROGRAM, KeeperProcess
from rung.reward.outcome import Outcome, timed_out
from rung.reward.reply import read_reply

FORK_S = 5.0
SURPLUS_NICENESS = 10  # so that calls in surplus lanes do not slow down the call that they wait for


@dataclass(eq=False, slots=True)
class Lane:
    """A process that calls functions, one message at a time.

    `rows` are those of the message `serial` without a reply yet. `began` is when it was sent, `heard` when the last
    reply came. A lane that is not forked first loads the functions.
    """

    connection: Connection
    pid: int
    forked: bool
    surplus: bool = False
    is_loading: bool = False
    rows: list[int] = field(default_factory=list)
    serial: int = 0
    began: float = 0.0
    heard: float = 0.0


class Pool:
    """Opens and ends lanes.

    `addresses` has what a worker needs to load each function, by its key; `env` has variables for the worker, and
    `program` is the module that it runs.
    """

    def __init__(
        self,
        keeper: Callable[[], KeeperProcess],
        addresses: Mapping[str, Mapping[str, Any]],
        env: Mapping[str, str],
        program: str = REWARD_PROGRAM,
    ):
        self.fault: Outcome | None = None  # why the functions cannot be loaded
        self.can_fork = True
        self._keeper, self._addresses, self._env, self._program = keeper, addresses, env, program
        self._template: Lane | None = None
        self._free: list[Lane] = []
        self._serial = 0

    def next_serial(self) -> int:
        """A number that no message to a lane has had."""
        self._serial += 1
        return self._serial

    def lane(self, surplus: bool = False) -> Lane:
        """A lane that is free, else a new one. Raises WorkerFailure, also if nothing can be loaded (`fault`)."""
        while self._free:
            lane = self._free.pop(0)
            if lane.connection.is_open:
                return lane
            self.end([lane])
        if self.fault is not None:
            raise WorkerFailure(self.fault.note)
        if self._template is not None and not self._template.connection.is_open:
            self.end([self._template])
            self._template = None
        if self._template is None and self.can_fork:
            first = self._started()
            if first is not None:
                return first
        return self._forked(surplus) if self._template is not None else self._spawned(surplus)

    def release(self, lane: Lane) -> None:
        """Takes back a lane that has nothing to do."""
        self._free.append(lane)

    def trim(self, usual: int) -> None:
        """Ends the free lanes beyond the usual number, and those of low priority."""
        kept = [lane for lane in self._free if not lane.surplus][:usual]
        self.end([lane for lane in self._free if lane not in kept])
        self._free = kept

    def end(self, lanes: Iterable[Lane]) -> None:
        """Kills lanes with all their descendants."""
        lanes = list(lanes)
        for lane in lanes:
            lane.connection.close()
        with contextlib.suppress(WorkerFailure):  # its end is also that of its workers
            if lanes:
                self._keeper().end([lane.pid for lane in lanes])

    def close(self) -> None:
        """Kills all lanes that are free, and the process that they were forked from."""
        self.end([*self._free, *([self._template] if self._template else [])])
        self._free, self._template = [], None

    def how_it_ended(self, lane: Lane) -> str:
        """How a lane ended, in words."""
        status = None
        for _ in range(20):
            with contextlib.suppress(WorkerFailure, TimeoutError, KeyError):
                if lane.forked and self._template is not None:
                    status = self._template.connection.ask({"op": "status", "pid": lane.pid}, FORK_S)["status"]
                else:
                    status = self._keeper().status(lane.pid)
            if status is not None:
                break
            time.sleep(0.005)
        if not isinstance(status, int):
            return "it ended"
        if status >= 0:
            return f"it exited with {status}"
        with contextlib.suppress(ValueError):
            return f"it was ended by {signal.Signals(-status).name}"
        return f"it was ended by signal {-status}"

    def _started(self) -> Lane | None:
        """Starts the process that loads the functions; returns it as a lane if it cannot be forked, else None."""
        lane = self._spawn()
        try:
            answer = lane.connection.ask({"op": "load", "addresses": self._addresses}, START_TIMEOUT_S)
            self.loaded(answer)
        except TimeoutError:
            self.fault = timed_out(START_TIMEOUT_S)
            self.end([lane])
            raise WorkerFailure(f"its file was not loaded within {START_TIMEOUT_S:g} s") from None
        except WorkerFailure as error:
            how = self.how_it_ended(lane) if str(error) == "it ended" else str(error)
            self.fault = self.fault or Outcome("error", note=f"its file could not be loaded: {how}")
            self.end([lane])
            raise WorkerFailure(self.fault.note) from None
        self.can_fork = bool(answer.get("can_fork"))
        if not self.can_fork:
            return lane
        self._template = lane
        return None

    def loaded(self, answer: Mapping[str, Any]) -> None:
        """Takes the answer of a process that was told to load the functions. Raises WorkerFailure if it could not."""
        if "error" in answer:
            read = read_reply(answer)
            self.fault = read if isinstance(read, Outcome) else None
            raise WorkerFailure(self.fault.note if self.fault else "its reply is invalid")

    def _spawn(self, surplus: bool = False) -> Lane:
        connection, pid = self._keeper().spawn(self._env, self._program)
        return Lane(connection, pid, forked=False, surplus=surplus)

    def _spawned(self, surplus: bool) -> Lane:
        lane = self._spawn(surplus)
        lane.is_loading = True
        lane.connection.send({"op": "load", "addresses": self._addresses})
        return lane

    def _forked(self, surplus: bool) -> Lane:
        template = self._template
        assert template is not None, "lanes are forked from a process that has loaded the functions"
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                order = {"op": "fork", "nice": SURPLUS_NICENESS if surplus else 0}
                pid = template.connection.ask(order, FORK_S, [theirs.fileno()])["pid"]
        except (TimeoutError, WorkerFailure, KeyError):
            ours.close()
            self._template = None
            self.end([template])
            raise WorkerFailure("the process that it is forked from ended") from None
        return Lane(Connection(ours), pid, forked=True, surplus=surplus)
