"""Whether a completion is valid JSON."""

from __future__ import annotations

import json

from rung.reward import reward


@reward(range=(0, 1))
def json_valid(completion: str, *, required: tuple[str, ...] = ()) -> float:
    """1 where the whole completion is one JSON object or list; with `required`, an object that has these keys.

    A bare number or string is valid JSON but scores 0, since it is the easiest way to be valid. NaN is not JSON.

    >>> json_valid('{"dose": 2}'), json_valid('{"dose": 2}', required=("dose", "unit")), json_valid("2")
    (1.0, 0.0, 0.0)
    """
    try:
        value = json.loads(completion, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return 0.0
    if required:
        return float(isinstance(value, dict) and all(key in value for key in required))
    return float(isinstance(value, dict | list))


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")
