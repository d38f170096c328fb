"""What a step computes: every row once, within the budget, and far fewer positions than padding would take."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.batches import random_batch, with_random_weights
from helpers.policies import WeightedSum, tiny_policy
from rung.batch import Batch
from rung.forward.planner import Cost, Layout, Part, cut, plan

COSTS = {"tiny": Cost.of(20_000, 32, 2), "toy": Cost.of(2_800_000, 256, 4), "small": Cost.of(440_000_000, 1024, 28)}
LAYOUTS: tuple[Layout, ...] = ("plain", "shared", "masked")
MIXED = [(2, 16, 64), (2, 16, 256), (2, 32, 192), (2, 128, 128), (4, 64, 32), (2, 192, 64), (2, 256, 64), (1, 512, 32)]


@pytest.mark.parametrize(("prompts", "prompt_length", "limit"), MIXED)
def test_a_group_of_eight_computes_its_prompt_once_and_little_padding(
    prompts: int, prompt_length: int, limit: int
) -> None:
    """Positions <= P + 1.4 x sum(R) a group, counted where the model runs; the head sees trained tokens alone."""
    generator = torch.Generator().manual_seed(limit + prompt_length)
    lengths = (max(1, limit // 8), limit)
    for _ in range(3):
        batch = random_batch(
            generator, prompts=prompts, rows=(8, 8), prompt_length=(prompt_length, prompt_length), length=lengths
        )
        batch = with_random_weights(batch, generator)
        policy = tiny_policy("llama")
        for _ in policy.parts(batch, WeightedSum()):
            pass
        assert policy.work.positions <= prompts * prompt_length + 1.4 * int(batch.lengths.sum())
        assert policy.work.head_rows == int(batch.loss_mask.sum())


def padded_positions(batch: Batch, layout: Layout, part: Part) -> int:
    """What a part brings to one call, padding included."""
    rows = list(part.rows)
    lengths, prompt_of = batch.lengths[rows], batch.prompt_of[rows]
    prompts = batch.prompt_mask.sum(1)[prompt_of]
    if layout == "masked":
        packs = torch.tensor(part.packs)
        once = [
            int(batch.prompt_mask.sum(1)[prompt_of[packs == pack].unique()].sum()) for pack in range(max(packs) + 1)
        ]
        tokens = [int(lengths[packs == pack].sum()) + shared for pack, shared in enumerate(once)]
        return len(tokens) * max(tokens)
    return len(rows) * int((lengths + (prompts if layout == "plain" else 0)).max())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(sorted(COSTS)),
    st.sampled_from([1, 40, 300, 100_000]),
    st.sampled_from([None, 2]),
    st.sampled_from([("plain",), ("shared",), ("masked",), LAYOUTS]),
)
def test_every_row_is_planned_once_and_units_stay_whole(
    seed: int, size: str, budget: int, group: int | None, layouts: tuple[Layout, ...]
) -> None:
    batch = random_batch(torch.Generator().manual_seed(seed), prompts=5, rows=(1, 4), group=group)
    unit = "group" if group else "row"
    blocks = plan(batch, unit=unit, layouts=layouts, cost=COSTS[size], token_budget=budget)
    parts = [part for block in blocks for part in block.parts]
    assert sorted(row for part in parts for row in part.rows) == list(range(batch.num_rows))
    for part in parts:
        assert list(part.rows) == sorted(part.rows)
        if unit == "group":
            assert all(part.rows.count(row ^ 1) for row in part.rows)
    for block in blocks:
        for part in block.parts:
            if block.layout == "masked" or len(part.rows) > (group or 1):
                assert padded_positions(batch, block.layout, part) <= budget


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(1, 200))
def test_the_cut_is_the_cheapest_of_all_cuts(widths: list[int], budget: int) -> None:
    """Against every way to cut at most nine things, by brute force."""
    sorted_widths = np.array(sorted(widths))
    ones = np.ones(len(widths), dtype=int)

    def price(rows: np.ndarray, width: int) -> np.ndarray:
        return 30 + rows * width

    def total(marks: int) -> float:
        starts = [0, *(i for i in range(1, len(widths)) if marks >> (i - 1) & 1)]
        ends = [*starts[1:], len(widths)]
        runs = [(end - start, int(sorted_widths[end - 1])) for start, end in zip(starts, ends, strict=True)]
        if any(rows > 1 and rows * width > budget for rows, width in runs):
            return float("inf")
        return sum(30 + rows * width for rows, width in runs)

    _, seconds = cut(ones, sorted_widths, price, budget)
    assert seconds == pytest.approx(min(total(marks) for marks in range(2 ** (len(widths) - 1))))


def test_no_rows_make_no_parts() -> None:
    batch = random_batch(torch.Generator().manual_seed(0))
    empty = batch.select(torch.zeros(batch.num_rows, dtype=torch.bool))
    assert plan(empty, unit="row", layouts=LAYOUTS, cost=COSTS["toy"], token_budget=100) == ()
