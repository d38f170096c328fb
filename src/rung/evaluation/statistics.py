"""Statistics of a test set: intervals for one model, paired comparisons of two, and sample sizes.

Pure functions on numbers. An item is one question, a cluster the items that share a source (a document, a table);
items of one cluster are not independent, so variances are taken between clusters and resampling draws whole clusters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

DRAWS = 10_000
FEW_CLUSTERS = 20  # below this a bootstrap interval is too narrow to be trusted; reports say so
_MAX_DISTINCT = 64  # up to so many distinct clusters, only their counts are drawn


class Interval(NamedTuple):
    """A two-sided interval."""

    low: float
    high: float


class Bootstrap(NamedTuple):
    """A paired difference or ratio with its percentile interval and two-sided p-value against no change."""

    value: float
    interval: Interval
    p: float


def wilson(successes: float, n: float, level: float = 0.95) -> Interval:
    """Wilson score interval of a rate: `successes` of `n` independent items, both may be effective (fractional) counts.

    Raises ValueError without items. Source: Wilson 1927; Brown, Cai and DasGupta 2001, section 3.1.1.

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
    """Variance of the mean of `values` (n,), robust to any dependence within `clusters` (n,); 0 for constant values.

    If every item is its own cluster, it is the usual s^2 / n. Raises ValueError for fewer than two clusters.
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
    """Interval of the mean of `values` (n,) whose items belong to `clusters` (n,); None for fewer than two clusters.

    0/1 values: Wilson with the effective sample size if items share clusters (n divided by the design effect; the
    number of clusters if all values are equal, where it is unknown). Other values: Student's t on the cluster-robust
    error. Source: Korn and Graubard 1998 for the effective size.
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
    """Exact two-sided McNemar p-value of `gained` and `lost` flips between two models on the same independent items.

    p = min(1, 2 * sum_{i <= min} C(flips, i) / 2^flips), and 1 without flips.

    >>> round(mcnemar(209, 152), 4), mcnemar(13, 13), mcnemar(0, 0)
    (0.0032, 1.0, 1.0)
    """
    return min(1.0, 2 * float(special.bdtr(min(gained, lost), gained + lost, 0.5)))


def paired_bootstrap(
    before: ArrayLike, after: ArrayLike, clusters: Sequence[str], *, level: float = 0.95, seed: int = 0
) -> Bootstrap:
    """Mean of `after` - `before` (n,) on the same items, with a percentile interval over resampled clusters.

    The p-value is twice the smaller share of draws on either side of 0, never below 2 / (draws + 1).
    Raises ValueError on unequal lengths or no items. Source: Efron and Tibshirani 1993, chapters 13 and 15.

    >>> paired_bootstrap([0, 0, 1], [1, 1, 2], ["a", "b", "c"]).interval
    Interval(low=1.0, high=1.0)
    """
    gains = _paired(before, after)
    drawn = _resample(gains[1] - gains[0], np.ones(gains.shape[1]), clusters, seed=seed)
    return Bootstrap(float((gains[1] - gains[0]).mean()), _percentiles(drawn, level), _two_sided(drawn, 0.0))


def paired_ratio(
    before: ArrayLike, after: ArrayLike, clusters: Sequence[str], *, level: float = 0.95, seed: int = 0
) -> Bootstrap:
    """Sum of `after` over sum of `before` (n,), such as two error rates, with a percentile interval.

    Runs with several seeds are pooled by joining their arrays: an item of several runs is one cluster with one name.
    Draws in which `before` sums to 0 count as infinite. Raises ValueError on unequal lengths, on no items, or where
    `before` sums to 0.

    >>> paired_ratio([1, 1, 1, 1], [1, 0, 1, 0], list("abcd")).value
    0.5
    """
    pair = _paired(before, after)
    if pair[0].sum() == 0:
        raise ValueError("a ratio to a rate of 0 is not defined")
    drawn = _resample(pair[1], pair[0], clusters, seed=seed)
    return Bootstrap(float(pair[1].sum() / pair[0].sum()), _percentiles(drawn, level), _two_sided(drawn, 1.0))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values, which control the family-wise error rate of the whole table.

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
    """The difference that `n` paired items detect with 80 % power at two-sided 5 %: 2.8 * sqrt(variance / n).

    `variance` is that of the per-item difference: for 0/1 scores the share of flips (0.25 is typical).

    >>> [round(detectable_difference(0.25, n), 3) for n in (50, 100, 200)]
    [0.198, 0.14, 0.099]
    """
    return 2.8 * math.sqrt(variance / n)


def items_needed(variance: float, difference: float) -> int | None:
    """How many paired items detect `difference` with 80 % power; None for a difference of 0.

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
    """Effective sample size of a rate: the number of independent items with the same variance, at most n."""
    n, num_clusters = len(values), len(set(clusters))
    if num_clusters < 2 or not values.var():
        return num_clusters
    independent, clustered = values.var(ddof=1) / n, cluster_variance(values, clusters)
    return n if clustered <= independent else n * independent / clustered


def _paired(before: ArrayLike, after: ArrayLike) -> NDArray[np.float64]:
    """(2, n) float64, before and after."""
    pair = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if pair[0].shape != pair[1].shape or pair[0].size == 0:
        raise ValueError(f"a paired comparison needs the same items twice, got {pair[0].shape} and {pair[1].shape}")
    return np.stack(pair)


def _cluster_sums(values: NDArray[np.float64], clusters: Sequence[str]) -> NDArray[np.float64]:
    """(C,) sums of (n,) values by cluster."""
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    return np.bincount(index, weights=values).astype(float)


def _resample(
    numerators: NDArray[np.float64], denominators: NDArray[np.float64], clusters: Sequence[str], *, seed: int
) -> NDArray[np.float64]:
    """(DRAWS,) ratios of the two sums over clusters, which are drawn with replacement, as many as there are."""
    columns = np.stack([_cluster_sums(array, clusters) for array in (numerators, denominators)], axis=1)
    distinct, counts = np.unique(columns, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    # equal clusters are interchangeable: with few distinct ones, such as 0/1 scores, drawing their counts is enough
    if len(distinct) <= _MAX_DISTINCT:
        sums = rng.multinomial(len(columns), counts / len(columns), size=DRAWS) @ distinct
    else:
        sums = _draw_clusters(columns, rng)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = sums[:, 0] / sums[:, 1]
    return np.where(np.isnan(ratios), np.inf, ratios)


def _draw_clusters(columns: NDArray[np.float64], rng: np.random.Generator, block: int = 200) -> NDArray[np.float64]:
    """(DRAWS, 2) sums over resampled rows of (C, 2), in blocks of draws to limit memory."""
    num = len(columns)
    offsets = np.arange(block)[:, None] * num
    sums = np.empty((DRAWS, columns.shape[1]))
    for start in range(0, DRAWS, block):
        drawn = rng.integers(0, num, size=(block, num), dtype=np.min_scalar_type(num)) + offsets
        counts = np.bincount(drawn.ravel(), minlength=block * num).reshape(block, num)
        sums[start : start + block] = counts.astype(float) @ columns
    return sums


def _percentiles(drawn: NDArray[np.float64], level: float) -> Interval:
    """The central `level` interval of the draws; no interpolation, because draws may be infinite."""
    low, high = np.quantile(drawn, (0.5 - level / 2, 0.5 + level / 2), method="inverted_cdf")
    return Interval(float(low), float(high))


def _two_sided(drawn: NDArray[np.float64], null: float) -> float:
    """Twice the smaller share of draws at or beyond `null`; the observed sample counts as one more draw."""
    beyond = min(int((drawn <= null).sum()), int((drawn >= null).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(drawn) + 1))
