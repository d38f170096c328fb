"""Statistics by hand: the fewest items and clusters, levels, and draws whose distribution is known."""

import math

import numpy as np
import pytest

from rung.evaluation.statistics import (
    DRAWS,
    Interval,
    cluster_variance,
    detectable_difference,
    holm,
    is_binary,
    items_needed,
    mcnemar,
    mean_interval,
    paired_bootstrap,
    paired_ratio,
    wilson,
)

pytestmark = pytest.mark.maths


def test_a_wilson_interval_of_one_item() -> None:
    """z^2 = 3.8415: 1 of 1 is [1 / (1 + z^2), 1], and 0 of 1 its mirror."""
    assert wilson(1, 1) == pytest.approx((1 / 4.841459, 1.0), abs=1e-6)
    assert wilson(0, 1) == pytest.approx((0.0, 1 - 1 / 4.841459), abs=1e-6)
    assert wilson(1, 1, level=0.5).low == pytest.approx(1 / (1 + 0.674490**2), abs=1e-6)
    assert wilson(0.25, 0.5).low < 0.5 < wilson(0.25, 0.5).high
    for count in (0, -1):
        with pytest.raises(ValueError, match="no items"):
            wilson(0, count)


def test_a_wilson_interval_stays_between_0_and_1() -> None:
    """Rounding takes the bound of 0 of 5 below 0, and that of 14 of 14 above 1."""
    assert (wilson(0, 5).low, wilson(14, 14).high) == (0.0, 1.0)


def test_the_spread_between_two_and_three_clusters() -> None:
    """Sums of 1 - 3, 2 - 3 and 6 - 3 as -2, -1, 3: 3 / 2 x 14 / 3^2; two of -1 and 1 in each: 2 x 8 / 4^2."""
    assert cluster_variance([1.0, 2.0, 6.0], list("abc")) == pytest.approx(14 / 6)
    assert cluster_variance([1.0, 1.0, 3.0, 3.0], list("aabb")) == pytest.approx(1.0)
    assert cluster_variance([1.0, 3.0, 3.0, 1.0], list("aabb")) == 0.0
    with pytest.raises(ValueError, match="at least two"):
        cluster_variance([1.0, 2.0], ["a", "a"])


def test_the_mean_of_two_clusters_has_students_interval_of_one_degree() -> None:
    """.5 and 1.5: error 2 x .5 / 4 = .25, t(1) = 12.7062 at 95 % and 1 at 50 %."""
    found = mean_interval([0.5, 1.5], ["a", "b"])
    assert found == pytest.approx((1 - 12.7062 / 2, 1 + 12.7062 / 2), abs=1e-4)
    assert mean_interval([0.5, 1.5], ["a", "b"], level=0.5) == pytest.approx((0.5, 1.5))
    assert mean_interval([0.5, 1.5], ["a", "a"]) is None


def test_a_rate_over_clusters_has_as_many_items_as_it_is_worth() -> None:
    """1 1 0 0 in two clusters: (1 / 3) / 4 against 1 / 4, 4 x 1 / 3 items; 1 0 1 0: never more than 4."""
    assert mean_interval([1.0, 1.0, 0.0, 0.0], list("aabb")) == pytest.approx(wilson(2 / 3, 4 / 3))
    assert mean_interval([1.0, 0.0, 1.0, 0.0], list("aabb")) == pytest.approx(wilson(2, 4))
    assert mean_interval([1.0, 0.0, 1.0, 0.0], list("abcd")) == pytest.approx(wilson(2, 4))
    assert mean_interval([1.0, 0.0], ["a", "a"]) == pytest.approx(wilson(0.5, 1))
    assert mean_interval([1.0, 1.0, 1.0], list("aab")) == pytest.approx(wilson(2, 2))
    assert mean_interval([1.0, 0.0], list("ab"), level=0.5) == pytest.approx(wilson(1, 2, 0.5))


def test_flips_to_one_side() -> None:
    assert mcnemar(1, 0) == mcnemar(0, 1) == 1.0
    assert mcnemar(2, 0) == pytest.approx(0.5)
    assert mcnemar(6, 0) == pytest.approx(2 / 64)


def test_a_sure_gain_has_the_smallest_p_and_none_the_largest() -> None:
    found = paired_bootstrap([0.0, 0.0], [1.0, 1.0], ["a", "b"])
    assert DRAWS == 10_000
    assert found == (1.0, Interval(1.0, 1.0), 2 / 10_001)
    assert paired_bootstrap([1.0, 1.0], [1.0, 1.0], ["a", "b"]) == (0.0, Interval(0.0, 0.0), 1.0)


@pytest.mark.parametrize(
    ("level", "interval"), [(0.95, (-1.0, 3.0)), (0.6, (-1.0, 3.0)), (0.4, (1.0, 1.0)), (0.51, (-1.0, 3.0))]
)
def test_the_interval_of_two_items_is_that_of_their_four_draws(level: float, interval: tuple[float, float]) -> None:
    """Gains 3 and -1: means of two draws are 3, 1, 1 and -1; .05 of them at either end reach beyond a quarter."""
    found = paired_bootstrap([0.0, 0.0], [3.0, -1.0], ["a", "b"], level=level)
    assert found.value == 1.0
    assert found.interval == interval if level != 0.51 else found.interval.low <= 1
    assert found.p == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_the_p_value_counts_the_sample_itself_as_one_draw_more(seed: int) -> None:
    """Twice (k + 1) / 10,001, where k draws show the gain -1 twice."""
    worst = np.random.default_rng(seed).multinomial(2, [0.5, 0.5], size=10_000)[:, 0] == 2
    found = paired_bootstrap([0.0, 0.0], [3.0, -1.0], ["a", "b"], seed=seed)
    assert found.p == 2 * (worst.sum() + 1) / 10_001


def test_a_cluster_counts_as_many_items_as_it_has() -> None:
    """3 items of 1 in a, 1 of -1 in b: draws are 1 (a a), .5 (a b, 6 of 8 to a) and -1 (b b)."""
    found = paired_bootstrap([0.0] * 4, [1.0, 1.0, 1.0, -1.0], list("aaab"), level=0.4)
    assert (found.value, found.interval) == (0.5, Interval(0.5, 0.5))
    assert found.p == pytest.approx(0.5, abs=0.03)


def test_another_seed_draws_otherwise() -> None:
    before, after = [0.0] * 9, [-4.0, -3.5, -1.1, 0.3, 0.7, 1.9, 2.3, 5.1, 8.7]
    groups = list("abcdefghi")
    assert paired_bootstrap(before, after, groups).p == paired_bootstrap(before, after, groups, seed=0).p
    assert paired_bootstrap(before, after, groups, seed=0) != paired_bootstrap(before, after, groups, seed=1)
    ones = [1.0] * 9
    assert paired_ratio(ones, after, groups, seed=0) != paired_ratio(ones, after, groups, seed=1)


@pytest.mark.parametrize("kinds", [64, 65])
def test_many_kinds_of_clusters_have_the_interval_of_few(kinds: int) -> None:
    """Gains 0 to n - 1: deviation sqrt((n^2 - 1) / 12), by sqrt n that of the mean."""
    gains = [float(i) for i in range(kinds)]
    found = paired_bootstrap([0.0] * kinds, gains, [str(i) for i in range(kinds)])
    half = 1.96 * math.sqrt((kinds**2 - 1) / 12 / kinds)
    assert found.interval == pytest.approx((found.value - half, found.value + half), abs=0.25)
    assert found.p == 2 / 10_001


def test_a_ratio_of_two_items_is_that_of_their_four_draws() -> None:
    """1 -> 1 and 0 -> 1: ratios 1, 2, 2 and 2 / 0; 1 -> 1 and 0 -> 0: 1, 1, 1 and 0 / 0, which counts as infinite."""
    found = paired_ratio([1.0, 0.0], [1.0, 1.0], ["a", "b"])
    assert (found.value, found.interval) == (2.0, Interval(1.0, math.inf))
    assert found.p == pytest.approx(0.5, abs=0.03)
    assert paired_ratio([1.0, 0.0], [1.0, 1.0], ["a", "b"], level=0.4).interval == (2.0, 2.0)
    same = paired_ratio([1.0, 0.0], [1.0, 0.0], ["a", "b"])
    assert (same.value, same.interval, same.p) == (1.0, Interval(1.0, math.inf), 1.0)
    with pytest.raises(ValueError, match="not defined"):
        paired_ratio([0.0], [1.0], ["a"])


@pytest.mark.parametrize(("before", "after"), [([1.0], [1.0, 2.0]), ([], []), ([[1.0]], [1.0])])
def test_other_items_or_none_are_refused(before: list, after: list) -> None:
    with pytest.raises(ValueError, match="the same items twice"):
        paired_bootstrap(before, after, ["a"])


def test_adjusted_p_values_never_fall_and_never_pass_1() -> None:
    """.02 x 3, then .025 x 2 = .05, which stays at .06; .9 x 1."""
    assert holm({"b": 0.025, "c": 0.9, "a": 0.02}) == pytest.approx({"b": 0.06, "c": 0.9, "a": 0.06})
    assert list(holm({"b": 0.5, "a": 0.5})) == ["b", "a"]
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_items_for_a_difference() -> None:
    """7.84 x .1 / .09 = 8.7; at least 1; in either direction; 2.8 sqrt(.25 / 49) = .2."""
    assert items_needed(0.1, 0.3) == items_needed(0.1, -0.3) == 9
    assert items_needed(0.0, 0.5) == 1
    assert items_needed(1.0, 2.8) == 1
    assert items_needed(0.3, 0.0) is None
    assert detectable_difference(0.25, 49) == pytest.approx(0.2)


def test_only_0_and_1_are_binary() -> None:
    assert is_binary([0.0, 1.0])
    assert is_binary([])
    assert not is_binary([0.0, 0.5])
    assert not is_binary([1.0, 2.0])
    assert not is_binary([-1.0])
