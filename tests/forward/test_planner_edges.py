"""Plans by hand: what a call costs, where a sorted list is cut, what shares a pack."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.edges import batch_of
from rung.forward.planner import Block, Cost, Part, best_fit, cut, plan

CHEAP_CALLS = Cost(call=1e-6, position=1.0, pair=0.0, masked_pair=0.0)
DEAR_CALLS = Cost(call=1e6, position=1.0, pair=0.0, masked_pair=0.0)


def test_the_cost_of_a_model() -> None:
    """4 layers, 2 million: .008 + .004 a call, 6 x 2e6 / 75e9 a position, 12 x 256 x 4 / 75e9 a pair, 1.2 and 1.7."""
    cost = Cost.of(2_000_000, 256, 4)
    assert cost.call == pytest.approx(0.012)
    assert cost.position == pytest.approx(1.6e-4)
    assert cost.pair == pytest.approx(1.2 * 1.6384e-7)
    assert cost.masked_pair == pytest.approx(1.7 * 1.6384e-7)


def test_small_models_cost_what_the_smallest_real_one_does() -> None:
    """A million parameters, a width of 128."""
    assert Cost.of(10, 8, 2) == Cost.of(1_000_000, 128, 2)
    assert Cost.of(1_000_001, 128, 2) != Cost.of(1_000_000, 128, 2)
    assert Cost.of(1_000_000, 129, 2) != Cost.of(1_000_000, 128, 2)


def test_the_cost_of_rows() -> None:
    """1 + 3 x 10 x (2 + .1 x 10) = 91; under a mask, and with 5 behind, 1 + 3 x 10 x (2 + .2 x 15) = 151."""
    cost = Cost(call=1.0, position=2.0, pair=0.1, masked_pair=0.2)
    assert cost.rows(np.array([3]), 10) == pytest.approx(91)
    assert cost.masked(np.array([3]), 10) == pytest.approx(1 + 30 * 4)
    assert cost.masked(np.array([3]), 10, 5) == pytest.approx(151)


@pytest.mark.parametrize(
    ("budget", "runs", "cost"),
    [(100, [(0, 2), (2, 3)], 24), (4, [(0, 2), (2, 3)], 24), (3, [(0, 1), (1, 2), (2, 3)], 28)],
)
def test_a_list_is_cut_where_it_is_cheapest(budget: int, runs: list[tuple[int, int]], cost: float) -> None:
    """Widths 1, 2 and 10 at 5 a run and 1 a position: 35 together, 9 + 15 as two, 6 + 7 + 15 as three."""
    found, seconds = cut(np.array([1, 1, 1]), np.array([1, 2, 10]), lambda rows, width: 5 + rows * width, budget)
    assert [(run.start, run.stop) for run in found] == runs
    assert seconds == cost


def test_a_thing_counts_the_rows_that_it_brings() -> None:
    """Groups of 3 and 1 rows, 2 wide: 8 positions together, over a budget of 7."""
    for budget, count in ((8, 1), (7, 2)):
        found, _ = cut(np.array([3, 1]), np.array([2, 2]), lambda rows, width: 5 + rows * width, budget)
        assert len(found) == count
    assert cut(np.array([], dtype=int), np.array([], dtype=int), lambda rows, width: rows * width, 5) == ([], 0.0)


@pytest.mark.parametrize(
    ("sizes", "packs"),
    [
        ([], []),
        ([8], [[0]]),
        ([4, 4], [[0, 1]]),
        ([4, 5], [[1], [0]]),
        ([3, 5, 6, 2], [[2, 3], [1, 0]]),
        ([5, 6, 2], [[1, 2], [0]]),
        ([4, 4, 4], [[0, 1], [2]]),
    ],
)
def test_each_thing_goes_to_the_fullest_pack_that_has_room(sizes: list[int], packs: list[list[int]]) -> None:
    assert best_fit(sizes, 8) == packs


ROWS = batch_of([([1, 2], [3]), ([1], [3, 4, 5, 6]), ([1, 2, 3], [4, 5])])  # 3, 5 and 5 tokens


def test_dear_calls_join_what_the_budget_allows_and_cheap_ones_split_it() -> None:
    whole = (Block("plain", (Part((0, 1, 2)),)),)
    assert plan(ROWS, unit="row", layouts=("plain",), cost=DEAR_CALLS, token_budget=15) == whole
    assert plan(ROWS, unit="row", layouts=("plain",), cost=DEAR_CALLS, token_budget=14) == (
        Block("plain", (Part((0,)),)),
        Block("plain", (Part((1, 2)),)),
    )
    assert plan(ROWS, unit="row", layouts=("plain",), cost=CHEAP_CALLS, token_budget=15) == (
        Block("plain", (Part((0,)),)),
        Block("plain", (Part((1, 2)),)),
    )


def test_what_cannot_be_cut_may_exceed_the_budget_alone() -> None:
    assert plan(ROWS, unit="row", layouts=("plain",), cost=DEAR_CALLS, token_budget=1) == tuple(
        Block("plain", (Part((row,)),)) for row in range(3)
    )


def test_prompts_share_a_block_and_completions_are_cut_in_it() -> None:
    """Prompts of 1, 2 and 3 tokens: 9 positions; completions of 1, 2 and 4 tokens."""
    (block,) = plan(ROWS, unit="row", layouts=("shared",), cost=DEAR_CALLS, token_budget=12)
    assert block == Block("shared", (Part((0, 1, 2)),))
    (block,) = plan(ROWS, unit="row", layouts=("shared",), cost=DEAR_CALLS, token_budget=11)
    assert block.layout == "shared"
    assert sorted(row for part in block.parts for row in part.rows) == [0, 1, 2]
    assert len(block.parts) == 2
    blocks = plan(ROWS, unit="row", layouts=("shared",), cost=DEAR_CALLS, token_budget=8)
    assert [sorted(row for part in each.parts for row in part.rows) for each in blocks] in (
        [[0, 1], [2]],
        [[1], [0, 2]],
    )


def test_rows_are_packed_up_to_the_shortest_length_that_holds_them() -> None:
    """13 tokens in one pack of 64; under a budget of 8 packs of 8 hold 3 + 5, and 5."""
    (block,) = plan(ROWS, unit="row", layouts=("masked",), cost=DEAR_CALLS, token_budget=100)
    assert block == Block("masked", (Part((0, 1, 2), (0, 0, 0)),))
    blocks = plan(ROWS, unit="row", layouts=("masked",), cost=DEAR_CALLS, token_budget=8)
    assert sorted(part.rows for each in blocks for part in each.parts) == [(0, 1), (2,)]


def test_completions_that_do_not_fit_with_their_prompt_are_cut_beside_copies_of_it() -> None:
    """A prompt of 4 and completions of 3 each: 10 tokens hold it with two of them, and 7 the third."""
    row = ([1, 2, 3, 4], [5, 6, 7])
    three = batch_of([row] * 3)
    shared = replace(
        three, prompt_ids=three.prompt_ids[:1], prompt_mask=three.prompt_mask[:1], prompt_of=three.prompt_of * 0
    )
    blocks = plan(shared, unit="row", layouts=("masked",), cost=DEAR_CALLS, token_budget=10)
    assert sorted(len(part.rows) for block in blocks for part in block.parts) == [1, 2]
    assert all(block.layout == "masked" for block in blocks)


def test_the_cheapest_layout_is_taken_and_none_is_needed_for_nothing() -> None:
    settings = {"unit": "row", "cost": DEAR_CALLS, "token_budget": 100}
    (block,) = plan(ROWS, layouts=("shared", "plain"), **settings)
    assert block.layout == "plain"
    import torch

    assert plan(ROWS.select(torch.zeros(3, dtype=torch.bool)), layouts=("plain",), **settings) == ()
