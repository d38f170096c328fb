"""Splits a batch into parts (rows of one forward pass) and chooses their layout: the cheapest plan in a token budget.

Cost is `call * calls + position * positions + pair * query-key pairs`. The constants come from the model's size and a
nominal speed, not from timing: a plan is a pure function of the batch and the model, so a resumed run makes the same
plans.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from rung.batch import Batch

Layout = Literal["plain", "shared", "masked"]
PACK_LENGTHS = (64, 96, 128, 192, 256, 384, 512, 768, 1024)  # tokens; beyond, attention costs more than packing saves
NOMINAL_FLOPS = 75e9  # one core's matrix multiplications in fp32
CALL_SECONDS_PER_LAYER = 2e-3  # overhead of forward and backward, without arithmetic
CALL_SECONDS_PER_PARAMETER = 2e-9  # every call reads the weights and accumulates their gradients
PAIR = 1.2  # time per query-key pair in the causal kernel relative to its arithmetic, counting skipped pairs too
MASKED_PAIR = 1.7  # the same with an explicit mask, where the kernel skips no pairs
SMALLEST_TRUNK = 1_000_000  # parameters outside embeddings; smaller models are planned as if they had this many


@dataclass(frozen=True, slots=True)
class Cost:
    """Estimated seconds per model call, position and query-key pair, forward plus backward; masked pairs cost more."""

    call: float
    position: float
    pair: float
    masked_pair: float

    @staticmethod
    def of(trunk: int, hidden: int, layers: int) -> Cost:
        """The constants of a decoder with `trunk` parameters outside its embeddings."""
        trunk = max(trunk, SMALLEST_TRUNK)
        call = CALL_SECONDS_PER_LAYER * layers + CALL_SECONDS_PER_PARAMETER * trunk
        pair = 12 * max(hidden, 128) * layers / NOMINAL_FLOPS
        return Cost(call, 6 * trunk / NOMINAL_FLOPS, PAIR * pair, MASKED_PAIR * pair)

    def rows(self, count: np.ndarray, width: int) -> np.ndarray:
        """Seconds of one call on `count` rows of `width` tokens."""
        return self.call + count * (width * (self.position + self.pair * width))

    def masked(self, count: np.ndarray, width: int, behind: int = 0) -> np.ndarray:
        """Seconds of one masked call on `count` rows of `width` tokens that also attend to `behind` prompt tokens."""
        return self.call + count * (width * (self.position + self.masked_pair * (width + behind)))


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that run through the model together; `packs` is the packed row of each row in the masked layout."""

    rows: tuple[int, ...]  # ascending
    packs: tuple[int, ...] = ()  # one for each of `rows`, from 0


@dataclass(frozen=True, slots=True)
class Block:
    """Parts that share one prefill of their prompts in the layout `shared`; in other layouts, a single part."""

    layout: Layout
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    blocks: tuple[Block, ...]
    seconds: float


def plan(
    batch: Batch, *, unit: Literal["row", "group"], layouts: Sequence[Layout], cost: Cost, token_budget: int
) -> tuple[Block, ...]:
    """The cheapest plan for a batch: blocks of parts that cover each row once.

    The rows of a `unit` (a row or a whole group) are never split across parts. `token_budget` bounds the padded
    positions of a part, unless a single unit (with its prompt, if the layout includes it) exceeds this budget.
    """
    if batch.num_rows == 0:
        return ()
    shape = _Shape(batch, unit)
    planners: dict[Layout, Callable[[_Shape, Cost, int], _Plan]] = {
        "plain": _plain,
        "shared": _shared,
        "masked": _masked,
    }
    return min(
        (planners[layout](shape, cost, token_budget) for layout in layouts), key=lambda made: made.seconds
    ).blocks


class _Shape:
    """The lengths and units of a batch as arrays; a unit is a row, or a group whose rows stay together."""

    def __init__(self, batch: Batch, unit: str):
        self.prompt_lengths = _array(batch.prompt_mask.sum(1))
        self.prompt_of = _array(batch.prompt_of)
        self.lengths = _array(batch.lengths)
        member = _array(batch.group_of) if unit == "group" else np.arange(batch.num_rows)
        starts = np.flatnonzero(np.r_[True, member[1:] != member[:-1]])
        ends = np.r_[starts[1:], len(member)]
        self.units = [tuple(range(start, end)) for start, end in zip(starts, ends, strict=True)]
        self.sizes = ends - starts
        self.widths = np.maximum.reduceat(self.lengths, starts)
        self.tokens = np.add.reduceat(self.lengths, starts)
        self.prompts = self.prompt_of[starts]


def cut(
    counts: np.ndarray, widths: np.ndarray, seconds: Callable[[np.ndarray, int], np.ndarray], budget: int
) -> tuple[list[slice], float]:
    """Splits items sorted by width, ascending, into runs of the lowest total cost, none over `budget` positions.

    `counts` (n,) is the number of rows of each item, `widths` (n,) its width; a run is as wide as its widest item.
    `seconds(rows, width)` is the cost of a run. An item over the budget is a run of its own. Returns the runs as
    slices, and their total cost.
    """
    total = np.r_[0, counts.cumsum()]
    best = np.zeros(len(counts) + 1)
    came_from = np.zeros(len(counts) + 1, dtype=int)
    for end in range(1, len(counts) + 1):
        width = int(widths[end - 1])
        rows = total[end] - total[:end]
        allowed = rows * width <= budget
        allowed[end - 1] = True
        price = np.where(allowed, best[:end] + seconds(rows, width), np.inf)
        came_from[end] = int(price.argmin())
        best[end] = price[came_from[end]]
    runs: list[slice] = []
    end = len(counts)
    while end:
        runs.append(slice(came_from[end], end))
        end = came_from[end]
    return runs[::-1], float(best[-1])


def _plain(shape: _Shape, cost: Cost, budget: int, units: np.ndarray | None = None) -> _Plan:
    units = np.arange(len(shape.units)) if units is None else units
    widths = shape.widths + shape.prompt_lengths[shape.prompts]
    order = units[np.argsort(widths[units], kind="stable")]
    runs, seconds = cut(shape.sizes[order], widths[order], cost.rows, budget)
    return _Plan(tuple(Block("plain", (_part(shape, order[run]),)) for run in runs), seconds)


def _shared(shape: _Shape, cost: Cost, budget: int) -> _Plan:
    used = np.unique(shape.prompts)
    order = used[np.argsort(shape.prompt_lengths[used], kind="stable")]
    widths = shape.prompt_lengths[order]
    # A block needs at least one call for its completions in addition to the prefill.
    runs, seconds = cut(np.ones_like(order), widths, lambda n, width: cost.call + cost.rows(n, width), budget)
    blocks = []
    for run in runs:
        inside = np.flatnonzero(np.isin(shape.prompts, order[run]))
        inside = inside[np.argsort(shape.widths[inside], kind="stable")]
        behind = int(widths[run].max())
        pieces, price = cut(
            shape.sizes[inside],
            shape.widths[inside],
            lambda n, width, behind=behind: cost.masked(n, width, behind),
            budget,
        )
        seconds += price - cost.call
        blocks.append(Block("shared", tuple(_part(shape, inside[piece]) for piece in pieces)))
    return _Plan(tuple(blocks), seconds)


def _masked(shape: _Shape, cost: Cost, budget: int) -> _Plan:
    """The masked layout with the cheapest pack length; units longer than a pack use the plain layout."""
    lengths = sorted({min(length, budget) for length in PACK_LENGTHS})
    return min((_packed(shape, cost, budget, length) for length in lengths), key=lambda made: made.seconds)


def _packed(shape: _Shape, cost: Cost, budget: int, longest: int) -> _Plan:
    fits = shape.prompt_lengths[shape.prompts] + shape.tokens <= longest
    alone = _plain(shape, cost, budget, np.flatnonzero(~fits))
    packs, tokens = _packs(shape, np.flatnonzero(fits), longest)
    order = np.argsort(tokens, kind="stable")
    runs, seconds = cut(np.ones_like(tokens), tokens[order], cost.masked, budget)
    blocks = []
    for run in runs:
        pack_of = {row: n for n, i in enumerate(order[run]) for unit in packs[i] for row in shape.units[unit]}
        rows = tuple(sorted(pack_of))
        blocks.append(Block("masked", (Part(rows, tuple(pack_of[row] for row in rows)),)))
    return _Plan((*alone.blocks, *blocks), alone.seconds + seconds)


def _packs(shape: _Shape, units: np.ndarray, longest: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Packs of at most `longest` tokens, and their sizes; units of a prompt are separated only if they do not fit."""
    prompts = shape.prompts[units]
    documents: list[np.ndarray] = []
    sizes: list[int] = []
    for same in np.split(units, np.flatnonzero(prompts[1:] != prompts[:-1]) + 1) if len(units) else []:
        before, tokens = int(shape.prompt_lengths[shape.prompts[same[0]]]), shape.tokens[same]
        whole = before + int(tokens.sum()) <= longest
        pieces = [range(len(same))] if whole else best_fit(tokens.tolist(), longest - before)
        documents += [same[piece] for piece in pieces]
        sizes += [before + int(tokens[piece].sum()) for piece in pieces]
    packs = best_fit(sizes, longest)
    joined = [np.concatenate([documents[i] for i in pack]) for pack in packs]
    return joined, np.array([sum(sizes[i] for i in pack) for pack in packs], dtype=int)


def best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: the items of each pack of `capacity`; each item goes to the fullest pack with room for it.

    >>> best_fit([2, 5, 3, 6], 8)
    [[3, 0], [1, 2]]
    """
    packs: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # ascending: room left in a pack, and its index
    for size, item in sorted((-size, item) for item, size in enumerate(sizes)):
        place = bisect_left(rooms, (-size, -1))
        room, pack = rooms.pop(place) if place < len(rooms) else (capacity, len(packs))
        if pack == len(packs):
            packs.append([])
        packs[pack].append(item)
        insort(rooms, (room + size, pack))
    return packs


def _part(shape: _Shape, units: np.ndarray) -> Part:
    return Part(tuple(sorted(row for unit in units for row in shape.units[unit])))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
