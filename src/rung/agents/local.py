"""Calls tools in this process: functions of a Python program, and methods of environments.

`async` functions run side by side on the event loop that rewards use; others run one after another, in `look`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from rung.agents.results import ToolResult, failure, made, raised, result_of
from rung.agents.work import Work, late
from rung.reward.call import LOOP_GRACE_S, Reply, Threads, is_async
from rung.reward.deadline import Expired, call_within, free, is_main_thread
from rung.reward.event_loop import event_loop, leave_event_loop
from rung.reward.guard import exits_raise, restored_process
from rung.reward.outcome import Outcome


@dataclass(frozen=True, eq=False, slots=True)
class _Running:
    work: Work
    began: float

    @property
    def deadline(self) -> float:
        """When the function is taken to block the event loop, or to ignore that it was cancelled."""
        timeout = self.work.tool.timeout_s
        return inf if timeout is None else self.began + timeout + LOOP_GRACE_S


class Local:
    """The calls in this process."""

    def __init__(self) -> None:
        self._waiting: deque[Work] = deque()
        self._running: dict[Future[ToolResult], _Running] = {}

    @property
    def is_busy(self) -> bool:
        """Whether a call runs or waits."""
        return bool(self._running or self._waiting)

    def add(self, work: Work) -> None:
        """Starts the call of an `async` function; `look` makes the others."""
        if is_async(work.tool.function):
            future = event_loop().start(_awaited(work))
            self._running[future] = _Running(work, time.monotonic())
        else:
            self._waiting.append(work)

    def look(self, seconds: float) -> None:
        """Makes one call that waits, else takes the results that are there or come within `seconds`."""
        if self._waiting:
            work = self._waiting.popleft()
            began = time.monotonic()
            work.result = replace(_called(work), seconds=time.monotonic() - began)
            seconds = 0.0
        if not self._running:
            return
        left = min(running.deadline for running in self._running.values()) - time.monotonic()
        done, _ = wait(self._running, max(0.0, min(seconds, left)), FIRST_COMPLETED)
        now = time.monotonic()
        for future in done:
            self._end(future, now, future.result())
        for future in [future for future, running in self._running.items() if now >= running.deadline]:
            self._end(future, now, failure(late(self._running[future].work)))
            future.cancel()
            leave_event_loop()

    def close(self) -> None:
        """Cancels what still runs."""
        self._waiting.clear()
        for future in self._running:
            future.cancel()
        self._running.clear()

    def _end(self, future: Future[ToolResult], now: float, result: ToolResult) -> None:
        running = self._running.pop(future)
        running.work.result = replace(result, seconds=now - running.began)


async def _awaited(work: Work) -> ToolResult:
    """Awaits a call within its deadline; never raises, since SystemExit would end the event loop."""
    task, limit = asyncio.current_task(), asyncio.timeout(work.tool.timeout_s)
    try:
        async with limit:
            with exits_raise():
                returned = await work.tool.function(**work.arguments)
    except BaseException as error:
        if task is not None and task.cancelling():
            return failure("it was cancelled")
        return failure(late(work)) if limit.expired() else raised(error)
    return result_of(returned)


def _called(work: Work) -> ToolResult:
    """Calls a function within its deadline: in the main thread by a signal, in another one in a thread of its own."""
    timeout, what = work.tool.timeout_s, f"tool `{work.tool.name}`"

    def one(arguments: Mapping[str, Any]) -> ToolResult:
        with exits_raise():
            return made(work.tool.function, arguments)

    with restored_process():  # not in `one`: a thread that goes on would restore the folder at any later time
        if timeout is None:
            return one(work.arguments)
        if not is_main_thread():
            return _in_thread(one, work, timeout, what)
        try:
            return call_within(timeout, what, lambda: one(work.arguments))
        except Expired:
            return failure(late(work))
        finally:
            free()


def _in_thread(one: Callable[[Mapping[str, Any]], ToolResult], work: Work, timeout: float, what: str) -> ToolResult:
    (reply,) = Threads(lambda arguments: Reply(one(arguments)), [work.arguments], 1, timeout, what).run()
    if isinstance(reply, Outcome):
        return failure(f"{late(work)}; its thread goes on")
    assert isinstance(reply.returned, ToolResult)
    return reply.returned
