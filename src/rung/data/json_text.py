"""Reads JSON that may come from anybody: what is nested too deeply or has a huge number is not valid either."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 100  # far below the depth at which Python's own functions for JSON and copies fail


def loads(text: str) -> Any:
    """The value of a JSON text. Raises ValueError if it is not JSON, or has more than 100 levels.

    >>> loads('{"a": [1]}')
    {'a': [1]}
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"more than {MAX_DEPTH} levels") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth_exceeds(value, MAX_DEPTH):
        raise ValueError(f"more than {MAX_DEPTH} levels")
    return value


def _depth_exceeds(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels + 1):
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True
