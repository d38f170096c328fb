"""Converts what reward functions return and read: arrays and tensors to lists, values to JSON, columns to copies."""

from __future__ import annotations

import copy
import numbers
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from typing import Any

from rung.reward.decorator import Verdict

_LARGEST = 1e300  # what is larger, infinite or not a number is logged as text
_SCALARS = (str, bytes, int, float, bool, type(None))


def plain(returned: object) -> object:
    """What a function returned, with lists in place of arrays, tensors, generators and views of a dictionary.

    A mapping with `rewards` (OpenRLHF) stands for this value; one with `score` (verl) for a Verdict, whose parts are
    the other values.

    >>> plain(x / 2 for x in range(3))
    [0.0, 0.5, 1.0]
    >>> plain({"score": 1.0, "acc": True})
    Verdict(value=1.0, parts={'acc': True}, note='', cost=0.0)
    """
    if isinstance(returned, Mapping) and "rewards" in returned:
        return plain(returned["rewards"])
    one = _plain_score(returned)
    if isinstance(one, Iterable) and not isinstance(one, str | bytes | Mapping | Set | Verdict):
        return [_plain_score(value) for value in one]
    return one


def _plain_score(value: object) -> object:
    if isinstance(value, Verdict):
        return replace(value, value=_plain_score(value.value))
    if isinstance(value, Mapping) and "score" in value:
        parts = {str(name): part for name, part in value.items() if name != "score"}
        return Verdict(_plain_score(value["score"]), parts)  # type: ignore[arg-type]
    as_list = getattr(value, "tolist", None)
    return as_list() if callable(as_list) else value


def as_json(value: Any) -> Any:
    """The value in a form that JSON can represent; what has no such form, such as NaN, becomes a string.

    >>> as_json({1: (2, 3j)})
    {'1': [2, '3j']}
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) < _LARGEST:
        return str(value) if isinstance(value, float) else "a larger number"
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, Mapping):
        return {str(name): as_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple | Set):
        return [as_json(each) for each in value]
    if callable(as_list := getattr(value, "tolist", None)):
        return as_json(as_list())
    return as_json(float(value)) if isinstance(value, numbers.Real) else str(value)


def copied(value: Any) -> Any:
    """A deep copy, so that a function can change what it is given; an object that cannot be copied is shared.

    >>> given = [1, [2]]
    >>> copied(given)[1].append(3)
    >>> given
    [1, [2]]
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is list:
        return [copied(each) for each in value]
    if kind is dict:
        return {name: copied(each) for name, each in value.items()}
    if kind is tuple:
        return tuple(copied(each) for each in value)
    try:
        return copy.deepcopy(value)
    except Exception:  # a lock, a client, a generator
        return value
