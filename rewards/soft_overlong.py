"""DAPO's soft overlong punishment of completions near the length limit (arXiv 2503.14476, eq. 13)."""

from __future__ import annotations

from pydantic import PositiveInt

from rung.reward import reward


@reward(range=(-1, 0), role="shaping")
def soft_overlong(n_tokens: int, *, max_length: PositiveInt, buffer: PositiveInt) -> float:
    """0 up to `max_length - buffer` trained tokens (with EOS), then linearly down to -1 at `max_length`; -1 beyond.

    >>> [soft_overlong(n, max_length=20, buffer=4) for n in (10, 16, 17, 18, 20, 21)]
    [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]
    """
    over = n_tokens - (max_length - buffer)
    return -min(max(over / buffer, 0.0), 1.0) + 0.0  # + 0.0: no negative zero
