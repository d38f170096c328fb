"""Statistics of evaluations: intervals for one model, paired comparisons of two models, and sample sizes.

All functions are pure. An item is one question of the evaluation set; a cluster is the set of items that share a source
(a document, a table). Items of one cluster are not independent, so variances are computed between clusters, and the
bootstrap resamples whole clusters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

DRAWS = 10_000
FEW_CLUSTERS = 20  # with fewer clusters a bootstrap interval is too narrow, and reports warn of it
_MAX_DISTINCT = 64  # with at most this many distinct clusters, the bootstrap draws how often each of them occurs


class Interval(NamedTuple):
    """A two-sided confidence interval."""

    low: float
    high: float


class Bootstrap(NamedTuple):
    """A paired difference or ratio with its percentile interval and its two-sided p-value (null: no change)."""

    value: float
    interval: Interval
    p: float


def wilson(successes: float, n: float, level: float = 0.95) -> Interval:
    """The Wilson score interval of the rate `successes` / `n` over independent items.

    Both counts may be fractional, as an effective sample size is. Raises ValueError if `n` is 0. Source: Wilson 1927;
    Brown, Cai and DasGupta 2001, section 3.1.1.

    >>> [round(100 * bound, 1) for bound in wilson(515, 1319)]
    [36.4, 41.7]
    """
    if n <= 0:
        raise ValueError("a rate over no items has no interval")
    z2 = float(special.ndtri(0.5 + level / 2)) ** 2
    rate = successes / n
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (rate * (1 - rate) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def cluster_variance(values: ArrayLike, clusters: Sequence[str]) -> float:
    """The cluster-robust variance of the mean of `values` (n,), which belong to `clusters` (n,).

    If every item is a cluster of its own, this is the usual s^2 / n. Raises ValueError for fewer than two clusters.
    Source: Liang and Zeger 1986, with the C / (C - 1) correction for C clusters.

    >>> round(cluster_variance([0, 1, 2, 3], ["a", "a", "b", "b"]), 6)
    1.0
    """
    array = np.asarray(values, dtype=float)
    sums = _cluster_sums(array - array.mean(), clusters)
    num = len(sums)
    if num < 2:
        raise ValueError("the variance between clusters needs at least two clusters")
    return float(num / (num - 1) * (sums**2).sum() / len(array) ** 2)


def mean_interval(values: ArrayLike, clusters: Sequence[str], level: float = 0.95) -> Interval | None:
    """The confidence interval of the mean of `values` (n,), which belong to `clusters` (n,).

    For 0/1 values: the Wilson interval with the effective sample size, n divided by the design effect; if all values
    are equal, the design effect is unknown, and the number of clusters is used. For other values: Student's t with the
    cluster-robust standard error, or None for fewer than two clusters. Source of the effective size: Korn and Graubard
    1998.
    """
    array = np.asarray(values, dtype=float)
    num_clusters = len(set(clusters))
    if is_binary(array):
        return wilson(array.mean() * (size := _effective_size(array, clusters)), size, level)
    if num_clusters < 2:
        return None
    half = special.stdtrit(num_clusters - 1, 0.5 + level / 2) * math.sqrt(cluster_variance(array, clusters))
    return Interval(float(array.mean() - half), float(array.mean() + half))


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided McNemar p-value for two models that were evaluated on the same independent items.

    `gained` and `lost` are the numbers of items that only the second, or only the first, model solved; flips is their
    sum, min the smaller of them. p = min(1, 2 * sum_{i <= min} C(flips, i) / 2^flips), and 1 without flips.

    >>> round(mcnemar(209, 152), 4), mcnemar(13, 13), mcnemar(0, 0)
    (0.0032, 1.0, 1.0)
    """
    return min(1.0, 2 * float(special.bdtr(min(gained, lost), gained + lost, 0.5)))


def moved_clusters(change: ArrayLike, clusters: Sequence[str]) -> int:
    """The number of clusters in which the sum of the changes (n,) is not 0.

    >>> moved_clusters([1, -1, 0.5, 0], ["a", "a", "b", "c"])
    1
    """
    return int((_cluster_sums(np.asarray(change, dtype=float), clusters) != 0).sum())


def paired_bootstrap(
    before: ArrayLike, after: ArrayLike, clusters: Sequence[str], *, level: float = 0.95, seed: int = 0
) -> Bootstrap:
    """The mean of `after` - `before`, both (n,) on the same items, with a bootstrap interval over clusters.

    The p-value is twice the share of draws on one side of 0, whichever side has fewer, and at least 2 / (draws + 1).
    Raises ValueError for unequal lengths or no items. Source: Efron and Tibshirani 1993, chapters 13 and 15.

    >>> paired_bootstrap([0, 0, 1], [1, 1, 2], ["a", "b", "c"]).interval
    Interval(low=1.0, high=1.0)
    """
    gains = _paired(before, after)
    drawn = _resample(gains[1] - gains[0], np.ones(gains.shape[1]), clusters, seed=seed)
    return Bootstrap(float((gains[1] - gains[0]).mean()), _percentiles(drawn, level), _two_sided(drawn, 0.0))


def paired_ratio(
    before: ArrayLike, after: ArrayLike, clusters: Sequence[str], *, level: float = 0.95, seed: int = 0
) -> Bootstrap:
    """The sum of `after` divided by that of `before`, both (n,) on the same items, with a bootstrap interval.

    An example is the ratio of two error rates. Runs with several seeds are pooled by concatenating their arrays, with
    the same cluster name for an item in all runs. A draw in which `before` sums to 0 counts as infinite. Raises
    ValueError for unequal lengths, for no items, or if `before` sums to 0.

    >>> paired_ratio([1, 1, 1, 1], [1, 0, 1, 0], list("abcd")).value
    0.5
    """
    pair = _paired(before, after)
    if pair[0].sum() == 0:
        raise ValueError("a ratio to a rate of 0 is not defined")
    drawn = _resample(pair[1], pair[0], clusters, seed=seed)
    return Bootstrap(float(pair[1].sum() / pair[0].sum()), _percentiles(drawn, level), _two_sided(drawn, 1.0))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """The p-values of several tests, by name, adjusted by Holm's method to control the family-wise error rate.

    Source: Holm 1979.

    >>> {name: round(p, 3) for name, p in holm({"a": 0.01, "b": 0.04, "c": 0.03}).items()}
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def detectable_difference(variance: float, n: int) -> float:
    """The smallest difference that a paired comparison of `n` items detects: 2.8 * sqrt(variance / n).

    This is for 80 % power at the two-sided 5 % level. `variance` is that of the difference per item; for 0/1 scores it
    is the share of items whose score changes (typically 0.25).

    >>> [round(detectable_difference(0.25, n), 3) for n in (50, 100, 200)]
    [0.198, 0.14, 0.099]
    """
    return 2.8 * math.sqrt(variance / n)


def items_needed(variance: float, difference: float) -> int | None:
    """The number of items with which a paired comparison detects `difference`; None for a difference of 0.

    This is the inverse of `detectable_difference`, for the same power and level.

    >>> items_needed(0.25, 0.05)
    784
    """
    if difference == 0:
        return None
    return max(1, math.ceil(round(7.84 * variance / difference**2, 6)))


def is_binary(values: ArrayLike) -> bool:
    """Whether all values are 0 or 1."""
    return bool(np.isin(values, (0.0, 1.0)).all())


def _effective_size(values: NDArray[np.float64], clusters: Sequence[str]) -> float:
    """The effective sample size of a rate: how many independent items would give the same variance, at most n."""
    n, num_clusters = len(values), len(set(clusters))
    if num_clusters < 2 or not values.var():
        return num_clusters
    independent, clustered = values.var(ddof=1) / n, cluster_variance(values, clusters)
    return n if clustered <= independent else n * independent / clustered


def _paired(before: ArrayLike, after: ArrayLike) -> NDArray[np.float64]:
    """`before` and `after` as one array (2, n) float64; raises ValueError for unequal lengths or no items."""
    pair = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if pair[0].shape != pair[1].shape or pair[0].size == 0:
        raise ValueError(f"a paired comparison needs the same items twice, got {pair[0].shape} and {pair[1].shape}")
    return np.stack(pair)


def _cluster_sums(values: NDArray[np.float64], clusters: Sequence[str]) -> NDArray[np.float64]:
    """The sums (C,) of `values` (n,) over each of the C clusters."""
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    return np.bincount(index, weights=values).astype(float)


def _resample(
    numerators: NDArray[np.float64], denominators: NDArray[np.float64], clusters: Sequence[str], *, seed: int
) -> NDArray[np.float64]:
    """The ratio of sum of numerators to sum of denominators in each bootstrap draw, (DRAWS,).

    A draw takes as many clusters as there are, with replacement.
    """
    columns = np.stack([_cluster_sums(array, clusters) for array in (numerators, denominators)], axis=1)
    distinct, counts = np.unique(columns, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    # Clusters with equal sums are interchangeable: if few are distinct, as with 0/1 scores, it is enough to draw how
    # often each distinct one occurs.
    if len(distinct) <= _MAX_DISTINCT:
        sums = rng.multinomial(len(columns), counts / len(columns), size=DRAWS) @ distinct
    else:
        sums = _draw_clusters(columns, rng)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = sums[:, 0] / sums[:, 1]
    return np.where(np.isnan(ratios), np.inf, ratios)


def _draw_clusters(columns: NDArray[np.float64], rng: np.random.Generator, block: int = 200) -> NDArray[np.float64]:
    """The sums (DRAWS, 2) over resampled rows of `columns` (C, 2), computed in blocks of draws to limit memory."""
    num = len(columns)
    offsets = np.arange(block)[:, None] * num
    sums = np.empty((DRAWS, columns.shape[1]))
    for start in range(0, DRAWS, block):
        drawn = rng.integers(0, num, size=(block, num), dtype=np.min_scalar_type(num)) + offsets
        counts = np.bincount(drawn.ravel(), minlength=block * num).reshape(block, num)
        sums[start : start + block] = counts.astype(float) @ columns
    return sums


def _percentiles(drawn: NDArray[np.float64], level: float) -> Interval:
    """The central interval with a share of `level` of the draws, without interpolation, since draws may be infinite."""
    low, high = np.quantile(drawn, (0.5 - level / 2, 0.5 + level / 2), method="inverted_cdf")
    return Interval(float(low), float(high))


def _two_sided(drawn: NDArray[np.float64], null: float) -> float:
    """The two-sided p-value: twice the share of draws on one side of `null`, whichever side has fewer.

    Draws equal to `null` count on both sides; the observed sample counts as one more draw.
    """
    beyond = min(int((drawn <= null).sum()), int((drawn >= null).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(drawn) + 1))
