"""Splits and samples data by a hash of the content, so that adding a row never moves another to a different part."""

import hashlib
import math
from collections.abc import Mapping, Sequence

from rung.data.records import Example
from rung.errors import ConfigError


def position(group: str, salt: str) -> float:
    """A pseudo-random position in [0, 1) for a group: the upper 53 bits of the SHA-256 of salt and group.

    >>> position("a", "") == position("a", ""), 0 <= position("a", "x") < 1
    (True, True)
    """
    number = int.from_bytes(hashlib.sha256(f"{salt}{group}".encode()).digest()[:8])
    return (number >> 11) / 2**53


def split(examples: Sequence[Example], shares: Mapping[str, float], salt: str = "") -> dict[str, list[Example]]:
    """Splits examples into named parts with the given shares; all examples of a group go to the same part.

    The order of the examples is kept. Raises `ConfigError` if the shares are not positive numbers that sum to 1.
    """
    if not shares or min(shares.values()) <= 0 or not math.isclose(sum(shares.values()), 1.0):
        raise ConfigError(
            f"shares: {dict(shares)} are not positive numbers that sum to 1",
            "give shares such as train 0.9 and test 0.1",
        )
    parts: dict[str, list[Example]] = {name: [] for name in shares}
    bounds: list[tuple[float, str]] = []
    for name, share in shares.items():
        bounds.append((share + (bounds[-1][0] if bounds else 0.0), name))
    last = bounds[-1][1]
    for example in examples:
        where = position(example.group, salt)
        parts[next((name for bound, name in bounds if where < bound), last)].append(example)
    return parts


def between(examples: Sequence[Example], low: float, high: float, salt: str = "") -> list[Example]:
    """The examples whose group has a `position` in [low, high)."""
    return [example for example in examples if low <= position(example.group, salt) < high]


def sample(examples: Sequence[Example], n: int, seed: int) -> list[Example]:
    """A sample of at most `n` examples, those with the lowest hash of seed and id, in their original order."""
    drawn = sorted(range(len(examples)), key=lambda i: (position(examples[i].id, f"sample {seed} "), i))[:n]
    return [examples[i] for i in sorted(drawn)]
