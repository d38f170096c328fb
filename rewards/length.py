"""The length of a completion in trained tokens, EOS included, and whether the length limit truncated it."""

from __future__ import annotations

from pydantic import PositiveInt

from rung.reward import reward


@reward(role="metric", goal="min")
def output_tokens(n_tokens: int) -> float:
    """The number of tokens of the completion; fewer are better only if the other metrics do not get worse.

    >>> output_tokens(17)
    17.0
    """
    return float(n_tokens)


@reward(range=(0, 1), role="metric", goal="min")
def truncated(finish_reason: str) -> float:
    """1 where the length limit ended the completion, also since the answer of a tool did not fit; else 0.

    >>> truncated("length"), truncated("answer_length"), truncated("eos")
    (1.0, 1.0, 0.0)
    """
    return float(finish_reason in ("length", "answer_length"))


@reward(range=(-1, 0), role="shaping")
def length(n_tokens: int, *, max_length: PositiveInt) -> float:
    """Length penalty: falls linearly from 0 at 0 tokens to -1 at `max_length` tokens, and is -1 beyond.

    >>> length(16, max_length=64), length(100, max_length=64)
    (-0.25, -1.0)
    """
    return -min(n_tokens / max_length, 1.0)
