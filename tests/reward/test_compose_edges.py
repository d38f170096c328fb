"""Rewards at their limits: failures that are just too many, gates at their threshold, sums by hand."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rung.errors import RewardError
from rung.metrics import values
from rung.reward import RewardPolicy, RewardSet, Sample, reward
from rung.reward.decorator import Verdict
from rung.reward.outcome import judged, judged_many
from rung.reward.spec import RewardSpec


def samples(*completions: str, groups: Sequence[int] | None = None) -> list[Sample]:
    return [
        Sample(
            prompt="p",
            completion=text,
            prompt_ids=(1,),
            completion_ids=[1],
            finish_reason="eos",
            n_tokens=1,
            row_id=f"rows:{i}",
            group=groups[i] if groups else 0,
        )
        for i, text in enumerate(completions)
    ]


@reward()
def told(completion: str) -> float | None:
    """The number that the completion is; nothing abstains, another word is an error."""
    return None if completion == "-" else float(completion)


@reward(role="gate")
def positive(completion: str) -> float | None:
    return None if completion == "-" else float(completion)


@reward(role="shaping")
def doubled(completion: str) -> float:
    return 2 * float(completion)


def totals(rewards: Sequence[Any], *completions: str, groups: Sequence[int] | None = None, **policy: Any):
    with RewardSet(rewards, RewardPolicy(**policy)) as made:
        scores = made.score(samples(*completions, groups=groups))
    return scores.totals, scores.task_totals


def test_an_abstention_counts_as_the_mean_of_its_group() -> None:
    """told: 1 and 3 in group 0, nothing in group 1; other gives 10 to all: 11, 13, 12, and 10 alone."""

    @reward()
    def other(completion: str) -> float:
        return 10.0

    assert totals([told, other], "1", "3", "-", "-", groups=[0, 0, 0, 1])[0] == [11, 13, 12, 10]
    assert totals([told], "1", "-")[0] == [1, None]


def test_a_gate_opens_above_0_or_from_its_threshold_on() -> None:
    assert totals([told, positive], "0", "0.5", "-0.5")[0] == [0.0, 0.5, 0.0]

    def spec(**fields: Any) -> RewardSpec:
        return RewardSpec(name="x", role="gate", **fields)

    with RewardSet([told, positive]) as made:
        gate = made.rewards[1]
    assert [gate.passes(value) for value in (-1, 0, 1e-9)] == [False, False, True]
    from dataclasses import replace

    bounded = replace(gate, spec=spec(threshold=0.5))
    assert [bounded.passes(value) for value in (0.49, 0.5, 0.51)] == [False, True, True]


def test_shaping_is_added_to_the_total_and_not_to_the_task() -> None:
    assert totals([told, doubled], "1", "3") == ([3, 9], [1, 3])
    assert totals([doubled], "1", "3") == ([2, 6], [0, 0])


def test_the_clip_bounds_the_total_alone() -> None:
    assert totals([told, doubled], "-1", "0.5", "1", clip=(-1.0, 2.0)) == ([-1, 1.5, 2], [-1, 0.5, 1])


def test_a_failed_row_is_unscored_unless_failures_abstain() -> None:
    """A third fails, which is less than half of the first batch."""
    assert totals([told, positive], "1", "x", "2", max_error_rate=0.5)[0] == [1, None, 2]
    assert totals([told], "1", "x", "2", on_error="abstain", max_error_rate=0.5)[0] == [1, None, 2]
    with pytest.raises(RewardError, match=r"failed on 1 of its last 3 calls .rows rows:1.: ValueError"):
        totals([told], "1", "x", "2", on_error="raise")


@pytest.mark.parametrize(
    ("bad", "of", "stops"), [(1, 2, False), (2, 3, True), (2, 4, False), (3, 5, True), (1, 1, True)]
)
def test_more_than_half_of_the_first_batch_stops(bad: int, of: int, stops: bool) -> None:
    texts = ["x"] * bad + ["1"] * (of - bad)
    if stops:
        with pytest.raises(RewardError, match=f"failed on {bad} of its last {of} calls"):
            totals([told], *texts)
    else:
        totals([told], *texts)


@pytest.mark.parametrize(("calls", "stops"), [(49, False), (50, True)])
def test_the_share_of_failures_counts_from_50_calls_on(calls: int, stops: bool) -> None:
    """2 of 49 and 2 of 50 are more than 2 %."""
    texts = ["x"] * 2 + ["1"] * (calls - 2)
    if stops:
        with pytest.raises(RewardError, match="failed on 2 of its last 50 calls"):
            totals([told], *texts)
    else:
        assert totals([told], *texts)[0][:3] == [None, None, 1]


def test_a_share_of_exactly_what_is_allowed_goes_on_and_1000_calls_are_remembered() -> None:
    """1 of 50 is 2 %; 1,000 good ones push it out."""
    with RewardSet([told]) as made:
        made.score(samples("x", *["1"] * 49))
        assert made.state_dict() == {"told": "x" + "." * 49}
        made.score(samples(*["1"] * 950))
        assert made.state_dict()["told"] == "x" + "." * 999
        made.score(samples("1"))
        assert made.state_dict()["told"] == "." * 1000
        made.load_state_dict({"told": "x."})
        assert made.state_dict() == {"told": "x."}
        made.load_state_dict({})
        assert made.state_dict() == {"told": ""}


def test_failures_are_remembered_over_batches() -> None:
    with RewardSet([told]) as made:
        made.score(samples("x", *["1"] * 39))
        with pytest.raises(RewardError, match=r"2 of its last 60 calls .rows rows:0."):
            made.score(samples("x", *["1"] * 19))


def test_a_weight_multiplies_and_a_metric_counts_nothing() -> None:
    @reward(role="metric")
    def seen(completion: str) -> float:
        return 100.0

    with RewardSet([told, seen]) as made:
        assert made.weights == {"told": 1.0}
        assert made.goals == {"told": "max", "seen": "max"}
        scores = made.score(samples("1", "3"))
    assert scores.totals == [1, 3]
    assert [outcome.value for outcome in scores.by_reward["seen"]] == [100, 100]


def test_metrics_of_scores_by_hand() -> None:
    """Group 0: 1 and 3, spread sqrt 2; group 1: 5, 5 and nothing, spread 0; group 2: one row."""
    with RewardSet([told]) as made:
        scores = made.score(samples("1", "3", "5", "5", "-", "7", groups=[0, 0, 1, 1, 1, 2]))
    found = values(scores.metrics())
    assert found["reward"] == pytest.approx(21 / 5)
    assert found["reward_std"] == pytest.approx(2**0.5 / 2)
    assert found["frac_reward_zero_std"] == 0.5
    assert found["rewards/told/mean"] == pytest.approx(21 / 5)
    assert found["rewards/told/std"] == pytest.approx(2**0.5 / 2)
    assert found["rewards/told/abstained"] == pytest.approx(1 / 6)
    assert found["rewards/told/errors"] == found["rewards/told/timeouts"] == 0


@pytest.mark.parametrize(
    ("returned", "kind", "value"),
    [
        (0, "scored", 0.0),
        (1.0, "scored", 1.0),
        (Verdict(0.5, note="so"), "scored", 0.5),
        (None, "abstained", None),
        (Verdict(None), "abstained", None),
        (True, "error", None),
        ("1", "error", None),
        (float("nan"), "error", None),
        (float("inf"), "error", None),
        (1.001, "error", None),
        (-0.001, "error", None),
    ],
)
def test_a_score_is_a_number_in_its_range(returned: object, kind: str, value: float | None) -> None:
    found = judged(returned, (0, 1))
    assert (found.kind, found.value) == (kind, value)
    assert found.failed is (kind == "error")


def test_a_list_has_a_score_for_each() -> None:
    assert [one.value for one in judged_many((1, 2), 2, None)] == [1, 2]
    for returned in ([1], "12", 3, None):
        assert [one.kind for one in judged_many(returned, 2, None)] == ["error", "error"]
    assert judged_many([1], 2, None)[0].note == "returned 1 scores for 2 completions"


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda: reward(range=(1, 1)), "range"),
        (lambda: reward(range=(2, 1)), "range"),
        (lambda: reward(timeout=0), "timeout"),
        (lambda: reward(group=True, batch=True), "group and batch"),
    ],
)
def test_traits_that_cannot_be_are_refused(declare: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        declare()


def test_defaults_of_a_policy() -> None:
    policy = RewardPolicy()
    assert (policy.clip, policy.on_error, policy.max_error_rate, policy.timeout_s) == (None, "drop_row", 0.02, 60)
    with pytest.raises(ValueError, match="clip"):
        RewardPolicy(clip=(1.0, 1.0))
    spec = RewardSpec(name="x")
    assert (spec.weight, spec.role, spec.threshold, spec.fail_value, spec.label) == (1.0, None, None, 0.0, None)
