"""Calls a reward function in this process: one call after another, in threads, or as coroutines of an event loop."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.reward.deadline import GRACE_S, Expired, call_within, ended_after, free, is_main_thread
from rung.reward.decorator import name_of
from rung.reward.event_loop import event_loop, leave_event_loop
from rung.reward.guard import exits_raise, restored_process
from rung.reward.outcome import Outcome, raised, timed_out
from rung.reward.returned import as_json, plain
from rung.reward.trainer_state import TrainerState

LOOP_GRACE_S = 1.0  # after the last deadline, when a function is taken to block the event loop
MAX_THREADS = 64  # calls at the same time after one has passed its deadline


@dataclass(slots=True)
class Reply:
    """The result of a call: the value returned, and what the function logged with TRL's hooks (see `HOOKS`)."""

    returned: object = None
    columns: dict[str, list[Any]] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=dict)


def with_hooks(hooks: Sequence[str], arguments: Mapping[str, Any], state: TrainerState) -> tuple[dict[str, Any], Reply]:
    """The arguments with the named ones of TRL's hooks (see `HOOKS`), and the reply to which these hooks write."""
    reply = Reply()

    def log_extra(column: str, values: Sequence[Any]) -> None:
        reply.columns[column] = [as_json(value) for value in values]

    def log_metric(name: str, value: float) -> None:
        reply.metrics.setdefault(name, []).append(float(value))

    offered = {"trainer_state": state, "log_extra": log_extra, "log_metric": log_metric}
    return {**arguments, **{name: offered[name] for name in hooks}}, reply


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call of the function returns a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def call(
    function: Callable[..., Any], hooks: Sequence[str], arguments: Mapping[str, Any], state: TrainerState
) -> Reply | Outcome:
    """Calls the function once; an exception, unless it is KeyboardInterrupt, is returned as an error outcome."""
    prepared, reply = with_hooks(hooks, arguments, state)
    try:
        returned = function(**prepared)
        if inspect.iscoroutine(returned):  # of an `async` function inside a decorator that hides it
            returned = event_loop().run(returned)
        reply.returned = plain(returned)
    except (KeyboardInterrupt, Expired):
        raise
    except BaseException as error:  # some checkers derive their timeout exceptions from BaseException
        return raised(error)
    return reply


def call_all(
    function: Callable[..., Any],
    hooks: Sequence[str],
    many: Sequence[Mapping[str, Any]],
    state: TrainerState,
    timeout: float | None,
    concurrency: int,
) -> list[Reply | Outcome]:
    """Calls a function with each of the arguments, up to `concurrency` at a time; the replies have their order.

    One call at a time is made in this thread, several are made in threads. Each call has `timeout` seconds, if any. A
    call in the main thread is interrupted at its deadline, and the remaining ones are then made in threads; a thread
    whose call has passed its deadline is left to itself.
    """

    def one(arguments: Mapping[str, Any]) -> Reply | Outcome:
        with exits_raise():
            return call(function, hooks, arguments, state)

    what = f"reward `{name_of(function)}`"
    replies: list[Reply | Outcome] = []
    if concurrency == 1 and (timeout is None or is_main_thread()):
        try:
            for arguments in many:
                with restored_process():
                    reply = one(arguments) if timeout is None else _interruptible(one, arguments, timeout, what)
                replies.append(reply)
                if isinstance(reply, Outcome) and reply.kind == "timeout":
                    break
        finally:
            if timeout is not None:
                free()
    if len(replies) < len(many):
        with restored_process():
            at_once = MAX_THREADS if replies else concurrency
            replies += Threads(one, many[len(replies) :], at_once, timeout, what).run()
    return replies


def _interruptible(
    one: Callable[[Mapping[str, Any]], Reply | Outcome], arguments: Mapping[str, Any], timeout: float, what: str
) -> Reply | Outcome:
    try:
        return call_within(timeout, what, lambda: one(arguments))
    except Expired:
        return timed_out(timeout)


class Threads:
    """Calls in daemon threads, at most `at_once` at a time, and more once a call has passed its deadline."""

    def __init__(
        self,
        one: Callable[[Mapping[str, Any]], Reply | Outcome],
        many: Sequence[Mapping[str, Any]],
        at_once: int,
        timeout: float | None,
        what: str,
    ):
        self._one, self._many, self._timeout, self._what = one, many, timeout, what
        self._at_once = at_once
        self._waiting = deque(range(len(many)))
        self._began: dict[int, float] = {}  # of the calls that run
        self._replies: dict[int, Reply | Outcome] = {}
        self._changed = threading.Condition()

    def run(self) -> list[Reply | Outcome]:
        """Makes the calls; the replies have the order of the arguments."""
        try:
            with self._changed:
                while len(self._replies) < len(self._many):
                    if self._timeout is not None:  # before a thread starts, since it may hold Python's lock for ever
                        ended_after(self._timeout + GRACE_S, self._what)
                    while self._waiting and len(self._began) < self._at_once:
                        row = self._waiting.popleft()
                        self._began[row] = time.monotonic()
                        threading.Thread(target=self._call, args=(row,), daemon=True).start()
                    self._changed.wait(0.5 if self._timeout is None else min(0.5, self._timeout))
                    self._expire()
        finally:
            if self._timeout is not None:
                free()
        return [self._replies[row] for row in range(len(self._many))]

    def _call(self, row: int) -> None:
        reply = self._one(self._many[row])
        with self._changed:
            if self._began.pop(row, None) is not None:
                self._replies[row] = reply
                self._changed.notify()

    def _expire(self) -> None:
        now = time.monotonic()
        for row, began in list(self._began.items()):
            if self._timeout is not None and now - began >= self._timeout:
                del self._began[row]
                self._replies[row] = timed_out(self._timeout, "; its thread goes on")
                self._at_once = MAX_THREADS


def call_all_async(
    function: Callable[..., Any],
    hooks: Sequence[str],
    many: Sequence[Mapping[str, Any]],
    state: TrainerState,
    timeout: float | None,
    concurrency: int | None,
    on_reply: Callable[[int, Reply | Outcome], None] | None = None,
) -> list[Reply | Outcome]:
    """Calls an `async` function with all of the arguments, at most `concurrency` calls (None: all) at a time.

    The replies have the order of `many`; `on_reply` is called with the place and the reply of each call as it ends.
    Each call has its own timeout in seconds. After the first timeout, all remaining calls run at the same time.
    """
    at_once = min(concurrency or len(many), len(many)) or 1
    replies: list[Reply | Outcome | None] = [None] * len(many)

    async def caught(arguments: Mapping[str, Any]) -> object:
        try:
            return plain(await function(**arguments))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return raised(error)
        except BaseException as error:  # SystemExit would end the event loop
            return raised(error)

    async def one(number: int, turn: asyncio.Semaphore) -> None:
        prepared, reply = with_hooks(hooks, many[number], state)
        async with turn:
            try:
                returned = await asyncio.wait_for(caught(prepared), timeout)
            except TimeoutError:
                returned = timed_out(timeout or 0.0)
                for _ in many:
                    turn.release()
        reply.returned = returned
        told = returned if isinstance(returned, Outcome) else reply
        replies[number] = told
        if on_reply is not None:
            on_reply(number, told)

    async def gathered() -> None:
        turn = asyncio.Semaphore(at_once)
        with exits_raise():
            await asyncio.gather(*(one(number, turn) for number in range(len(many))))

    limit = None if timeout is None else timeout * math.ceil(len(many) / at_once) + LOOP_GRACE_S
    with restored_process():
        try:
            if limit is not None and on_reply is None:
                ended_after(limit + GRACE_S, f"reward `{name_of(function)}`")
            event_loop().run(gathered(), limit)
        except TimeoutError:
            leave_event_loop()
        finally:
            if limit is not None and on_reply is None:
                free()
    return [timed_out(timeout or 0.0) if reply is None else reply for reply in replies]
