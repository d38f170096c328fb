"""Calls a reward function in this process: one call after another, in threads, or as coroutines of an event loop."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rung.reward.event_loop import event_loop, leave_event_loop
from rung.reward.guard import exits_raise, restored_process
from rung.reward.outcome import Outcome, raised, timed_out
from rung.reward.returned import as_json, plain
from rung.reward.trainer_state import TrainerState

BLOCKED_S = 2.0  # seconds after the last deadline at which a function is taken to block the event loop


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
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # some checkers derive their timeout exceptions from BaseException
        return raised(error)
    return reply


def call_all(
    function: Callable[..., Any],
    hooks: Sequence[str],
    many: Sequence[Mapping[str, Any]],
    state: TrainerState,
    concurrency: int,
) -> list[Reply | Outcome]:
    """Calls a function with each of the arguments, in up to `concurrency` threads; the replies have their order."""

    def one(arguments: Mapping[str, Any]) -> Reply | Outcome:
        with exits_raise():
            return call(function, hooks, arguments, state)

    def alone(arguments: Mapping[str, Any]) -> Reply | Outcome:
        with restored_process():
            return one(arguments)

    if concurrency == 1 or len(many) < 2:
        return [alone(arguments) for arguments in many]
    with restored_process(), ThreadPoolExecutor(min(concurrency, len(many))) as threads:
        return list(threads.map(one, many))


def call_all_async(
    function: Callable[..., Any],
    hooks: Sequence[str],
    many: Sequence[Mapping[str, Any]],
    state: TrainerState,
    timeout: float | None,
    concurrency: int | None,
) -> list[Reply | Outcome]:
    """Calls an `async` function with all of the arguments, at most `concurrency` calls (None: all) at a time.

    The replies have the order of `many`. Each call has its own timeout in seconds.
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
        reply.returned = returned
        replies[number] = returned if isinstance(returned, Outcome) else reply

    async def gathered() -> None:
        turn = asyncio.Semaphore(at_once)
        with exits_raise():
            await asyncio.gather(*(one(number, turn) for number in range(len(many))))

    limit = None if timeout is None else timeout * math.ceil(len(many) / at_once) + BLOCKED_S
    with restored_process():
        try:
            event_loop().run(gathered(), limit)
        except TimeoutError:
            leave_event_loop()
    return [timed_out(timeout or 0.0) if reply is None else reply for reply in replies]
