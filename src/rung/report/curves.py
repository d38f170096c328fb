"""Reads a stage's metrics.jsonl and chooses the training curves that the report shows."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rung.training.trackers import read_rows

MOST_PANELS, MOST_LINES = 9, 5


class _Family(NamedTuple):
    """The metrics that are drawn in the same panel: those whose names match the regular expression `names`.

    The label of a line is the text of the first group in the match or, without a group, the name of the metric.
    """

    title: str
    unit: str
    names: str
    bounds: tuple[float, float] | None = None
    band: tuple[str, ...] = ()  # a band around the first line: the metric of its half width, or those of its two edges


_FAMILIES = (
    _Family("loss", "", r"loss|eval_loss"),
    _Family("loss", "by term", r"loss/(.+)"),
    _Family("reward", "mean, and spread within groups", r"reward|reward/(unshaped)", band=("reward_std",)),
    _Family("rewards", "mean", r"rewards/(.+)/mean"),
    _Family("accuracy", "share of pairs", r"rewards/(accuracies)|accuracy", bounds=(0, 1)),
    _Family("rewards", "mean", r"rewards/(chosen|rejected|margins)|margin"),
    _Family("kl", "to the reference, nats a token", r"kl"),
    _Family("entropy", "nats a token", r"entropy|teacher_entropy"),
    _Family(
        "completions",
        "tokens: mean, shortest to longest",
        r"completions/(mean_length)",
        band=("completions/min_length", "completions/max_length"),
    ),
    _Family("explained_variance", "of the returns", r"explained_variance"),
    _Family("clip_ratio", "share of tokens", r"clip_ratio/(.+)_mean"),
    _Family("rollouts", "share", r"completions/(clipped_ratio)|frac_reward_zero_std"),
    _Family("logps", "nats a completion", r"logps/(.+)"),
    _Family("mean_token_accuracy", "share of tokens", r"mean_token_accuracy"),
)
_LAST = (_Family("grad_norm", "", r"grad_norm"), _Family("learning_rate", "", r"learning_rate"))
_NOT_DRAWN = re.compile(
    r"epoch|num_tokens|skipped_step|.*_std|kl/.+|completions/.+|filter/.+|rewards/.+/(std|abstained|errors|timeouts)"
)


@dataclass(frozen=True, slots=True)
class Line:
    """The values (n,) of a metric and the steps (n,) at which they were logged; a value that is not finite is NaN."""

    label: str
    steps: NDArray[np.float64]
    values: NDArray[np.float64]

    @property
    def first(self) -> float:
        """The first finite value."""
        return float(self.values[np.isfinite(self.values)][0])

    @property
    def last(self) -> float:
        """The last finite value."""
        return float(self.values[np.isfinite(self.values)][-1])

    @property
    def moves(self) -> bool:
        """Whether the metric has at least two different values."""
        finite = self.values[np.isfinite(self.values)]
        return len(finite) > 1 and float(np.ptp(finite)) > 0


@dataclass(frozen=True, slots=True)
class Panel:
    """A plot with one or several lines; `band` has the lower and the upper edge of a region around the first line."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    bounds: tuple[float, float] | None = None
    band: tuple[Line, Line] | None = None


@dataclass(frozen=True, slots=True)
class Curves:
    """The training curves of a stage: panels, and the values of the metrics that never changed (`still`)."""

    panels: tuple[Panel, ...]
    still: Mapping[str, float]


def read_metrics(file: Path) -> dict[str, Line]:
    """The metrics in a metrics.jsonl by name, in the order of their first appearance; empty if there is no file.

    A metric without a finite value is left out. Raises CheckpointError, naming the row, if a row cannot be read.
    """
    columns: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for row in read_rows(file):
        step = row["step"]
        for name, value in row.items():
            if name != "step" and (value is None or isinstance(value, int | float)):
                steps, values = columns[name]
                steps.append(step)
                values.append(np.nan if value is None else value)
    lines = {
        name: Line(name, np.array(steps, float), np.array(values, float)) for name, (steps, values) in columns.items()
    }
    return {name: line for name, line in lines.items() if np.isfinite(line.values).any()}


def choose(metrics: Mapping[str, Line]) -> Curves:
    """Chooses at most nine panels: first for known metrics, then for others, grouped by the first word of their names.

    A metric that never changes, or that equals another metric at every step, is not drawn; if there is only one step,
    all metrics are.
    """
    single = all(len(line.steps) == 1 for line in metrics.values())
    shown = dict(metrics) if single else _distinct(metrics)
    others = _others([name for name in shown if not _is_known(name)])
    panels = (_panel(family, shown, metrics) for family in (*_FAMILIES, *others, *_LAST))
    still = [name for name, line in metrics.items() if not (single or line.moves or _NOT_DRAWN.fullmatch(name))]
    drawn = tuple(panel for panel in panels if panel.lines)
    return Curves(drawn[:MOST_PANELS], {name: metrics[name].last for name in still})


def smoothed(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """The moving average (n,) of `values` (n,) over `window` values around each one, fewer at the ends, ignoring NaN.

    >>> smoothed(np.array([0.0, 3.0, np.nan, 6.0]), 3).tolist()
    [1.5, 1.5, 4.5, 6.0]
    """
    finite = np.isfinite(values)
    sums, counts = (np.concatenate([[0.0], np.cumsum(each)]) for each in (np.where(finite, values, 0), finite))
    places = np.arange(len(values))
    low, high = np.maximum(places - window // 2, 0), np.minimum(places + window // 2 + 1, len(values))
    with np.errstate(invalid="ignore"):
        return (sums[high] - sums[low]) / (counts[high] - counts[low])


def _panel(family: _Family, shown: Mapping[str, Line], metrics: Mapping[str, Line]) -> Panel:
    lines = []
    for name, line in shown.items():
        if match := re.fullmatch(family.names, name):
            label = next(filter(None, match.groups()), name)
            lines.append(replace(line, label=label))
    edges = [metrics[name] for name in family.band if name in metrics]
    band = _band(lines[0], edges) if lines and len(edges) == len(family.band) > 0 else None
    return Panel(family.title, family.unit, tuple(lines[:MOST_LINES]), family.bounds, band)


def _band(line: Line, edges: Sequence[Line]) -> tuple[Line, Line] | None:
    """The edges of a band: the two in `edges`, or, if there is only one, the line minus and plus this one.

    None if they were logged at other steps than the line.
    """
    if any(not np.array_equal(edge.steps, line.steps) for edge in edges):
        return None
    if len(edges) == 2:
        return edges[0], edges[1]
    low, high = line.values - edges[0].values, line.values + edges[0].values
    return replace(line, values=low), replace(line, values=high)


def _others(names: Sequence[str]) -> list[_Family]:
    """A family for each first word of `names`, which are those of metrics that belong to no other family."""
    words = dict.fromkeys(name.partition("/")[0] for name in names)
    return [_Family(word, "", rf"{re.escape(word)}(?:/(.+))?") for word in words]


def _is_known(name: str) -> bool:
    return any(re.fullmatch(family.names, name) for family in (*_FAMILIES, *_LAST)) or bool(_NOT_DRAWN.fullmatch(name))


def _distinct(metrics: Mapping[str, Line]) -> dict[str, Line]:
    """The metrics that change; if several are equal at every step, only the first of them."""
    kept: dict[str, Line] = {}
    for name, line in metrics.items():
        if line.moves and not any(_equal(line, other) for other in kept.values()):
            kept[name] = line
    return kept


def _equal(line: Line, other: Line) -> bool:
    return np.array_equal(line.steps, other.steps) and np.array_equal(line.values, other.values, equal_nan=True)
