"""Scored, abstained, timeout, error: only a score is credited, and a failure is never a zero."""

from __future__ import annotations

import pytest

from rung.errors import RewardError
from rung.metrics import values
from rung.reward import RewardPolicy, RewardSet, reward

LENIENT = RewardPolicy(max_error_rate=1.0)


@reward(range=(0, 1))
def given(value: float) -> float:
    return value


@reward(role="metric")
def broken(completion: str) -> float:
    raise OSError("no grader")


@pytest.mark.parametrize("returned", [True, "1.0", float("nan"), float("inf"), 1.5, -0.1, [1.0]])
def test_what_is_no_number_in_range_is_an_error_and_leaves_the_row_unscored(table, returned) -> None:
    scores = RewardSet([given], LENIENT).score(table([0, 0, 0], value=[1.0, returned, 0.0]))
    assert scores.by_reward["given"][1].kind == "error"
    assert scores.totals == scores.task_totals == [1.0, None, 0.0]


def test_an_exception_names_its_class_and_place_and_only_its_row_is_lost(sample) -> None:
    def inverse(completion: str) -> float:
        return 1 / len(completion)

    scores = RewardSet([inverse], LENIENT).score([sample("a"), sample("")])
    assert scores.totals == [1.0, None]
    outcome = scores.by_reward["inverse"][1]
    assert "ZeroDivisionError" in outcome.note
    assert "test_outcomes.py" in outcome.note
    assert "inverse" in outcome.detail


def test_an_exit_or_a_bare_base_exception_is_an_error_like_any_other(sample) -> None:
    class Stop(BaseException):
        pass

    def stops(completion: str) -> float:
        raise Stop

    def leaves(completion: str) -> float:
        raise SystemExit(0)

    scores = RewardSet([stops, leaves], LENIENT).score([sample()])
    assert [outcomes[0].kind for outcomes in scores.by_reward.values()] == ["error", "error"]


@pytest.mark.parametrize("returned", [[1.0], [1.0, 0.0, 1.0], 1.0, "ab", None])
def test_a_batched_reward_of_the_wrong_length_fails_on_every_row(sample, returned) -> None:
    def scores(completions, **columns):
        return returned

    outcomes = RewardSet([scores], LENIENT).score([sample(), sample(row=1)]).by_reward["scores"]
    assert [outcome.kind for outcome in outcomes] == ["error", "error"]


def test_a_failing_metric_never_drops_a_row_nor_stops_a_run(table) -> None:
    scores = RewardSet([given, broken]).score(table([0, 0], value=[1.0, 0.0]))
    assert scores.totals == [1.0, 0.0]
    assert values(scores.metrics())["rewards/broken/errors"] == 1.0


def test_a_reward_of_weight_zero_is_a_metric(table) -> None:
    rewards = RewardSet([given, {"name": "exact_match", "weight": 0.0}])
    assert rewards.score(table([0, 0], value=[1.0, 0.0], answer=["yes", 3])).totals == [1.0, 0.0]


def test_more_than_half_of_the_first_batch_failing_stops_at_once_and_names_rows_and_cause(table) -> None:
    with pytest.raises(RewardError) as caught:
        RewardSet([given]).score(table([0, 0, 0], value=[1.0, 7.0, 8.0]))
    assert "reward `given` failed on 2 of its last 3 calls (rows rows.jsonl:1, rows.jsonl:2)" in caught.value.what
    assert "outside its range [0, 1]" in caught.value.what


def test_the_share_of_failures_stops_a_run_only_from_fifty_calls_on(table) -> None:
    rewards = RewardSet([given])
    rewards.score(table([0] * 49, value=[0.5] * 47 + [2.0] * 2))  # 2 of 49: above 0.02, too few calls
    with pytest.raises(RewardError, match="2 of its last 50"):
        rewards.score(table([0], value=[0.5]))


def test_a_share_within_the_limit_goes_on(table) -> None:
    RewardSet([given]).score(table([0] * 100, value=[0.5] * 98 + [2.0] * 2))


def test_a_resumed_run_still_knows_the_failures_before_it(table) -> None:
    before = RewardSet([given])
    before.score(table([0] * 49, value=[0.5] * 47 + [2.0] * 2))
    after = RewardSet([given])
    after.load_state_dict(before.state_dict())
    with pytest.raises(RewardError, match="2 of its last 50"):
        after.score(table([0], value=[0.5]))


def test_on_error_raise_stops_at_the_first_failure(table) -> None:
    with pytest.raises(RewardError, match=r"rows\.jsonl:2"):
        RewardSet([given], RewardPolicy(on_error="raise")).score(table([0] * 9, value=[0.5, 0.5, 9.0, *[0.5] * 6]))


def test_on_error_abstain_leaves_the_failed_reward_out_of_the_row(table) -> None:
    def second(other: float) -> float:
        return other

    policy = RewardPolicy(on_error="abstain", max_error_rate=1.0)
    scores = RewardSet([given, second], policy).score(table([0, 0], value=[0.5, 9.0], other=[1.0, 2.0]))
    assert scores.totals == [1.5, 2.5]  # the failed one is taken at the group's mean, 0.5
    assert scores.by_reward["given"][1].kind == "error"


def test_an_endless_completion_is_an_error_and_is_never_read(sample) -> None:
    calls = []

    def spy(completion: str) -> float:
        calls.append(completion)
        return 1.0

    scores = RewardSet([spy], LENIENT).score([sample("x" * 1_000_001), sample("y")])
    assert scores.totals == [None, 1.0]
    assert calls == ["y"]


def test_rates_and_means_carry_their_own_counts(table) -> None:
    metrics = RewardSet([given], LENIENT).score(table([0, 0, 1, 1], value=[1.0, None, 0.25, 2.0])).metrics()
    read = values(metrics)
    assert read["reward"] == read["rewards/given/mean"] == 0.625
    assert read["rewards/given/abstained"] == 0.25
    assert read["rewards/given/errors"] == 0.25
    assert read["rewards/given/timeouts"] == 0.0
    assert "reward_std" not in read  # no group has two scored rows
