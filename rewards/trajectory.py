"""Metrics of stages with tools or environments, and the reward that an environment gives."""

from __future__ import annotations

import inspect
import math
from typing import Any

from rung.reward import reward

Calls = list[dict[str, Any]]


@reward(role="metric", goal="min")
def num_turns(turns: int) -> float:
    """The number of turns of the model.

    >>> num_turns(2)
    2.0
    """
    return float(turns)


@reward(role="metric", goal="min")
def num_calls(tool_calls: Calls) -> float:
    """The number of calls of tools, those that could not be read included.

    >>> num_calls([{"status": "ok"}])
    1.0
    """
    return float(len(tool_calls))


@reward(role="metric", goal="min")
def failed_calls(tool_calls: Calls) -> float:
    """The number of calls that gave an error: an unknown tool, wrong arguments, or an exception.

    >>> failed_calls([{"status": "ok"}, {"status": "mistake"}])
    1.0
    """
    return float(sum(call["status"] != "ok" for call in tool_calls))


@reward(role="metric", goal="min")
def unknown_calls(tool_calls: Calls) -> float:
    """The number of calls that name no tool or cannot be read.

    >>> unknown_calls([{"kind": "known"}, {"kind": "unknown"}, {"kind": "unreadable"}])
    2.0
    """
    return float(sum(call["kind"] != "known" for call in tool_calls))


@reward(role="metric", goal="min")
def repeated_calls(tool_calls: Calls) -> float:
    """The number of calls that an earlier call of the row equals, with the same result: the model is in a loop.

    >>> repeated_calls([{"repeated": False}, {"repeated": True}])
    1.0
    """
    return float(sum(call["repeated"] for call in tool_calls))


@reward(range=(0, 1), role="metric", goal="min")
def hit_limit(finish_reason: str) -> float:
    """1 where a limit ended the row: of its tokens, also for an answer that did not fit, or of its turns.

    >>> hit_limit("turns"), hit_limit("eos")
    (1.0, 0.0)
    """
    return float(finish_reason in ("length", "answer_length", "turns"))


@reward(range=(-math.inf, math.inf), timeout=60.0)
async def environment_reward(environment: Any) -> float | None:
    """What the method `get_reward` of the row's environment returns, and the sum of its `turn_rewards`, if it has any.

    None (no reward) if the environment has neither, or if `get_reward` returns None.
    """
    get_reward, of_turns = getattr(environment, "get_reward", None), getattr(environment, "turn_rewards", None)
    if get_reward is None:
        return None if of_turns is None else float(sum(of_turns))
    value = get_reward()
    value = await value if inspect.isawaitable(value) else value
    return value if value is None or of_turns is None else value + float(sum(of_turns))
