"""Metrics that keep their sums and counts, so that metrics of micro-batches and ranks can be merged exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over `count` items (tokens, rows or groups), stored as their sum."""

    total: float
    count: float

    def merge(self, other: Mean) -> Mean:
        """The mean over the items of `self` and `other`."""
        return Mean(self.total + other.total, self.count + other.count)

    def value(self) -> float | None:
        """The mean; None if `count` is 0."""
        return self.total / self.count if self.count else None


@dataclass(frozen=True, slots=True)
class Std:
    """A standard deviation (Bessel-corrected) over `count` items, stored as their sum and their sum of squares."""

    total: float
    squares: float
    count: float

    def merge(self, other: Std) -> Std:
        """The standard deviation over the items of `self` and `other`."""
        return Std(self.total + other.total, self.squares + other.squares, self.count + other.count)

    def value(self) -> float | None:
        """The standard deviation; None for fewer than two items."""
        if self.count < 2:
            return None
        return math.sqrt(max(self.squares - self.total**2 / self.count, 0.0) / (self.count - 1))


@dataclass(frozen=True, slots=True)
class Sum:
    """A count or an amount that is summed over micro-batches and ranks."""

    total: float

    def merge(self, other: Sum) -> Sum:
        """The sum of `self` and `other`."""
        return Sum(self.total + other.total)

    def value(self) -> float | None:
        """The sum."""
        return self.total


@dataclass(frozen=True, slots=True)
class Max:
    """The largest of several values; `largest` is None if there are none."""

    largest: float | None

    def merge(self, other: Max) -> Max:
        """The larger of `self` and `other`."""
        return Max(max((x for x in (self.largest, other.largest) if x is not None), default=None))

    def value(self) -> float | None:
        """The largest value; None if there are none."""
        return self.largest


@dataclass(frozen=True, slots=True)
class Min:
    """The smallest of several values; `smallest` is None if there are none."""

    smallest: float | None

    def merge(self, other: Min) -> Min:
        """The smaller of `self` and `other`."""
        return Min(min((x for x in (self.smallest, other.smallest) if x is not None), default=None))

    def value(self) -> float | None:
        """The smallest value; None if there are none."""
        return self.smallest


@dataclass(frozen=True, slots=True)
class Quantile:
    """The q-quantile (nearest rank) of several values, which are all stored."""

    values: tuple[float, ...]
    q: float

    def merge(self, other: Quantile) -> Quantile:
        """The same quantile over the values of `self` and `other`."""
        assert self.q == other.q, "quantiles of one metric share q"
        return Quantile(self.values + other.values, self.q)

    def value(self) -> float | None:
        """The quantile; None if there are no values."""
        if not self.values:
            return None
        ordered = sorted(self.values)
        return ordered[min(int(self.q * len(ordered)), len(ordered) - 1)]


Metric = Mean | Std | Sum | Max | Min | Quantile
Metrics = Mapping[str, Metric]


def mean_of(values: Tensor, mask: Tensor | None = None) -> Mean:
    """The mean of a tensor of any shape, over the entries where `mask` (same shape) is true; detached.

    Without a mask, the mean over all entries.
    """
    values = values.detach().double()
    if mask is None:
        return Mean(float(values.sum()), float(values.numel()))
    return Mean(float(values.masked_fill(~mask, 0).sum()), float(mask.sum()))


def std_of(values: Tensor) -> Std:
    """The standard deviation of all entries of a tensor of any shape; detached."""
    values = values.detach().double()
    return Std(float(values.sum()), float((values**2).sum()), float(values.numel()))


def merge(many: Iterable[Metrics]) -> dict[str, Metric]:
    """Merges the metrics of several micro-batches, steps or ranks by name; a name may be missing from some of them."""
    merged: dict[str, Metric] = {}
    for metrics in many:
        for name, metric in metrics.items():
            if name in merged:
                assert type(merged[name]) is type(metric), f"metric {name} changes its type"
                metric = merged[name].merge(metric)  # type: ignore[arg-type]
            merged[name] = metric
    return merged


def values(metrics: Metrics) -> dict[str, float]:
    """The value of each metric by name; metrics whose value is None are left out."""
    read = {name: metric.value() for name, metric in metrics.items()}
    return {name: value for name, value in read.items() if value is not None}


_KINDS: dict[str, type[Mean | Std | Sum | Max | Min | Quantile]] = {
    kind.__name__: kind for kind in (Mean, Std, Sum, Max, Min, Quantile)
}


def encode(metrics: Metrics) -> dict[str, list[object]]:
    """Metrics as JSON values: `{name: [class name, field values, ...]}`."""
    return {name: [type(m).__name__, *(getattr(m, f.name) for f in fields(m))] for name, m in metrics.items()}


def decode(encoded: Mapping[str, list[Any]]) -> dict[str, Metric]:
    """The inverse of `encode`."""
    made: dict[str, Metric] = {}
    for name, (kind, *values) in encoded.items():
        arguments: Any = (tuple(value) if isinstance(value, list) else value for value in values)
        made[name] = _KINDS[kind](*arguments)
    return made
