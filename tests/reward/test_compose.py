"""Outcomes, gates, weighted sum, shaping, clip, in this order; numbers derived by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.maths.advantages import centre, is_mixed, standardise
from rung.metrics import values
from rung.reward import RewardPolicy, RewardSet, Sample, reward

pytestmark = pytest.mark.maths


@reward()
def first(a: float) -> float | None:
    return a


@reward()
def second(b: float) -> float | None:
    return b


@reward(role="shaping")
def bonus(c: float) -> float | None:
    return c


FIRST, BONUS = (f"{Path(__file__).resolve()}:{name}" for name in ("first", "bonus"))


def gate(**options: float) -> dict:
    return {"name": FIRST, "role": "gate", "label": "gate", **options}


def row_of(row: int, group: int, a: float | None, b: float | None) -> Sample:
    return Sample(
        prompt="",
        completion="",
        prompt_ids=(1,),
        completion_ids=[],
        finish_reason="eos",
        n_tokens=0,
        row_id=str(row),
        group=group,
        columns={"a": a, "b": b},
    )


def tensor(totals: list[float | None]) -> torch.Tensor:
    return torch.tensor([float("nan") if total is None else total for total in totals], dtype=torch.float64)


def test_golden_8_a_row_on_which_every_reward_abstains_leaves_the_group(table) -> None:
    """R = [1, None, 0, 1]: mean 2/3, std .57735 over three rows; A = .3333 / .57745, 0, -.6667 / .57745 ..."""
    scores = RewardSet([first]).score(table([0] * 4, a=[1.0, None, 0.0, 1.0]))
    assert scores.totals == [1.0, None, 0.0, 1.0]
    advantages = standardise(tensor(scores.totals), torch.zeros(4, dtype=torch.long), 1e-4)
    torch.testing.assert_close(advantages, tensor([0.577250, 0, -1.154501, 0.577250]), atol=1e-5, rtol=0)
    assert values(scores.metrics())["reward_std"] == pytest.approx(0.5773503)


def test_golden_8b_an_abstention_of_one_of_two_gives_no_advantage(table) -> None:
    """a = [None, 1], b = [1, 1]: a is taken at its group's mean 1, so both rows are worth 2."""
    scores = RewardSet([first, second]).score(table([0, 0], a=[None, 1.0], b=[1.0, 1.0]))
    assert scores.totals == [2.0, 2.0]
    assert values(scores.metrics())["frac_reward_zero_std"] == 1.0


def test_the_mean_of_an_abstaining_reward_is_over_its_own_group_and_its_credited_rows(table) -> None:
    """Group 0: row 2 erred in `second` and leaves, so `first` is 1 there. Group 1: 5. Group 2: nothing to take."""
    columns = {"a": [None, 1.0, 9.0, None, 5.0, None, None], "b": [1.0, 1.0, "x", 0.0, 0.0, 2.0, 3.0]}
    policy = RewardPolicy(max_error_rate=1.0)
    scores = RewardSet([first, second], policy).score(table([0, 0, 0, 1, 1, 2, 2], **columns))
    assert scores.totals == [2.0, 2.0, None, 5.0, 5.0, 2.0, 3.0]


def test_weights_sum_and_shaping_stays_out_of_the_task_total(table) -> None:
    entries = [{"name": FIRST, "weight": 2.0}, {"name": BONUS, "weight": 0.5}]
    scores = RewardSet(entries).score(table([0, 0], a=[1.0, 0.0], c=[-1.0, -0.5]))
    assert scores.totals == [1.5, -0.25]
    assert scores.task_totals == [2.0, 0.0]
    read = values(scores.metrics())
    assert (read["reward"], read["reward/unshaped"]) == (0.625, 1.0)


def test_the_clip_comes_last_and_is_of_the_total_alone(table) -> None:
    policy = RewardPolicy(clip=(-1, 1))
    scores = RewardSet([first, bonus], policy).score(table([0, 0, 0], a=[2.0, 2.0, -3.0], c=[-1.5, 0.0, 0.0]))
    assert scores.totals == [0.5, 1.0, -1.0]
    assert scores.task_totals == [2.0, 2.0, -3.0]


def test_a_failed_gate_gives_its_value_and_nothing_else(table) -> None:
    rows = table([0] * 4, a=[1.0, 0.0, None, 0.5], b=[3.0, 3.0, 3.0, 3.0], c=[-1.0] * 4)
    scores = RewardSet([gate(fail_value=-2.0), second, bonus]).score(rows)
    assert scores.totals == [2.0, -2.0, 2.0, 2.0]  # an abstaining gate is open
    assert scores.task_totals == [3.0, -2.0, 3.0, 3.0]


def test_a_gate_passes_at_its_threshold_and_without_one_above_zero(table) -> None:
    rows = table([0] * 3, a=[0.0, 0.5, 0.6], b=[1.0] * 3)
    assert RewardSet([gate(threshold=0.5), second]).score(rows).totals == [0.0, 1.0, 1.0]
    assert RewardSet([gate(threshold=0.0), second]).score(rows).totals == [1.0, 1.0, 1.0]
    assert RewardSet([gate(), second]).score(rows).totals == [0.0, 1.0, 1.0]


def test_a_failed_gate_counts_where_the_other_rewards_abstain_and_an_error_goes_before_it(table) -> None:
    policy = RewardPolicy(max_error_rate=1.0)
    rows = table([0] * 3, a=[0.0, 0.0, 1.0], b=[None, "x", None])
    assert RewardSet([gate(), second], policy).score(rows).totals == [0.0, None, None]


def test_shaping_alone_scores_every_row(table) -> None:
    scores = RewardSet([bonus]).score(table([0, 0], c=[-1.0, 0.0]))
    assert scores.totals == [-1.0, 0.0]
    assert scores.task_totals == [0.0, 0.0]


def test_the_zero_variance_share_reads_the_task_reward(table) -> None:
    rows = table([0, 0, 1, 1], a=[1.0, 1.0, 1.0, 0.0], c=[0.0, -1.0, 0.0, 0.0])
    assert values(RewardSet([first, bonus]).score(rows).metrics())["frac_reward_zero_std"] == 0.5


def test_equal_rewards_have_a_spread_of_exactly_zero(table) -> None:
    assert values(RewardSet([first]).score(table([0] * 3, a=[0.1] * 3)).metrics())["reward_std"] == 0.0


scored = st.one_of(st.none(), st.integers(-3, 3).map(float))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(scored, scored, st.integers(0, 2)), min_size=1, max_size=12), st.randoms())
def test_the_order_of_rows_changes_no_total(rows, random) -> None:
    samples = [row_of(i, g, a, b) for i, (a, b, g) in enumerate(rows)]
    order = random.sample(range(len(rows)), len(rows))
    rewards = RewardSet([first, second])
    totals, permuted = rewards.score(samples).totals, rewards.score([samples[i] for i in order]).totals
    assert permuted == pytest.approx([totals[i] for i in order])


@settings(max_examples=50, deadline=None)
@given(st.lists(scored, min_size=2, max_size=8))
def test_where_the_other_reward_agrees_an_abstention_never_has_an_advantage(values_of_first) -> None:
    samples = [row_of(i, 0, a, 1.0) for i, a in enumerate(values_of_first)]
    totals = RewardSet([first, second]).score(samples).totals
    advantages = centre(tensor(totals), torch.zeros(len(totals), dtype=torch.long))
    for value, advantage in zip(values_of_first, advantages.tolist(), strict=True):
        assert value is not None or abs(advantage) < 1e-12


def test_the_share_of_constant_groups_is_that_which_dynamic_sampling_drops(table) -> None:
    """.1 + .2 and .3 + 0 differ in the last bit of a float64 and are one float32: the filter and the metric agree."""
    assert 0.1 + 0.2 != 0.3 + 0.0
    scores = RewardSet([first, second]).score(table([0, 0, 1, 1], a=[0.1, 0.3, 0.1, 0.3], b=[0.2, 0.0, 0.2, 0.1]))
    mixed = is_mixed(tensor(scores.task_totals).float(), torch.tensor([0, 0, 1, 1]))
    assert mixed.tolist() == [False, True]
    assert values(scores.metrics())["frac_reward_zero_std"] == 0.5
