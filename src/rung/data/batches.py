"""Batches from a fixed data set, for algorithms that do not sample completions."""

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


class RankInfo(Protocol):
    """The rank of this process and the number of processes."""

    @property
    def rank(self) -> int:
        """Index of this process, from 0."""
        ...

    @property
    def world(self) -> int:
        """Number of processes, at least 1."""
        ...


def order(seed: int, epoch: int, n: int) -> list[int]:
    """A random permutation of range(n), the order of n items in an epoch; it depends only on the arguments.

    Items are sorted by numbers from `random.random()`, since Python guarantees that these stay the same in future
    versions for the same seed; it does not guarantee this for `random.shuffle`.

    >>> sorted(order(0, 3, 4)), order(0, 3, 4) == order(0, 3, 4)
    ([0, 1, 2, 3], True)
    """
    draw = random.Random(int.from_bytes(hashlib.sha256(f"order {seed} {epoch}".encode()).digest()))
    keys = [draw.random() for _ in range(n)]
    return sorted(range(n), key=keys.__getitem__)


class Dataset:
    """An endless iterator over this rank's share of the batches of a data set, one per optimizer step.

    An integer `batch_size` is the number of examples per step over all ranks; the last batch of an epoch may be
    smaller. With `{"tokens": n}`, a batch takes examples until it has at least n tokens (prompts and completions), and
    examples that are left at the end of an epoch are added to its last batch. The batches do not depend on the number
    of ranks: rank r of w takes examples r, r + w, r + 2w ... of each. Raises `ConfigError` if a rank would get no
    example.
    """

    def __init__(self, encoded: Sequence[Encoded], *, batch_size: BatchSize, seed: int, pad_id: int, ranks: RankInfo):
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
        """The number of steps in the first epoch; with a batch size in tokens, later epochs may differ slightly."""
        return len(self._plan(0))

    def __iter__(self) -> "Dataset":
        """Returns self, so that iteration continues from the current position."""
        return self

    def __next__(self) -> Batch:
        """This rank's share of the batch of the next optimizer step, without reference or old log-probs."""
        if self._index == len(self._plan(self._epoch)):
            self._epoch, self._index = self._epoch + 1, 0
        share = self._plan(self._epoch)[self._index][self._rank :: self._world]
        self._index += 1
        return collate([self._encoded[i] for i in share], pad_id=self._pad_id)

    def state_dict(self) -> dict[str, int]:
        """The position as JSON values: the epoch, and the number of its batches that were returned."""
        return {"epoch": self._epoch, "index": self._index}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restores the position that `state_dict` returned."""
        self._epoch, self._index = state["epoch"], state["index"]

    def _make_plan(self, epoch: int) -> list[list[int]]:
        """The example indices of each batch of an epoch."""
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
            leftover = plan.pop()
            plan[-1] += leftover
        return plan

    def _check(self) -> None:
        size, world, n, longest = self._batch_size, self._world, len(self._encoded), max(self._lengths)
        if isinstance(size, Mapping):
            if set(size) != {"tokens"} or size["tokens"] < 1:
                raise ConfigError(
                    f"batch_size: {dict(size)} is not valid", "give a number of examples, or {tokens: n} with n >= 1"
                )
            if world > 1 and size["tokens"] < world * longest:
                given, needed = size["tokens"], f"the longest example has {longest}"
                what = f"batch_size: {given} tokens are too few for {world} ranks ({needed})"
                raise ConfigError(
                    what, f"give at least {world * longest} tokens, so that each of {world} ranks gets an example"
                )
        elif size < max(world, 1):
            raise ConfigError(
                f"batch_size: {size} examples are too few for {world} ranks", f"give at least {max(world, 1)}"
            )
        elif 0 < n % size < world:
            what = f"batch_size: the last batch of an epoch has {n % size} of {n} examples, too few for {world} ranks"
            raise ConfigError(what, "choose a batch size that leaves no remainder or a larger one, or `limit` the data")
        if n < world:
            raise ConfigError(f"data: {n} examples are too few for {world} ranks", "use fewer ranks")
