"""The scores that the rewards give to a batch of completions, by row and as metrics."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rung.reward.outcome import Outcome

if TYPE_CHECKING:
    from rung.metrics import Mean, Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The scores of a batch: the total of each row, and the outcome of each reward for each row (by label).

    A total is None if the row is unscored; `task_totals` are the totals before shaping and clip. `columns` and `logged`
    are what TRL-style functions logged with `log_extra` (one value per row) and with `log_metric`.
    """

    totals: list[float | None]
    task_totals: list[float | None]
    by_reward: Mapping[str, Sequence[Outcome]]
    groups: Sequence[int]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    logged: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def details(self, row: int) -> dict[str, dict[str, Any]]:
        """What the rewards tell of a row beside their values, by label: parts, note and cost, or how they failed."""
        told = {label: outcomes[row].described() for label, outcomes in self.by_reward.items()}
        return {label: each for label, each in told.items() if each}

    def metrics(self) -> dict[str, Metric]:
        """TRL's reward metrics, and the rates of abstentions, errors and timeouts; unscored rows are left out of means.

        Verdicts add the mean of each part that is a number, and the sum of their costs.

        A `std` is the standard deviation within a group (Bessel-corrected), averaged over groups with at least two
        scored rows.
        """
        from rung.metrics import Mean

        task_stds = self._group_stds(self.task_totals)
        found: dict[str, Metric] = {
            "reward": _mean(self.totals),
            "reward_std": _mean(self._group_stds(self.totals)),
            "reward/unshaped": _mean(self.task_totals),
            "frac_reward_zero_std": Mean(sum(std == 0 for std in task_stds), len(task_stds)),
        }
        for label, outcomes in self.by_reward.items():
            values = [outcome.value for outcome in outcomes]
            kinds = [outcome.kind for outcome in outcomes]
            found[f"rewards/{label}/mean"] = _mean(values)
            found[f"rewards/{label}/std"] = _mean(self._group_stds(values))
            for name, kind in (("abstained", "abstained"), ("errors", "error"), ("timeouts", "timeout")):
                found[f"rewards/{label}/{name}"] = Mean(kinds.count(kind), len(kinds))
            found |= _verdict_metrics(label, outcomes)
        return found | {name: _mean(values) for name, values in self.logged.items()}

    def _group_stds(self, values: Sequence[float | None]) -> list[float]:
        groups: dict[int, list[float]] = {}
        for group, value in zip(self.groups, values, strict=True):
            if value is not None:
                groups.setdefault(group, []).append(value)
        return [_std(members) for members in groups.values() if len(members) > 1]


def _verdict_metrics(label: str, outcomes: Sequence[Outcome]) -> dict[str, Metric]:
    from rung.metrics import Sum

    told = [outcome.described() for outcome in outcomes]
    numbers: dict[str, list[float | None]] = {}
    for parts in (each.get("parts", {}) for each in told):
        for name, value in parts.items():
            if isinstance(value, int | float):
                numbers.setdefault(f"rewards/{label}/parts/{name}", []).append(float(value))
    costs = [outcome.cost for outcome in outcomes if outcome.cost]
    return {
        **{name: _mean(values) for name, values in numbers.items()},
        **({f"rewards/{label}/cost": Sum(float(sum(costs)))} if costs else {}),
    }


def _std(values: Sequence[float]) -> float:
    stored = array("f", values)  # as in a `Batch`, so that a group counts as constant exactly if no advantage varies
    if min(stored) == max(stored):
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _mean(values: Iterable[float | None]) -> Mean:
    from rung.metrics import Mean

    scored = [value for value in values if value is not None]
    return Mean(sum(scored), len(scored))
