"""What a batch of completions was worth, row by row, and as metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rung.reward.outcome import Outcome

if TYPE_CHECKING:
    from rung.metrics import Mean, Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Totals a row (None = unscored; `task_totals` before shaping and clip), and each reward's outcomes by label.

    `columns` and `logged` hold what functions in TRL's manner wrote with `log_extra` (a value a row) and `log_metric`.
    """

    totals: list[float | None]
    task_totals: list[float | None]
    by_reward: Mapping[str, Sequence[Outcome]]
    groups: Sequence[int]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    logged: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def metrics(self) -> dict[str, Metric]:
        """TRL's names, and the rates of abstentions, errors and timeouts; unscored rows are left out of every mean.

        A std is the spread within a group (Bessel-corrected), averaged over the groups with two scored rows or more.
        """
        from rung.metrics import Mean

        task_spreads = self._spreads(self.task_totals)
        found: dict[str, Metric] = {
            "reward": _mean(self.totals),
            "reward_std": _mean(self._spreads(self.totals)),
            "reward/unshaped": _mean(self.task_totals),
            "frac_reward_zero_std": Mean(sum(spread == 0 for spread in task_spreads), len(task_spreads)),
        }
        for label, outcomes in self.by_reward.items():
            values = [outcome.value for outcome in outcomes]
            kinds = [outcome.kind for outcome in outcomes]
            found[f"rewards/{label}/mean"] = _mean(values)
            found[f"rewards/{label}/std"] = _mean(self._spreads(values))
            for name, kind in (("abstained", "abstained"), ("errors", "error"), ("timeouts", "timeout")):
                found[f"rewards/{label}/{name}"] = Mean(kinds.count(kind), len(kinds))
        return found | {name: _mean(values) for name, values in self.logged.items()}

    def _spreads(self, values: Sequence[float | None]) -> list[float]:
        groups: dict[int, list[float]] = {}
        for group, value in zip(self.groups, values, strict=True):
            if value is not None:
                groups.setdefault(group, []).append(value)
        return [_spread(members) for members in groups.values() if len(members) > 1]


def _spread(values: Sequence[float]) -> float:
    if min(values) == max(values):
        return 0.0  # exactly: the mean of equal floats may miss them by a rounding
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _mean(values: Iterable[float | None]) -> Mean:
    from rung.metrics import Mean

    scored = [value for value in values if value is not None]
    return Mean(sum(scored), len(scored))
