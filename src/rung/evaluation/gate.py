"""Gates: they decide whether the model of a stage replaces the last accepted model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from rung.config.gate import GateConfig
from rung.evaluation import statistics
from rung.evaluation.comparison import ALPHA, Comparison, compare, is_share
from rung.reward.decorator import Goal

if TYPE_CHECKING:
    from rung.evaluation.evaluate import Evaluation

Outcome = Literal["promoted", "kept", "inconclusive"]
Verdict = Literal["holds", "broken", "open"]

# If none of n items got worse, the 95 % upper bound of the rate of such items is 3.7 / n (two-sided Clopper-Pearson).
ZERO_FAILURE_BOUND = 3.7
ZERO_FAILURE_ITEMS = 370
# The training reward may exceed the evaluation reward by at most this much, on the scale from 0 to 1.
MAX_REWARD_GAP = 0.10


@dataclass(frozen=True, slots=True)
class Limit:
    """A measurement of the training run, such as a reward's error rate; above `maximum` it prevents promotion."""

    name: str
    value: float
    maximum: float


class Decision(BaseModel):
    """The decision of a gate: its outcome, the reasons in words, and the comparisons on which it is based."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outcome: Outcome
    reasons: tuple[str, ...]
    gain: Comparison
    changes: tuple[Comparison, ...] = ()  # the comparisons of the guards, in their order
    items_needed: int | None = None  # the items for a decision, if `inconclusive` and if more items would help


class Unit(NamedTuple):
    """The unit in which changes of a metric are told: points for a share, else that of the metric itself."""

    name: str
    scale: float
    digits: int

    def change(self, value: float) -> str:
        """A change with its sign, without one if it rounds to 0.

        >>> POINTS.change(-0.0526), POINTS.change(0.0), PLAIN.change(1.5)
        ('-5.3', '0.0', '+1.5000')
        """
        rounded = round(self.scale * value, self.digits) + 0.0  # no -0.0
        return f"{rounded:{'+' if rounded else ''}.{self.digits}f}"

    def limit(self, value: float) -> str:
        """A limit from the config with its unit.

        >>> POINTS.limit(0.02), PLAIN.limit(0.5)
        ('2 points', '0.5')
        """
        return f"{round(self.scale * value, 6) + 0:g}{self.name}"


POINTS, PLAIN = Unit(" points", 100, 1), Unit("", 1, 4)


@dataclass(frozen=True, slots=True)
class _Check:
    verdict: Verdict
    reason: str
    items_needed: int | None = None


def decide(
    gate: GateConfig,
    before: Evaluation,
    after: Evaluation,
    goals: Mapping[str, Goal],
    limits: Sequence[Limit] = (),
) -> Decision:
    """Decides a gate: `promoted` if every check holds, `kept` (the previous model) if one is broken.

    Otherwise `inconclusive`: the items are too few to decide, which does not mean that the models are equal. `before`
    and `after` are evaluations of the previous and of the new model; `goals` has the goal of each metric. Checks
    compare the bounds of two-sided 95 % intervals of paired changes, which are positive for an improvement; a change
    counts as one only if `exact_p` is below 0.05 too. Raises UserError if the evaluations are not comparable or do not
    have a metric of the gate.
    """

    def change(metric: str) -> Comparison:
        return compare(before, after, metric, goals)

    gain, changes = change(gate.metric), tuple(change(guard.metric) for guard in gate.guards)
    units = {metric: unit_of(metric, before, after) for metric in gate.metrics}
    checks = [
        _check_gain(gain, gate.min_gain, units[gate.metric]),
        *(
            _check_guard(moved, guard.tolerance, units[guard.metric])
            for moved, guard in zip(changes, gate.guards, strict=True)
        ),
        *(_check_limit(limit) for limit in limits),
    ]
    verdicts = {check.verdict for check in checks}
    outcome = "kept" if "broken" in verdicts else "inconclusive" if "open" in verdicts else "promoted"
    needed = [check.items_needed for check in checks if check.verdict == "open" and check.items_needed]
    return Decision(
        outcome=outcome,
        reasons=tuple(check.reason for check in checks),
        gain=gain,
        changes=changes,
        items_needed=max(needed) if needed and outcome == "inconclusive" else None,
    )


def unit_of(metric: str, *evaluations: Evaluation) -> Unit:
    """The unit of the changes of a metric between evaluations."""
    return POINTS if is_share(metric, *evaluations) else PLAIN


def lower_bound(change: Comparison) -> float:
    """The lower bound of a change, as guards use it: if no item got worse, -3.7 / n times the range of the score.

    The bootstrap has no such bound, since it cannot draw a loss that did not occur. n is the number of clusters, not
    of items, because only clusters are independent.
    """
    assert change.low is not None
    return -ZERO_FAILURE_BOUND / change.clusters * change.span if change.lost == 0 else change.low


def is_shown(change: Comparison) -> bool:
    """Whether a two-sided test tells the change from none: the exact one for 0/1 scores of independent items."""
    return exact_p(change) < ALPHA


def exact_p(change: Comparison) -> float:
    """The p-value of a change, and at least that of the exact sign test if all clusters that moved went one way.

    Of a few clusters that moved, the bootstrap alone takes too much for certain.
    """
    assert change.p is not None
    return max(change.p, statistics.mcnemar(change.moved, 0))


def _check_gain(gain: Comparison, min_gain: float, unit: Unit) -> _Check:
    if gain.gain is None or gain.low is None or gain.high is None:
        return _Check("open", f"`{gain.metric}`: no item was scored for both models")
    shown, least = f"`{gain.metric}` changed by {_interval(gain, unit)}", unit.limit(min_gain)
    low = gain.low if min_gain >= 0 else lower_bound(gain)
    if low > min_gain and (min_gain < 0 or is_shown(gain)):
        return _Check("holds", f"{shown}: the lower bound is above {least}")
    if gain.high < min_gain and (min_gain > 0 or is_shown(gain)):
        return _Check("broken", f"{shown}: the upper bound is below {least}")
    if gain.low > min_gain or gain.high < min_gain:
        return _few_moved(gain, shown, gain.gain - min_gain)
    needed = statistics.items_needed(gain.variance or 0.0, gain.gain - min_gain)
    return _Check("open", f"{shown}: the interval holds {least}{_sizes(gain, needed)}", needed)


def _check_guard(change: Comparison, tolerance: float, unit: Unit) -> _Check:
    if change.gain is None or change.high is None:
        return _Check("open", f"guard `{change.metric}`: no item was scored for both models")
    low = lower_bound(change)
    shown = f"guard `{change.metric}` changed by {_interval(change, unit)}, tolerance {unit.limit(tolerance)}"
    if low > -tolerance or (tolerance == 0 and ((low == 0 and is_shown(change)) or _proves_no_loss(change))):
        return _Check("holds", f"{shown}: holds")
    if change.high < -tolerance and (tolerance > 0 or is_shown(change)):
        return _Check("broken", f"{shown}: broken, the upper bound is below {unit.limit(-tolerance)}")
    if change.high < -tolerance or (tolerance == 0 and low == 0):
        return _few_moved(change, f"{shown}: open", change.gain + tolerance)
    if change.lost == 0:
        needed = ZERO_FAILURE_ITEMS if tolerance == 0 else math.floor(ZERO_FAILURE_BOUND * change.span / tolerance) + 1
        reason = f"no item got worse, but {change.clusters} items do not prove it: about {needed} would"
        return _Check("open", f"{shown}: open, {reason}", needed)
    needed = statistics.items_needed(change.variance or 0.0, change.gain + tolerance)
    reason = f"the lower bound {unit.change(low)} is not above {unit.limit(-tolerance)}{_sizes(change, needed)}"
    return _Check("open", f"{shown}: open, {reason}", needed)


def _check_limit(limit: Limit) -> _Check:
    verdict = "broken" if limit.value > limit.maximum else "holds"
    return _Check(verdict, f"{limit.name} is {limit.value:.3g}, at most {limit.maximum:g}: {verdict}")


def _few_moved(change: Comparison, shown: str, distance: float) -> _Check:
    """An interval without the limit, of so few changes that chance explains them; `distance` is that to the limit."""
    needed = statistics.items_needed(change.variance or 0.0, distance)
    moved = f"{change.gained} better and {change.lost} worse give p = {exact_p(change):.3g}, not below {ALPHA:g}"
    return _Check("open", f"{shown}: {moved}{_sizes(change, needed)}", needed)


def _proves_no_loss(change: Comparison) -> bool:
    """Whether no item got worse, among enough items to satisfy a guard with a tolerance of 0."""
    return change.lost == 0 and change.clusters >= ZERO_FAILURE_ITEMS


def _interval(change: Comparison, unit: Unit) -> str:
    assert change.gain is not None
    assert change.low is not None
    assert change.high is not None
    caveat = f" ({change.caveat})" if change.caveat else ""
    return f"{unit.change(change.gain)}{unit.name} [{unit.change(change.low)}, {unit.change(change.high)}]{caveat}"


def _sizes(change: Comparison, needed: int | None) -> str:
    """The number of items needed, in words, to be added to a sentence."""
    if not change.variance:
        return "; no item moved apart from the rest"
    return f"; about {needed} items would settle it" if needed else "; no number of items would settle it"
