"""What a sampler and the world exchange: turns of the model, and the answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rung.batch import FinishReason

RowName = tuple[int, int]  # the number of the prompt in a call of the sampler, and that of the sample


@dataclass(frozen=True, slots=True)
class Turn:
    """What the model sampled since the last answer, how it ended, and the tokens that the row may still get."""

    ids: tuple[int, ...]
    finish_reason: FinishReason
    room: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The token ids that follow a turn of the model, which then goes on; or, if `end` is given, how the row ended."""

    ids: tuple[int, ...] = ()
    end: FinishReason | None = None


class World(Protocol):
    """Answers the turns of the model while rows are sampled."""

    def start(self, rows: Sequence[RowName]) -> None:
        """Begins these rows, from the start if they have begun before."""
        ...

    def submit(self, row: RowName, turn: Turn) -> bool:
        """Takes a turn and returns at once: whether `answers` will have an answer; otherwise the row has ended."""
        ...

    def answers(self, timeout_s: float) -> list[tuple[RowName, Answer]]:
        """The answers that have come since the last call; waits for the first at most `timeout_s` seconds.

        The ids of an answer are fewer than the tokens that its row may still get.
        """
        ...
