"""Calls tools in worker processes, several at a time, and ends those that have passed their deadline."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from rung.agents.results import MAX_CONTENT, ToolResult, failure
from rung.agents.tools import Tool
from rung.agents.work import Work, late
from rung.reward.connection import Connection, WorkerFailure, wait_for
from rung.reward.deadline import START_TIMEOUT_S
from rung.reward.keeper_process import CurrentKeeper
from rung.reward.pool import Lane, Pool

PROGRAM = "rung.agents.worker_main"
MAX_LANES = 8  # calls at the same time; those that wait for a lane are not yet late
_ATTEMPTS = 2  # to send a call: a process that was killed meanwhile is found out by sending


@dataclass(frozen=True, eq=False, slots=True)
class _Running:
    pool: Pool
    lane: Lane
    work: Work

    @property
    def deadline(self) -> float:
        if self.lane.is_loading:
            return self.lane.began + START_TIMEOUT_S
        return inf if self.work.tool.timeout_s is None else self.lane.began + self.work.tool.timeout_s


class Workers:
    """The worker processes of tools that have an address; tools of one file or module share theirs."""

    def __init__(self, tools: Sequence[Tool]):
        self._keeper = CurrentKeeper()
        self._waiting: deque[Work] = deque()
        self._running: dict[Connection, _Running] = {}
        self._pools: dict[str, Pool] = {}
        by_source: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
        for tool in tools:
            if tool.address is not None:
                by_source.setdefault(_source(tool.address), {})[tool.name] = tool.address
        for (_, _, *named), addresses in by_source.items():
            env = {name: os.environ[name] for name in named if name in os.environ}
            self._pools |= dict.fromkeys(addresses, Pool(self._keeper.get, addresses, env, PROGRAM))

    @property
    def is_busy(self) -> bool:
        """Whether a call runs or waits."""
        return bool(self._running or self._waiting)

    def add(self, work: Work) -> None:
        """Starts a call, or lets it wait for a lane; the first call of a file waits here until the file is loaded."""
        self._waiting.append(work)
        self._start()

    def look(self, seconds: float) -> None:
        """Takes the results that are there, or the first ones that come within `seconds`."""
        if not self._running:
            return
        left = min(running.deadline for running in self._running.values()) - time.monotonic()
        for connection in wait_for(self._running, min(seconds, left)):
            self._receive(self._running[connection])
        self._expire()
        self._start()

    def close(self) -> None:
        """Ends the worker processes, with all their descendants."""
        self._waiting.clear()
        for running in self._running.values():
            running.pool.end([running.lane])
        self._running.clear()
        for pool in self._pools.values():
            pool.close()
        self._keeper.close()

    def _start(self) -> None:
        while self._waiting and len(self._running) < MAX_LANES:
            work = self._waiting.popleft()
            pool = self._pools[work.tool.name]
            for attempt in range(_ATTEMPTS):
                try:
                    self._send(pool, pool.lane(), work)
                    break
                except WorkerFailure as error:
                    if pool.fault is not None or attempt == _ATTEMPTS - 1:
                        work.result = _not_started(pool, error)
                        break

    def _send(self, pool: Pool, lane: Lane, work: Work) -> None:
        lane.serial, lane.began = pool.next_serial(), time.monotonic()
        request = {"op": "call", "key": work.tool.name, "serial": lane.serial}
        try:
            lane.connection.send({**request, "arguments": work.arguments, "draw": work.draw})
        except WorkerFailure:
            pool.end([lane])
            raise
        self._running[lane.connection] = _Running(pool, lane, work)

    def _receive(self, running: _Running) -> None:
        pool, lane = running.pool, running.lane
        try:
            for message in lane.connection.receive():
                if lane.is_loading:
                    pool.loaded(message)
                    lane.is_loading, lane.began = False, time.monotonic()
                elif message.get("serial") == lane.serial:
                    del self._running[lane.connection]
                    running.work.result = _read(message, time.monotonic() - lane.began)
                    pool.release(lane)
                    return
        except WorkerFailure as error:
            how = pool.how_it_ended(lane) if str(error) == "it ended" else str(error)
            note = f"the worker died: {how}" if pool.fault is None else pool.fault.note
            self._drop(running, note)

    def _expire(self) -> None:
        now = time.monotonic()
        for running in [each for each in self._running.values() if now >= each.deadline]:
            self._drop(running, late(running.work) if not running.lane.is_loading else _not_loaded())

    def _drop(self, running: _Running, note: str) -> None:
        del self._running[running.lane.connection]
        running.work.result = failure(note, time.monotonic() - running.lane.began)
        running.pool.end([running.lane])


def _source(address: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tools have in common whose functions share the state of a module."""
    return address["name"].rpartition(":")[0], address["base"], *address["env"]


def _not_loaded() -> str:
    return f"its file was not loaded within {START_TIMEOUT_S:g} s"


def _not_started(pool: Pool, error: WorkerFailure) -> ToolResult:
    if pool.fault is None:
        return failure(f"no worker could be started: {error}")
    return failure(_not_loaded() if pool.fault.kind == "timeout" else pool.fault.note)


def _read(message: Mapping[str, Any], seconds: float) -> ToolResult:
    """The result in a message, which is not trusted: the process has run the code of a user."""
    content, status, note = (message.get(name) for name in ("content", "status", "note"))
    if status == "failed" and isinstance(note, str):
        return failure(note, seconds)
    if isinstance(content, str) and len(content) <= MAX_CONTENT and (status == "ok" or status == "mistake"):
        return ToolResult(content, status, "", seconds)
    return failure("the worker sent an invalid reply", seconds)
