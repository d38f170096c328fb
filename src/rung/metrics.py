"""Metrics that carry their own denominators, so that parts and ranks add up to the whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over `count` things (tokens, rows or groups), kept as its sum."""

    total: float
    count: float

    def merge(self, other: Mean) -> Mean:
        """The mean over both sets of things."""
        return Mean(self.total + other.total, self.count + other.count)

    def value(self) -> float | None:
        """The mean; None where nothing was counted."""
        return self.total / self.count if self.count else None


@dataclass(frozen=True, slots=True)
class Std:
    """A spread (Bessel-corrected) over `count` things, kept as their sum and their sum of squares."""

    total: float
    squares: float
    count: float

    def merge(self, other: Std) -> Std:
        """The spread over both sets of things."""
        return Std(self.total + other.total, self.squares + other.squares, self.count + other.count)

    def value(self) -> float | None:
        """The standard deviation; None of fewer than two things."""
        if self.count < 2:
            return None
        return math.sqrt(max(self.squares - self.total**2 / self.count, 0.0) / (self.count - 1))


@dataclass(frozen=True, slots=True)
class Sum:
    """A count or amount that adds up."""

    total: float

    def merge(self, other: Sum) -> Sum:
        """The sum of both."""
        return Sum(self.total + other.total)

    def value(self) -> float | None:
        """The sum."""
        return self.total


@dataclass(frozen=True, slots=True)
class Max:
    """The largest of some things; None where there were none."""

    largest: float | None

    def merge(self, other: Max) -> Max:
        """The larger of both."""
        return Max(max((x for x in (self.largest, other.largest) if x is not None), default=None))

    def value(self) -> float | None:
        """The largest, or None."""
        return self.largest


@dataclass(frozen=True, slots=True)
class Min:
    """The smallest of some things; None where there were none."""

    smallest: float | None

    def merge(self, other: Min) -> Min:
        """The smaller of both."""
        return Min(min((x for x in (self.smallest, other.smallest) if x is not None), default=None))

    def value(self) -> float | None:
        """The smallest, or None."""
        return self.smallest


@dataclass(frozen=True, slots=True)
class Quantile:
    """The q-quantile (nearest rank) of some things, which are all kept until it is read."""

    values: tuple[float, ...]
    q: float

    def merge(self, other: Quantile) -> Quantile:
        """The same quantile of both sets of things."""
        assert self.q == other.q, "quantiles of one metric share q"
        return Quantile(self.values + other.values, self.q)

    def value(self) -> float | None:
        """The quantile; None where there was nothing."""
        if not self.values:
            return None
        ordered = sorted(self.values)
        return ordered[min(int(self.q * len(ordered)), len(ordered) - 1)]


Metric = Mean | Std | Sum | Max | Min | Quantile
Metrics = Mapping[str, Metric]


def mean_of(values: Tensor, mask: Tensor | None = None) -> Mean:
    """The mean of `values` where `mask` is true (everywhere without one); any shape, detached."""
    values = values.detach().double()
    if mask is None:
        return Mean(float(values.sum()), float(values.numel()))
    return Mean(float(values.masked_fill(~mask, 0).sum()), float(mask.sum()))


def std_of(values: Tensor) -> Std:
    """The standard deviation of all values; any shape, detached."""
    values = values.detach().double()
    return Std(float(values.sum()), float((values**2).sum()), float(values.numel()))


def merge(many: Iterable[Metrics]) -> dict[str, Metric]:
    """One mapping out of several (parts, steps or ranks); a name present in some is merged over those."""
    merged: dict[str, Metric] = {}
    for metrics in many:
        for name, metric in metrics.items():
            if name in merged:
                assert type(merged[name]) is type(metric), f"metric {name} changes its kind"
                metric = merged[name].merge(metric)  # type: ignore[arg-type]
            merged[name] = metric
    return merged


def values(metrics: Metrics) -> dict[str, float]:
    """The readable numbers; a metric over nothing is left out."""
    read = {name: metric.value() for name, metric in metrics.items()}
    return {name: value for name, value in read.items() if value is not None}


_KINDS: dict[str, type[Mean | Std | Sum | Max | Min | Quantile]] = {
    kind.__name__: kind for kind in (Mean, Std, Sum, Max, Min, Quantile)
}


def encode(metrics: Metrics) -> dict[str, list[object]]:
    """Metrics as JSON values: `{name: [kind, field, ...]}`."""
    return {name: [type(m).__name__, *(getattr(m, f.name) for f in fields(m))] for name, m in metrics.items()}


def decode(encoded: Mapping[str, list[Any]]) -> dict[str, Metric]:
    """The inverse of `encode`."""
    made: dict[str, Metric] = {}
    for name, (kind, *values) in encoded.items():
        arguments: Any = (tuple(value) if isinstance(value, list) else value for value in values)
        made[name] = _KINDS[kind](*arguments)
    return made
