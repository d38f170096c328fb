"""Sentences for errors: near names, and what pydantic found wrong."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rung.errors import ConfigError, UserError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What to do about an unknown word: the nearest known one, and all of them.

    >>> did_you_mean("accurracy", ["length", "accuracy"])
    'did you mean `accuracy`? known: accuracy, length'
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    listed = f"known: {', '.join(names) or 'none'}"
    return f"did you mean `{nearest[0]}`? {listed}" if nearest else listed


def settings_error(where: str, error: ValidationError, known: Iterable[str]) -> ConfigError:
    """The first fault that pydantic found in the settings of `where`, as what it is and what to do."""
    fault = error.errors()[0]
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        return ConfigError(f"{where}: {cause.what}", cause.remedy)
    key = faulty_key(fault)
    if fault["type"] == "extra_forbidden":
        return ConfigError(f"{where}: unknown key `{key}`", did_you_mean(key, known))
    if fault["type"] == "missing":
        return ConfigError(f"{where}: `{key}` is missing", f"give it a value; its keys: {', '.join(sorted(known))}")
    if not key:
        return ConfigError(f"{where}: {fault['msg'].removeprefix('Value error, ')}", "change it, or leave it out")
    return ConfigError(f"{where}: `{key}` is {fault['input']!r}", as_requirement(fault["msg"]))


def faulty_key(fault: ErrorDetails) -> str:
    """The key that a fault is about, without the names that pydantic gives the alternatives of a union."""
    return ".".join(str(part) for part in fault["loc"] if str(part).isidentifier())


def as_requirement(message: str) -> str:
    """What pydantic wants of a value, as something to do.

    >>> as_requirement("Input should be greater than 0")
    'it must be greater than 0'
    """
    return re.sub(r"^(Input|String|Value) should", "it must", message.removeprefix("Value error, "))
