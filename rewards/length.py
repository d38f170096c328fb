"""How long an answer is, in trained tokens, EOS included."""

from __future__ import annotations

from pydantic import PositiveInt

from rung.reward import reward


@reward(role="metric", goal="min")
def output_tokens(n_tokens: int) -> float:
    """The number of tokens of the completion; fewer count as better only where the other metrics hold.

    >>> output_tokens(17)
    17.0
    """
    return float(n_tokens)


@reward(range=(-1, 0), role="shaping")
def length(n_tokens: int, *, max_length: PositiveInt) -> float:
    """A price per token: 0 for nothing, falling evenly to -1 at `max_length` tokens and staying there.

    >>> length(16, max_length=64), length(100, max_length=64)
    (-0.25, -1.0)
    """
    return -min(n_tokens / max_length, 1.0)
