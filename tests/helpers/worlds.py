"""Worlds for tests of the sampler: their answers are functions of the tokens of a turn."""

import time
from collections import Counter
from collections.abc import Sequence

import torch

from rung.agents.protocol import Answer, RowName, Turn


class Numbers:
    """Answers a turn with random tokens that its own tokens determine, at most `turns` times in a row.

    Answers come at once, or `delays` seconds later for the rows that have one.
    """

    def __init__(self, turns: int = 4, longest: int = 30, delays: dict[RowName, float] | None = None):
        self.turns, self.longest, self.delays = turns, longest, delays or {}
        self.asked: Counter[RowName] = Counter()
        self.submitted: list[tuple[RowName, Turn]] = []
        self.due: list[tuple[float, RowName, Answer]] = []

    def start(self, rows: Sequence[RowName]) -> None:
        for row in rows:
            self.asked[row] = 0
        self.due = [one for one in self.due if one[1] not in set(rows)]

    def submit(self, row: RowName, turn: Turn) -> bool:
        self.submitted.append((row, turn))
        self.asked[row] += 1
        if self.asked[row] > self.turns:
            return False
        generator = torch.Generator().manual_seed(sum(turn.ids))
        count = int(torch.randint(1, self.longest + 1, (1,), generator=generator))
        ids = tuple(torch.randint(60, 263, (count,), generator=generator).tolist())
        answer = Answer(ids) if count < turn.room else Answer(end="answer_length")
        self.due.append((time.monotonic() + self.delays.get(row, 0.0), row, answer))
        return True

    def answers(self, timeout_s: float) -> list[tuple[RowName, Answer]]:
        end = time.monotonic() + timeout_s
        while True:
            now = time.monotonic()
            come = [one for one in self.due if one[0] <= now]
            if come or now >= end:
                self.due = [one for one in self.due if one[0] > now]
                return [(row, answer) for _, row, answer in come]
            time.sleep(0.001)
