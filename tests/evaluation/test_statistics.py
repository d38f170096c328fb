"""Tests, intervals and corrections for many tests: published values, scipy, and properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rung.evaluation.statistics import (
    cluster_variance,
    detectable_difference,
    holm,
    items_needed,
    mcnemar,
    mean_interval,
    paired_bootstrap,
    paired_ratio,
    wilson,
)


def names(count: int) -> list[str]:
    return [str(i) for i in range(count)]


@pytest.mark.maths
@pytest.mark.parametrize(
    ("gained", "lost", "p"), [(13, 13, 1.0), (30, 20, 0.20), (78, 52, 0.028), (209, 152, 0.0032), (0, 0, 1.0)]
)
def test_mcnemar_equals_the_golden_values_of_two_published_models(gained, lost, p):
    assert mcnemar(gained, lost) == mcnemar(lost, gained) == pytest.approx(p, rel=0.02)


@pytest.mark.maths
def test_mcnemar_by_hand():
    """3 flips to 1: 2 * (C(4, 0) + C(4, 1)) / 2^4 = 10 / 16; 5 to 0: 2 / 2^5."""
    assert mcnemar(3, 1) == pytest.approx(10 / 16)
    assert mcnemar(5, 0) == pytest.approx(2 / 32)


@pytest.mark.oracle
def test_mcnemar_equals_scipys_two_sided_binomial_test():
    for gained, lost in [(4, 9), (17, 17), (40, 21)]:
        assert mcnemar(gained, lost) == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)


@pytest.mark.maths
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(515, 1319, 36.4, 41.7), (32, 40, 65, 90), (7, 20, 18, 57), (40, 200, 15.0, 26.1), (154, 200, 70.7, 82.3)],
)
def test_wilson_equals_the_golden_values(successes, n, low, high):
    digits = 1 if isinstance(low, float) else 0
    assert [round(100 * bound, digits) for bound in wilson(successes, n)] == [low, high]


@pytest.mark.oracle
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipys(counts):
    successes, n = counts
    theirs = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_the_cluster_variance_of_singletons_is_the_usual_one():
    values = np.random.default_rng(0).normal(size=50)
    assert cluster_variance(values, names(50)) == pytest.approx(values.var(ddof=1) / 50)


def test_repeating_every_item_does_not_narrow_an_interval():
    values = np.random.default_rng(1).normal(size=40)
    once = mean_interval(values, names(40))
    thrice = mean_interval(np.tile(values, 3), names(40) * 3)
    assert thrice == pytest.approx(once)
    right = (values > 0).astype(float)
    assert mean_interval(np.tile(right, 3), names(40) * 3) == pytest.approx(mean_interval(right, names(40)), abs=0.01)


def test_clusters_that_all_score_the_same_count_once_each():
    assert mean_interval([1.0] * 30, ["a", "b", "c"] * 10) == pytest.approx(wilson(3, 3))


def test_the_mean_of_one_cluster_has_no_interval():
    assert mean_interval([1.5, 2.5, 4.0], ["a"] * 3) is None


def test_the_bootstrap_repeats_itself_and_agrees_with_the_normal_interval():
    rng = np.random.default_rng(2)
    before, after = rng.normal(size=600), rng.normal(0.1, size=600)
    drawn = paired_bootstrap(before, after, names(600))
    assert drawn == paired_bootstrap(before, after, names(600))
    half = 1.96 * (after - before).std(ddof=1) / math.sqrt(600)
    assert drawn.value == pytest.approx((after - before).mean())
    assert drawn.interval == pytest.approx((drawn.value - half, drawn.value + half), abs=0.006)


@pytest.mark.maths
def test_the_bootstrap_of_flips_agrees_with_the_normal_interval():
    """600 items, 90 to the good and 30 to the bad: gain .1, variance (120 / 600 - .01) / 600."""
    before, after = [0.0] * 570 + [1.0] * 30, [1.0] * 90 + [0.0] * 510
    drawn = paired_bootstrap(before, after, names(600))
    half = 1.96 * math.sqrt((0.2 - 0.01) / 600)
    assert drawn.interval == pytest.approx((0.1 - half, 0.1 + half), abs=0.003)
    assert drawn.p < 0.001


def test_the_bootstrap_draws_whole_clusters():
    """Ten documents of 30 items that move together tell as much as ten items."""
    moves = np.array([1.0, 1, 1, -1, 1, 0, 0, 1, -1, 1])
    documents = paired_bootstrap(np.zeros(300), np.repeat(moves, 30), [name for name in names(10) for _ in range(30)])
    items = paired_bootstrap(np.zeros(10), moves, names(10))
    assert documents == items


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=20))
def test_swapping_the_models_mirrors_the_gain(pairs):
    before, after = zip(*pairs, strict=True)
    there = paired_bootstrap(before, after, names(len(pairs)))
    back = paired_bootstrap(after, before, names(len(pairs)))
    assert back.value == -there.value
    assert there.interval.low <= there.interval.high
    assert 0 < there.p <= 1


def test_unequal_or_empty_item_lists_are_refused():
    with pytest.raises(ValueError, match="same items twice"):
        paired_bootstrap([1.0], [1.0, 0.0], ["a"])
    with pytest.raises(ValueError, match="same items twice"):
        paired_bootstrap([], [], [])


def test_a_ratio_of_equal_rates_is_one_for_sure():
    wrong = [1.0, 0.0, 1.0, 1.0] * 20
    assert paired_ratio(wrong, wrong, names(80)) == (1.0, (1.0, 1.0), 1.0)


def test_a_halved_rate_has_a_ratio_of_a_half_within_its_interval():
    before, after = [1.0] * 200 + [0.0] * 400, [1.0] * 100 + [0.0] * 500
    ratio = paired_ratio(before, after, names(600))
    half = 1.96 * math.sqrt(0.25 / 200)  # which of the 200 errors went away
    assert ratio.value == 0.5
    assert ratio.interval == pytest.approx((0.5 - half, 0.5 + half), abs=0.01)


def test_pooling_seeds_over_the_same_items_is_not_taken_for_new_items():
    before, after = [1.0] * 200 + [0.0] * 400, [1.0] * 100 + [0.0] * 500
    once = paired_ratio(before, after, names(600))
    thrice = paired_ratio(before * 3, after * 3, names(600) * 3)
    assert thrice.interval == pytest.approx(once.interval, abs=0.01)


def test_a_ratio_to_nothing_is_refused():
    with pytest.raises(ValueError, match="not defined"):
        paired_ratio([0.0, 0.0], [1.0, 0.0], ["a", "b"])


@pytest.mark.maths
def test_holm_by_hand():
    """.01 * 4, .02 * 3 and .03 * 2 tie at .06, .5 * 1."""
    assert holm({"d": 0.5, "a": 0.01, "b": 0.02, "c": 0.03}) == pytest.approx(
        {"d": 0.5, "a": 0.04, "b": 0.06, "c": 0.06}
    )


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    assert all(p_values[name] <= adjusted[name] <= 1 for name in p_values)
    ordered = sorted(p_values, key=lambda name: p_values[name])
    assert [adjusted[name] for name in ordered] == sorted(adjusted.values())


@pytest.mark.maths
def test_detectable_differences_equal_the_golden_values():
    points = {n: round(100 * detectable_difference(0.25, n), 1) for n in (50, 100, 200, 500, 1319)}
    assert points == {50: 19.8, 100: 14.0, 200: 9.9, 500: 6.3, 1319: 3.9}
    assert items_needed(0.25, 0.05) == 784
    assert items_needed(0.25, 0.0) is None
