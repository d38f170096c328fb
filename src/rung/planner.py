"""How a step is cut into parts, and in which layout: the cheapest plan under a token budget.

Cost is `call * calls + position * positions + pair * query-key pairs`, with the constants of the model's size at a
nominal speed. They are not timed: a plan is a pure function of the batch and the model, so a resumed run cuts alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from rung.batch import Batch

Layout = Literal["plain", "shared", "masked"]
LONGEST_PACK = 1024  # tokens; beyond it the square of a masked row outweighs what it saves
NOMINAL_FLOPS = 75e9  # one core's matrix multiplications in fp32
CALL_SECONDS_PER_LAYER = 3e-3  # forward and backward, without arithmetic
SMALLEST_TRUNK = 1_000_000  # below it arithmetic no longer dominates; plans stay those of a real model


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds a call, a position and a query-key pair cost, forward and backward."""

    call: float
    position: float
    pair: float

    @staticmethod
    def of(trunk: int, hidden: int, layers: int) -> Cost:
        """The constants of a decoder with `trunk` parameters outside its embeddings."""
        position = 6 * max(trunk, SMALLEST_TRUNK) / NOMINAL_FLOPS
        return Cost(CALL_SECONDS_PER_LAYER * layers, position, 12 * max(hidden, 128) * layers / NOMINAL_FLOPS)

    def rows(self, count: np.ndarray | int, width: np.ndarray | int, behind: np.ndarray | int = 0) -> np.ndarray:
        """Seconds of one call on `count` rows of `width` tokens that also attend to `behind` cached ones."""
        attended = np.asarray(width) * (np.asarray(width) + behind)
        return self.call + np.asarray(count) * (self.position * np.asarray(width) + self.pair * attended)


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that go through the model together; `packs` names each row's packed row in the masked layout."""

    rows: tuple[int, ...]  # ascending
    packs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """Parts that share one pass over their prompts; parts of the other layouts stand alone."""

    layout: Layout
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    blocks: tuple[Block, ...]
    seconds: float


def plan(
    batch: Batch, *, unit: Literal["row", "group"], layouts: Sequence[Layout], cost: Cost, token_budget: int
) -> tuple[Block, ...]:
    """The cheapest way to run the batch: blocks of parts that cover each row once.

    `unit` is what a part never cuts. `token_budget` bounds the padded positions of a part; what cannot be cut further
    (a unit, with its prompt where the layout wants it) may exceed it alone.
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
    """Lengths and memberships of a batch as plain arrays; a unit is a row or a group, as (rows, width, prompt)."""

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
        self.prompts = self.prompt_of[starts]


def cut(
    counts: np.ndarray, widths: np.ndarray, seconds: Callable[[np.ndarray, np.ndarray], np.ndarray], budget: int
) -> tuple[list[slice], float]:
    """Cuts things sorted by width, ascending, into runs of the least total cost, none over `budget` positions.

    `counts` (n,) rows a thing brings, `widths` (n,) its width; a run is as wide as its widest. `seconds(rows, width)`
    prices a run. A thing over the budget is a run of its own. Returns the runs as slices and what they cost together.
    """
    total = np.r_[0, counts.cumsum()]
    best = np.zeros(len(counts) + 1)
    came_from = np.zeros(len(counts) + 1, dtype=int)
    for end in range(1, len(counts) + 1):
        width = widths[end - 1]
        rows = total[end] - total[:end]
        allowed = rows * width <= budget
        allowed[end - 1] = True
        price = np.where(allowed, best[:end] + seconds(rows, np.broadcast_to(width, rows.shape)), np.inf)
        came_from[end] = int(price.argmin())
        best[end] = price[came_from[end]]
    runs: list[slice] = []
    end = len(counts)
    while end:
        runs.append(slice(came_from[end], end))
        end = came_from[end]
    return runs[::-1], float(best[-1])


def _plain(shape: _Shape, cost: Cost, budget: int) -> _Plan:
    widths = shape.widths + shape.prompt_lengths[shape.prompts]
    order = np.argsort(widths, kind="stable")
    runs, seconds = cut(shape.sizes[order], widths[order], cost.rows, budget)
    return _Plan(tuple(Block("plain", (_part(shape, order[run]),)) for run in runs), seconds)


def _shared(shape: _Shape, cost: Cost, budget: int) -> _Plan:
    used = np.unique(shape.prompts)
    order = used[np.argsort(shape.prompt_lengths[used], kind="stable")]
    widths = shape.prompt_lengths[order]
    # A block of prompts brings at least one call for its completions beside its own.
    runs, seconds = cut(np.ones_like(order), widths, lambda n, width: cost.call + cost.rows(n, width), budget)
    blocks = []
    for run in runs:
        inside = np.flatnonzero(np.isin(shape.prompts, order[run]))
        inside = inside[np.argsort(shape.widths[inside], kind="stable")]
        behind = int(widths[run].max())
        pieces, price = cut(
            shape.sizes[inside],
            shape.widths[inside],
            lambda n, width, behind=behind: cost.rows(n, width, behind),
            budget,
        )
        seconds += price - cost.call
        blocks.append(Block("shared", tuple(_part(shape, inside[piece]) for piece in pieces)))
    return _Plan(tuple(blocks), seconds)


def _masked(shape: _Shape, cost: Cost, budget: int) -> _Plan:
    packs = _packs(shape, min(budget, LONGEST_PACK))
    tokens = np.array([shape.prompt_lengths[shape.prompts[pack[0]]] + _tokens(shape, pack) for pack in packs])
    order = np.argsort(tokens, kind="stable")
    runs, seconds = cut(np.ones_like(tokens), tokens[order], cost.rows, budget)
    blocks = []
    for run in runs:
        chosen = sorted((packs[i] for i in order[run]), key=lambda pack: pack[0])
        rows = [[row for unit in pack for row in shape.units[unit]] for pack in chosen]
        numbers = tuple(number for number, pack in enumerate(rows) for _ in pack)
        blocks.append(Block("masked", (Part(tuple(row for pack in rows for row in pack), numbers),)))
    return _Plan(tuple(blocks), seconds)


def _packs(shape: _Shape, longest: int) -> list[list[int]]:
    """Units of one prompt, in order, joined while they fit `longest` tokens with their prompt."""
    packs: list[list[int]] = []
    filled = 0
    for unit, prompt in enumerate(shape.prompts):
        size = _tokens(shape, [unit])
        if packs and shape.prompts[packs[-1][0]] == prompt and filled + size <= longest:
            packs[-1].append(unit)
            filled += size
        else:
            packs.append([unit])
            filled = shape.prompt_lengths[prompt] + size
    return packs


def _tokens(shape: _Shape, units: Sequence[int]) -> int:
    return sum(int(shape.lengths[row]) for unit in units for row in shape.units[unit])


def _part(shape: _Shape, units: np.ndarray) -> Part:
    return Part(tuple(sorted(row for unit in units for row in shape.units[unit])))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
