"""Two evaluations compared: which test, which sign, which items."""

import pytest

from helpers.edges import evaluation
from rung.errors import UserError
from rung.evaluation.comparison import compare, paired_scores, pooled_ratio
from rung.evaluation.statistics import FEW_CLUSTERS, mcnemar, paired_bootstrap

BEFORE = [0.0] * 10 + [1.0] * 2
AFTER = [1.0] * 8 + [0.0] * 2 + [1.0, 0.0]


def test_independent_items_get_mcnemar() -> None:
    """8 gained, 1 lost: 2 x (1 + 9) / 2^9."""
    found = compare(evaluation({"m": BEFORE}), evaluation({"m": AFTER}), "m", {})
    assert found.p == mcnemar(8, 1) == pytest.approx(20 / 512)
    assert (found.gained, found.lost, found.n, found.clusters) == (8, 1, 12, 12)


def test_items_that_share_a_source_do_not() -> None:
    groups = [str(i // 2) for i in range(12)]
    before, after = (evaluation({"m": scores}, groups=groups) for scores in (BEFORE, AFTER))
    found = compare(before, after, "m", {})
    assert found.clusters == 6
    assert found.p == paired_bootstrap(BEFORE, AFTER, groups).p
    assert found.p != mcnemar(8, 1)


def test_numbers_between_get_the_bootstrap() -> None:
    before, after = [0.5, 0.25, 0.0, 1.0], [0.75, 0.5, 0.0, 0.5]
    found = compare(evaluation({"m": before}), evaluation({"m": after}), "m", {})
    assert found.p == paired_bootstrap(before, after, list("0123")).p
    # changes .25, .25, 0, -.5: mean 0, variance (.0625 + .0625 + .25) / 4
    assert (found.gain, found.variance, found.gained, found.lost) == (0.0, 0.09375, 2, 1)


def test_less_is_better_turns_the_sign() -> None:
    before, after = evaluation({"m": BEFORE}), evaluation({"m": AFTER})
    more, less = compare(before, after, "m", {}), compare(before, after, "m", {"m": "min"})
    assert (more.gain, less.gain) == (pytest.approx(7 / 12), pytest.approx(-7 / 12))
    assert (less.gained, less.lost, less.goal) == (1, 8, "min")
    assert less.low == pytest.approx(-more.high) if more.high is not None else False


def test_tokens_and_truncation_are_better_the_less_unless_told_otherwise() -> None:
    for name in ("output_tokens", "truncated"):
        before, after = evaluation({name: [1.0, 1.0]}), evaluation({name: [0.0, 0.0]})
        assert compare(before, after, name, {}).gain == 1.0
        assert compare(before, after, name, {name: "max"}).gain == -1.0


def test_items_that_one_of_the_two_did_not_score_are_left_out() -> None:
    before, after = evaluation({"m": [1.0, None, 0.0, 1.0]}), evaluation({"m": [1.0, 1.0, 1.0, None]})
    assert paired_scores(before, after, "m") == [(1.0, 1.0, "0"), (0.0, 1.0, "2")]
    found = compare(before, after, "m", {})
    assert (found.n, found.unscored, found.gain, found.variance) == (2, 2, 0.5, 0.5)
    none = compare(evaluation({"m": [None, 1.0]}), evaluation({"m": [1.0, None]}), "m", {})
    assert (none.n, none.unscored, none.gain, none.p) == (0, 2, None, None)


@pytest.mark.parametrize(
    ("scores", "span"),
    [([0.0, 1.0], 1.0), ([0.25, 0.5], 1.0), ([-1.0, 1.0], 2.0), ([0.0, 3.0], 3.0), ([5.0, 5.0], 0.0)],
)
def test_the_span_is_1_within_0_and_1_and_the_range_beyond(scores: list[float], span: float) -> None:
    assert compare(evaluation({"m": scores}), evaluation({"m": scores}), "m", {}).span == span


@pytest.mark.parametrize(("count", "told"), [(FEW_CLUSTERS - 1, True), (FEW_CLUSTERS, False)])
def test_few_independent_items_are_told(count: int, told: bool) -> None:
    found = compare(evaluation({"m": [1.0] * count}), evaluation({"m": [1.0] * count}), "m", {})
    assert (f"only {count} independent" in found.caveat) is told


def test_a_caveat_tells_both_of_its_reasons() -> None:
    found = compare(evaluation({"m": [1.0, None]}), evaluation({"m": [1.0, 1.0]}), "m", {})
    assert found.caveat == (
        "1 items without a score in one of the two are left out; "
        "only 1 independent items, so the interval is too narrow"
    )


def test_a_ratio_is_of_the_sums_over_all_runs() -> None:
    """4 and 2 errors before, 1 and 2 after: 3 / 6."""
    runs = [
        (evaluation({"m": [1.0] * 4}), evaluation({"m": [1.0, 0.0, 0.0, 0.0]})),
        (evaluation({"m": [1.0, 1.0, 0.0, 0.0]}), evaluation({"m": [1.0, 0.0, 1.0, 0.0]})),
    ]
    found = pooled_ratio(runs, "m")
    assert found is not None
    assert found.value == 0.5
    nothing = evaluation({"m": [0.0, 0.0]})
    assert pooled_ratio([(nothing, evaluation({"m": [1.0, 1.0]}))], "m") is None


def test_others_are_not_comparable_and_a_metric_must_be_there() -> None:
    with pytest.raises(UserError, match="differ in items"):
        compare(evaluation({"m": [1.0]}), evaluation({"m": [1.0, 1.0]}), "m", {})
    with pytest.raises(UserError, match="metric `n` was not evaluated") as caught:
        compare(evaluation({"m": [1.0]}), evaluation({"m": [1.0]}), "n", {})
    assert "which has m" in caught.value.remedy


def test_nothing_moves_between_evaluations_that_share_no_scored_item() -> None:
    found = compare(evaluation({"m": [None, 1.0]}), evaluation({"m": [0.5, None]}), "m", {})
    assert (found.n, found.unscored, found.clusters) == (0, 2, 0)
    assert (found.gain, found.p, found.variance) == (None, None, None)
    assert (found.gained, found.lost, found.moved) == (0, 0, 0)
