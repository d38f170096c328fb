"""The offline source of batches: what the loop iterates over where nothing is sampled."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Protocol

from rung.batch import Batch
from rung.data.collate import collate
from rung.data.records import Encoded
from rung.errors import ConfigError

BatchSize = int | Mapping[str, int]


class Place(Protocol):
    """Which of how many processes this is."""

    @property
    def rank(self) -> int:
        """From 0."""
        ...

    @property
    def world(self) -> int:
        """At least 1."""
        ...


def order(seed: int, epoch: int, n: int) -> list[int]:
    """A permutation of range(n), a pure function of its arguments.

    Sorted by `random.random()`, whose numbers Python promises to keep for a seed; it does not promise so for `shuffle`.

    >>> sorted(order(0, 3, 4)), order(0, 3, 4) == order(0, 3, 4)
    ([0, 1, 2, 3], True)
    """
    draw = random.Random(int.from_bytes(hashlib.sha256(f"order {seed} {epoch}".encode()).digest()))
    keys = [draw.random() for _ in range(n)]
    return sorted(range(n), key=keys.__getitem__)


class Dataset:
    """Batches of one optimizer step each, for this rank, over endless epochs.

    With a number, a batch has `batch_size` examples over all ranks, and the short last one of an epoch is kept. With
    `{"tokens": n}` it is filled until it holds n tokens (prompts and completions), and what is left of an epoch joins
    its last batch. Rank r of w takes every w-th example of the batch, which is the same for any number of ranks.
    Raises `ConfigError` where a rank would be left without an example.
    """

    def __init__(self, encoded: Sequence[Encoded], *, batch_size: BatchSize, seed: int, pad_id: int, ranks: Place):
        assert encoded, "a data set has at least one example"
        self._encoded = encoded
        self._lengths = [one.num_tokens for one in encoded]
        self._batch_size = batch_size
        self._seed = seed
        self._pad_id = pad_id
        self._rank, self._world = ranks.rank, ranks.world
        self._epoch, self._index = 0, 0
        self._check()
        self._plan = lru_cache(maxsize=2)(self._make_plan)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of the first epoch; where batches are counted in tokens, later epochs may differ a little."""
        return len(self._plan(0))

    def __iter__(self) -> "Dataset":
        """The source itself: it goes on where it stands."""
        return self

    def __next__(self) -> Batch:
        """The batch of the next optimizer step, without reference or old log-probs."""
        if self._index == len(self._plan(self._epoch)):
            self._epoch, self._index = self._epoch + 1, 0
        share = self._plan(self._epoch)[self._index][self._rank :: self._world]
        self._index += 1
        return collate([self._encoded[i] for i in share], pad_id=self._pad_id)

    def state_dict(self) -> dict[str, int]:
        """Epoch and batches of it already given; JSON values."""
        return {"epoch": self._epoch, "index": self._index}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where the state was taken."""
        self._epoch, self._index = state["epoch"], state["index"]

    def _make_plan(self, epoch: int) -> list[list[int]]:
        """The examples of each batch of an epoch."""
        shuffled = order(self._seed, epoch, len(self._encoded))
        if isinstance(self._batch_size, int):
            return [shuffled[i : i + self._batch_size] for i in range(0, len(shuffled), self._batch_size)]
        plan: list[list[int]] = [[]]
        filled = 0
        for i in shuffled:
            if filled >= self._batch_size["tokens"]:
                plan.append([])
                filled = 0
            plan[-1].append(i)
            filled += self._lengths[i]
        if filled < self._batch_size["tokens"] and len(plan) > 1:
            rest = plan.pop()
            plan[-1] += rest
        return plan

    def _check(self) -> None:
        size, world, n, longest = self._batch_size, self._world, len(self._encoded), max(self._lengths)
        if isinstance(size, Mapping):
            if set(size) != {"tokens"} or size["tokens"] < 1:
                raise ConfigError(f"batch_size: {dict(size)}", "give a number of examples, or {tokens: n} with n >= 1")
            if world > 1 and size["tokens"] < world * longest:
                what = f"batch_size: {size['tokens']} tokens do not hold {world} of the longest examples ({longest})"
                raise ConfigError(
                    what, f"give at least {world * longest} tokens, so that none of {world} ranks is idle"
                )
        elif size < max(world, 1):
            raise ConfigError(f"batch_size: {size} examples for {world} ranks", f"give at least {max(world, 1)}")
        elif 0 < n % size < world:
            what = f"batch_size: the last batch of an epoch has {n % size} of {n} examples for {world} ranks"
            raise ConfigError(what, "choose a batch size that leaves a larger rest or none, or `limit` the data")
        if n < world:
            raise ConfigError(f"data: {n} examples for {world} ranks", "use fewer ranks")
