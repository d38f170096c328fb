"""Whether a completion names exactly one label of a set, and the right one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from rung.reward import reward


@reward(range=(0, 1))
def label(completion: str, answer: str, *, labels: tuple[str, ...]) -> float | None:
    """1 where `answer` is the only one of `labels` in the completion, as a whole word and with the same case.

    A completion with several labels scores 0; otherwise, naming all labels would always score 1. None (no reward) where
    `answer` is not one of `labels`.

    >>> label("It is B.", "B", labels=("A", "B")), label("A or B", "B", labels=("A", "B"))
    (1.0, 0.0)
    """
    if answer not in labels:
        return None
    return float(set(_pattern(tuple(labels)).findall(completion)) == {answer})


@lru_cache(maxsize=64)
def _pattern(labels: Sequence[str]) -> re.Pattern[str]:
    """Matches any label as a whole word; longer labels come first, so that no shorter one matches their beginning."""
    longest_first = sorted(labels, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")
