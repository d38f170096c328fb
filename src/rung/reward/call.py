"""Calls a reward function in this process: one call after another or, if it is `async`, all calls concurrently."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from rung.reward.outcome import Outcome, raised, timed_out


@dataclass(slots=True)
class Reply:
    """The result of a call: the value returned, and what the function logged with TRL's hooks (see `HOOKS`)."""

    returned: object = None
    columns: dict[str, list[Any]] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=dict)


def with_hooks(hooks: Sequence[str], arguments: Mapping[str, Any], step: int) -> tuple[dict[str, Any], Reply]:
    """The arguments with the named ones of TRL's hooks (see `HOOKS`), and the reply to which these hooks write."""
    reply = Reply()

    def log_extra(column: str, values: Sequence[Any]) -> None:
        reply.columns[column] = list(values)

    def log_metric(name: str, value: float) -> None:
        reply.metrics.setdefault(name, []).append(float(value))

    offered = {
        "trainer_state": SimpleNamespace(global_step=step),
        "log_extra": log_extra,
        "log_metric": log_metric,
    }
    return {**arguments, **{name: offered[name] for name in hooks}}, reply


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call of the function returns a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def call(
    function: Callable[..., Any], hooks: Sequence[str], arguments: Mapping[str, Any], step: int
) -> Reply | Outcome:
    """Calls the function once; an exception, unless it is KeyboardInterrupt, is returned as an error outcome."""
    prepared, reply = with_hooks(hooks, arguments, step)
    try:
        reply.returned = function(**prepared)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # some checkers derive their timeout exceptions from BaseException
        return raised(error)
    return reply


def call_all_async(
    function: Callable[..., Any],
    hooks: Sequence[str],
    many: Sequence[Mapping[str, Any]],
    step: int,
    timeout: float | None,
) -> list[Reply | Outcome]:
    """Calls an `async` function concurrently with all of the arguments; the replies have the order of `many`.

    Each call has its own timeout in seconds.
    """

    async def one(arguments: Mapping[str, Any]) -> Reply | Outcome:
        prepared, reply = with_hooks(hooks, arguments, step)
        try:
            reply.returned = await asyncio.wait_for(function(**prepared), timeout)
        except TimeoutError as error:
            return raised(error) if timeout is None else timed_out(timeout)
        except Exception as error:
            return raised(error)
        return reply

    async def gathered() -> list[Reply | Outcome]:
        return await asyncio.gather(*(one(arguments) for arguments in many))

    with ThreadPoolExecutor(1) as thread:  # a new thread, since in a notebook this one already runs an event loop
        return thread.submit(asyncio.run, gathered()).result()
