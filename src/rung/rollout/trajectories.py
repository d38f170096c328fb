"""Samples trajectories: rows in which turns of the model and answers to them alternate, each on its own cache."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache

from rung.agents.protocol import Answer, RowName, Turn, World
from rung.batch import Completion, FinishReason
from rung.rollout.cache import join
from rung.rollout.decode import DecodeBatch, Prefill, Rows, Step, StopCriteria
from rung.rollout.philox import Key
from rung.sampling import Sampling

# All rows that have answers go on together, in a batch that does not depend on how fast the answers came: its size
# changes the last bits of log-probs. Only for an answer that takes longer than this do the others not wait.
PATIENCE_S = 2.0
SPREAD = 16  # answers whose lengths differ by at most this many tokens are prefilled together


@dataclass(slots=True, eq=False)
class _Row:
    """A row that is sampled; `cache` has the prompt and all tokens but the last while the row waits for an answer."""

    name: RowName
    visit: int
    prompt_length: int
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    end: FinishReason = "length"
    cache: Cache | None = None
    block: Sequence[int] = ()  # the tokens that are not in the cache when the row goes on

    def add(self, ids: Sequence[int], logps: Sequence[float], sampled: bool) -> None:
        self.ids += ids
        self.logps += logps
        self.sampled += [sampled] * len(ids)


class Trajectories:
    """Samples rows together, in waves: in each, all rows that have an answer, and in the first all rows.

    `prefill` has the prompts of the rows, `names` and `rows` say what each of them is.
    """

    def __init__(
        self,
        step: Step,
        stop_criteria: StopCriteria,
        world: World,
        *,
        key: Key,
        sampling: Sampling,
        prefill_tokens: int,
    ):
        self.step, self.stop_criteria, self.world = step, stop_criteria, world
        self.key, self.sampling, self.prefill_tokens = key, sampling, prefill_tokens
        self.device = torch.device("cpu")
        self._came: dict[RowName, Answer] = {}

    def run(self, prefill: Prefill, rows: Rows, names: Sequence[RowName]) -> list[Completion]:
        """The trajectory of each row. Raises NonFiniteError if the log-probs of the policy are not finite."""
        self._came, self.device = {}, prefill.logits.device
        self.world.start(names)
        lengths = prefill.lengths[rows.prompt_of.to(prefill.lengths.device)].tolist()
        every = [_Row(*one) for one in zip(names, rows.visits.tolist(), lengths, strict=True)]
        waiting = self._wave(every, prefill, rows)
        while waiting:
            going_on = self._answered(waiting)
            waiting = [row for row in waiting if row.cache is not None and row not in going_on]
            if going_on:
                prefills = [self._prefill_answers(group) for group in self._groups(going_on)]
                ordered = [row for group, _ in prefills for row in group]
                waiting += self._wave(ordered, _joined([one for _, one in prefills]), _rows_of(ordered))
        return [Completion(tuple(row.ids), tuple(row.logps), row.end, tuple(row.sampled)) for row in every]

    def _wave(self, wave: Sequence[_Row], prefill: Prefill, rows: Rows) -> list[_Row]:
        """Samples one turn of each row; returns the rows that wait for an answer."""
        batch = DecodeBatch(
            self._step,
            self.stop_criteria,
            prefill,
            rows,
            key=self.key,
            sampling=self.sampling,
            goes_on=partial(self._submit, wave),
        )
        for number, (row, turn) in enumerate(zip(wave, batch.run(), strict=True)):
            given = len(rows.given[number]) if rows.given else 0
            row.add(turn.ids[given:], turn.logps[given:], sampled=True)
            row.end, row.cache = turn.finish_reason, batch.kept.get(number)
        return [row for row in wave if row.cache is not None]

    def _submit(self, wave: Sequence[_Row], number: int, ids: tuple[int, ...], reason: FinishReason) -> bool:
        row = wave[number]
        room = self.sampling.max_completion_length - len(row.ids) - len(ids)
        return self.world.submit(row.name, Turn(ids, reason, room))

    def _step(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        self._came.update(self.world.answers(0.0))  # so that calls in a queue start while other rows are decoded
        return self.step(ids, mask, positions, cache)

    def _answered(self, waiting: Collection[_Row]) -> list[_Row]:
        """The rows that go on, with their answers; waits for those that are missing (see `PATIENCE_S`)."""
        begun = time.monotonic()
        names = {row.name for row in waiting}
        while missing := names - self._came.keys():
            left = begun + PATIENCE_S - time.monotonic()
            if left <= 0 and len(missing) < len(names):
                break
            self._came.update(self.world.answers(max(left, PATIENCE_S / 10)))
        going_on = []
        for row in waiting:
            answer = self._came.pop(row.name, None)
            if answer is None:
                continue
            row.block = [row.ids[-1], *answer.ids]
            row.add(answer.ids, [0.0] * len(answer.ids), sampled=False)
            if answer.end is None:
                going_on.append(row)
            else:
                row.end, row.cache = answer.end, None
        return going_on

    def _groups(self, rows: Sequence[_Row]) -> list[list[_Row]]:
        """The rows in groups with answers of similar length, which are prefilled together."""
        groups: list[list[_Row]] = []
        for row in sorted(rows, key=lambda row: len(row.block)):
            shortest = len(groups[-1][0].block) if groups else 0
            fits = bool(groups) and shortest * (len(groups[-1]) + 1) <= self.prefill_tokens
            if fits and len(row.block) <= shortest + SPREAD:
                groups[-1].append(row)
            else:
                groups.append([row])
        return groups

    def _prefill_answers(self, group: list[_Row]) -> tuple[list[_Row], Prefill]:
        """The group, with as many tokens of every answer computed as the shortest has; the rest stays in `block`."""
        count = len(group[0].block)
        caches = [row.cache for row in group if row.cache is not None]
        lengths = torch.tensor([cache.get_seq_length() for cache in caches])
        cache = join(caches)
        for row in group:
            row.cache = None
        cached = left_padded_mask(lengths, int(lengths.max()))
        ids = torch.tensor([list(row.block[:count]) for row in group], device=self.device)
        mask = pad(cached, (0, count), value=True).to(self.device)
        positions = (lengths[:, None] + torch.arange(count)).to(self.device)
        logits = self._step(ids, mask, positions, cache)
        for row in group:
            row.block = row.block[count:]
        return group, Prefill(cache, logits, mask, (lengths + count).to(self.device))


def left_padded_mask(lengths: Tensor, width: int) -> Tensor:
    """(n, width) bool, true at the last columns of each row, as many as its length in `lengths` (n,).

    >>> left_padded_mask(torch.tensor([1, 2]), 2).tolist()
    [[False, True], [True, True]]
    """
    return torch.arange(width, device=lengths.device) >= width - lengths[:, None]


def _joined(prefills: Sequence[Prefill]) -> Prefill:
    lengths = torch.cat([one.lengths for one in prefills])
    mask = left_padded_mask(lengths, int(lengths.max()))
    return Prefill(join([one.cache for one in prefills]), torch.cat([one.logits for one in prefills]), mask, lengths)


def _rows_of(rows: Sequence[_Row]) -> Rows:
    """What is sampled for rows that go on: each is its own prompt, and begins with the rest of its answer."""
    return Rows(
        prompt_of=torch.arange(len(rows)),
        visits=torch.tensor([row.visit for row in rows]),
        samples=torch.tensor([row.name[1] for row in rows]),
        starts=torch.tensor([len(row.ids) - len(row.block) for row in rows]),
        given=[list(row.block) for row in rows],
    )
