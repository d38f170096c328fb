"""The decorator `@reward`, which declares properties of a reward function, and `Verdict`, a result with reasons."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

Role = Literal["reward", "gate", "shaping", "metric"]
Goal = Literal["max", "min"]
Function = TypeVar("Function", bound=Callable[..., Any])
Check = Callable[[Mapping[str, Any], Any], None]

_MARK = "__rung_reward__"


@dataclass(frozen=True, slots=True)
class Declaration:
    """The arguments of `@reward`: properties of a reward function that a config then need not repeat."""

    range: tuple[float, float] | None = None
    timeout: float | None = None
    role: Role = "reward"
    goal: Goal = "max"
    group: bool = False
    batch: bool = False
    check: Check | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A score with its reasons, which a reward function may return in place of a number.

    `parts` are partial scores, which are logged but never summed; `note` is the reason in words; `cost` is the cost of
    an external judge, in its currency. Where they are logged, see docs/rewards.md.
    """

    value: float | None
    parts: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    cost: float = 0.0


def reward(
    *,
    range: tuple[float, float] | None = None,
    timeout: float | None = None,
    role: Role | None = None,
    goal: Goal = "max",
    group: bool = False,
    batch: bool = False,
    check: Check | None = None,
    concurrency: int | None = None,
) -> Callable[[Function], Function]:
    """A decorator that declares a function as a reward and returns it unchanged.

    The parameters of the function say what it is called with. Positional parameters are standard fields (`prompt`,
    `messages`, `completion`, `completion_ids`, `finish_reason`, `n_tokens`, `row_id`) or data columns; keyword-only
    parameters are settings. The function judges one completion and returns a float, None (it abstains) or a Verdict.
    With `group`, it is called with the rows of one group: positional arguments are lists, and it returns a list. With
    `batch`, it is called with lists over all rows: TRL's `prompts` and `completions` (strings or lists of messages),
    `completion_ids`, and columns.

    `range`    lowest and highest value; a value outside is treated as an error of the function.
    `timeout`  the deadline of a call in seconds, in place of `reward_policy.timeout_s`; the worker process of the
               function is killed at the deadline.
    `role`     the role if the config sets none: `reward`, `gate`, `shaping` or `metric`; by default `reward`, but
               `metric` if `goal` is `min`.
    `goal`     `max` if higher is better, `min` if lower is better.
    `check`    a function that is called with the settings and the policy's tokenizer before anything is computed, and
               raises UserError if the reward cannot judge completions of this policy.
    `concurrency`  how many calls run at the same time, each in a worker process (a function that a Python program
               passes: in a thread); by default one, but all calls of an `async` function.

    Raises ValueError for an empty range, a timeout that is not positive, `group` together with `batch`, or a
    concurrency that is below 1 or set for a function that is called once.

    >>> @reward(range=(0, 1))
    ... def polite(completion: str) -> float:
    ...     return float("please" in completion)
    >>> polite("yes, please")
    1.0
    """
    if range is not None and not range[0] < range[1]:
        raise ValueError(f"range={range}: the first value must be lower than the second")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout={timeout}: give a number of seconds above 0, or leave it out")
    if group and batch:
        raise ValueError("group and batch: a function gets either one group at a time or all rows")
    if concurrency is not None and (concurrency < 1 or batch):
        raise ValueError(f"concurrency={concurrency}: give at least 1, and leave it out if `batch` is set")
    default: Role = "metric" if goal == "min" else "reward"
    declared = Declaration(range, timeout, role or default, goal, group, batch, check, concurrency)

    def mark(function: Function) -> Function:
        setattr(function, _MARK, declared)
        return function

    return mark


def is_declared(value: object) -> bool:
    """Whether the value was decorated with `@reward`."""
    return isinstance(getattr(value, _MARK, None), Declaration)


def declaration(function: Callable[..., Any]) -> Declaration:
    """The declaration of a function, also inside `functools.partial`; the defaults if it has no `@reward`."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, _MARK, Declaration())


def name_of(function: Callable[..., Any]) -> str:
    """The name of a function or partial, or the class name of a callable object.

    >>> name_of(functools.partial(len))
    'len'
    """
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)
