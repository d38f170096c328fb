"""What a reward is: a plain function, `@reward` to declare its traits, and `Verdict` for more than a number."""

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
    """The traits of a reward that its author knows and a config need not repeat."""

    range: tuple[float, float] | None = None
    timeout: float | None = None
    role: Role = "reward"
    goal: Goal = "max"
    group: bool = False
    batch: bool = False
    check: Check | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement with its reasons: `parts` are logged and never summed, `cost` is in the judge's own currency."""

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
) -> Callable[[Function], Function]:
    """Declare a function a reward; it stays the plain function that it was.

    The signature is the schema: positional parameters are standard fields (`prompt`, `messages`, `completion`,
    `completion_ids`, `finish_reason`, `n_tokens`, `row_id`) or data columns, keyword-only ones are settings. It judges
    one completion and returns a float, None (abstains) or a Verdict; with `group` it sees the rows of one group, every
    positional parameter is a list, and it returns a list. With `batch` it sees all rows at once, in the fields that TRL
    has (`prompts` and `completions`, texts or lists of messages, and `completion_ids`) and columns, all of them lists.

    `range`    lowest and highest value; anything outside is an error of the function.
    `timeout`  seconds for one call; the function then runs in a process of its own, which is killed at the deadline.
    `role`     what it is where a config does not say: `reward`, `gate`, `shaping` or `metric` (the default for `min`).
    `goal`     `min` where less is better.
    `check`    called before anything is computed, with the settings and the tokenizer of the policy that it will judge;
               raises UserError where it cannot.

    Raises ValueError for an empty range, a timeout that is not positive, or `group` together with `batch`.

    >>> @reward(range=(0, 1))
    ... def polite(completion: str) -> float:
    ...     return float("please" in completion)
    >>> polite("yes, please")
    1.0
    """
    if range is not None and not range[0] < range[1]:
        raise ValueError(f"range={range}: the lowest value comes first and differs from the highest")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout={timeout}: give seconds above 0, or leave it out")
    if group and batch:
        raise ValueError("group and batch: a function sees one group at a time, or all rows")
    default: Role = "metric" if goal == "min" else "reward"
    declared = Declaration(range, timeout, role or default, goal, group, batch, check)

    def mark(function: Function) -> Function:
        setattr(function, _MARK, declared)
        return function

    return mark


def is_declared(value: object) -> bool:
    """Whether `@reward` was applied to it."""
    return isinstance(getattr(value, _MARK, None), Declaration)


def declaration(function: Callable[..., Any]) -> Declaration:
    """The traits of a function (also below `functools.partial`); the defaults where it was not declared."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, _MARK, Declaration())


def name_of(function: Callable[..., Any]) -> str:
    """The name of a function or partial, else of the class of a callable object.

    >>> name_of(functools.partial(len))
    'len'
    """
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)
