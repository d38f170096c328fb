"""Compares two evaluations of the same items, item by item."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict

from rung.errors import UserError
from rung.evaluation import statistics
from rung.evaluation.evaluate import BUILT_IN_GOALS, COUNTS_OF_TRAJECTORIES, Evaluation
from rung.reward.decorator import Goal

ALPHA = 0.05


class Comparison(BaseModel):
    """The change of a metric between two evaluations; a positive `gain` is an improvement, also if lower is better.

    `low`, `high` and `p` are the interval of the gain and its two-sided p-value. They, `gain` and `variance` are None
    if no item was scored in both evaluations. `variance` is that of the change of single items, from which
    `statistics.items_needed` computes how many items are needed to detect a given gain.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    goal: Goal
    n: int  # items scored in both evaluations
    unscored: int  # items excluded because they have no score in one of the evaluations
    clusters: int
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    gained: int = 0  # items that improved; for a 0/1 metric, from wrong to right
    lost: int = 0  # items that got worse
    moved: int = 0  # clusters whose score changed
    variance: float | None = None
    span: float = 1.0  # 1 for scores within [0, 1], else the observed range of scores

    @property
    def caveat(self) -> str:
        """A warning about the interval, as part of a sentence; empty if there is nothing to warn of."""
        unscored = f"{self.unscored} items without a score in one of the two are left out" if self.unscored else ""
        few = f"only {self.clusters} independent items, so the interval is too narrow"
        return "; ".join(filter(None, [unscored, few if self.clusters < statistics.FEW_CLUSTERS else ""]))


def compare(
    before: Evaluation, after: Evaluation, metric: str, goals: Mapping[str, Goal], *, level: float = 1 - ALPHA
) -> Comparison:
    """The paired change of one metric over the items that both evaluations scored.

    `goals` has the goal of each metric (see `RewardSet.goals`), by default `max`; `level` is the confidence level of
    the interval. The interval comes from the paired bootstrap over clusters; the p-value comes from the exact McNemar
    test for 0/1 scores of independent items, otherwise from the bootstrap. Raises UserError if the evaluations are not
    comparable or do not have the metric.
    """
    check_comparable(before, after)
    if metric not in before.metrics:
        known = ", ".join(before.metrics)
        raise UserError(f"metric `{metric}` was not evaluated", f"add it to `evaluate.metrics`, which has {known}")
    goal = goals.get(metric, BUILT_IN_GOALS.get(metric, "max"))
    kept = paired_scores(before, after, metric)
    clusters = [group for _, _, group in kept]
    counts = {"n": len(kept), "unscored": len(before.rows) - len(kept), "clusters": len(set(clusters))}
    if not kept:
        return Comparison(metric=metric, goal=goal, **counts)
    scores = np.array([[old, new] for old, new, _ in kept], dtype=float)
    old, new = scores.T * (1 if goal == "max" else -1)
    change, binary = new - old, statistics.is_binary(scores)
    gained, lost = int((change > 0).sum()), int((change < 0).sum())
    drawn = statistics.paired_bootstrap(old, new, clusters, level=level)
    return Comparison(
        metric=metric,
        goal=goal,
        **counts,
        gain=drawn.value,
        low=drawn.interval.low,
        high=drawn.interval.high,
        p=statistics.mcnemar(gained, lost) if binary and counts["clusters"] == len(kept) else drawn.p,
        moved=statistics.moved_clusters(change, clusters),
        gained=gained,
        lost=lost,
        variance=(gained + lost) / len(kept) if binary else float(change.var()),
        span=1.0 if scores.min() >= 0 and scores.max() <= 1 else float(np.ptp(scores)),
    )


def paired_scores(before: Evaluation, after: Evaluation, metric: str) -> list[tuple[float, float, str]]:
    """(score before, score after, group) of each item that has a score in both evaluations."""
    aligned = zip(before.rows, after.rows, strict=True)
    pairs = [(old.scores[metric], new.scores[metric], old.group) for old, new in aligned]
    return [(old, new, group) for old, new, group in pairs if old is not None and new is not None]


def is_share(metric: str, *evaluations: Evaluation) -> bool:
    """Whether all scores of a metric are between 0 and 1, so that it is shown in per cent and its change in points.

    The counts of calls and turns are never shares, even if no item has more than one.
    """
    if metric in COUNTS_OF_TRAJECTORIES:
        return False
    scores = (row.scores.get(metric) for evaluation in evaluations for row in evaluation.rows)
    return all(0 <= score <= 1 for score in scores if score is not None)


def pooled_ratio(runs: Iterable[tuple[Evaluation, Evaluation]], metric: str) -> statistics.Bootstrap | None:
    """The ratio of a metric after training to before, with a 95 % interval, pooled over runs (such as several seeds).

    Each run is a pair of evaluations, before and after. Items of one group are resampled together, in all runs that
    contain them. None if the metric is 0 before. Raises UserError if the evaluations of a run are not comparable.
    """
    kept: list[tuple[float, float, str]] = []
    for before, after in runs:
        check_comparable(before, after)
        kept += paired_scores(before, after, metric)
    if sum(old for old, _, _ in kept) <= 0:
        return None
    old, new, groups = zip(*kept, strict=True)
    return statistics.paired_ratio(old, new, groups)


def check_comparable(before: Evaluation, after: Evaluation) -> None:
    """Raises UserError, naming the differences, if the evaluations differ in their items or their setup."""
    if before.hash == after.hash:
        return
    names = before.measured.keys() | after.measured.keys()
    differ = sorted(name for name in names if before.measured.get(name) != after.measured.get(name))
    raise UserError(
        f"two evaluations are not comparable: they differ in {', '.join(differ) or 'their hash'}",
        "evaluate both on the same items with the same prompts, shots, decoding, seed and metrics",
    )
