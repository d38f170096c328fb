"""Texts for errors: suggestions of similar names, and pydantic's validation errors in two lines."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rung.errors import ConfigError, UserError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_REQUIREMENTS = {  # parts of pydantic's messages, as regular expressions, and what a user of YAML reads instead
    r"^Value error, ": "",
    r"^\w+ should": "it must",
    r"greater than or equal to": "at least",
    r"less than or equal to": "at most",
    r"a valid dictionary( or instance of \w+)?": "a mapping",
    r"a valid (tuple|list)": "a list",
    r"a valid boolean": "true or false",
    r"a valid string": "a string",
    r"a valid number": "a number",
    r"a valid integer": "an integer",
    r", (unable to|got) .*$": "",
    r" after validation, not \d+$": "",
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The remedy for an unknown name: the nearest known name in upper or lower case, and all known names.

    >>> did_you_mean("accurracy", ["length", "accuracy"])
    'did you mean `accuracy`? known: accuracy, length'
    """
    names = sorted(known)
    folded = {name.casefold(): name for name in names}
    nearest = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.5)
    listed = f"known: {', '.join(names) or 'none'}"
    return f"did you mean `{folded[nearest[0]]}`? {listed}" if nearest else listed


def settings_error(where: str, error: ValidationError, known: Iterable[str]) -> ConfigError:
    """Converts the first of pydantic's validation errors to a ConfigError; `where` says which settings are meant."""
    fault = error.errors()[0]
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        return ConfigError(f"{where}: {cause.what}", cause.remedy)
    key = faulty_key(fault)
    if fault["type"] == "extra_forbidden":
        return ConfigError(f"{where}: unknown key `{key}`", did_you_mean(key, known))
    if fault["type"] == "missing":
        return ConfigError(f"{where}: `{key}` is missing", f"set it; known keys: {', '.join(sorted(known))}")
    if not key:
        return ConfigError(
            f"{where}: {fault['msg'].removeprefix('Value error, ')}", "correct these settings, or leave them out"
        )
    return ConfigError(f"{where}: `{key}` is {fault['input']!r}", as_requirement(fault["msg"]))


def faulty_key(fault: ErrorDetails) -> str:
    """The dotted key that a fault is about, without pydantic's labels of union members."""
    return ".".join(str(part) for part in fault["loc"] if str(part).isidentifier())


def as_requirement(message: str) -> str:
    """Rephrases pydantic's message about a value as a requirement.

    >>> as_requirement("Input should be greater than or equal to 0")
    'it must be at least 0'
    """
    for pattern, words in _REQUIREMENTS.items():
        message = re.sub(pattern, words, message)
    return message
