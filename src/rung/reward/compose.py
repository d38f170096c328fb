"""Combines the outcomes of a row into one number, in this order: failures, gates, weighted sum, shaping, clip."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rung.reward.binding import Reward
from rung.reward.outcome import Outcome
from rung.reward.spec import RewardPolicy

Outcomes = Mapping[str, Sequence[Outcome]]
Totals = list[float | None]


def compose(
    rewards: Sequence[Reward], outcomes: Outcomes, groups: Sequence[int], policy: RewardPolicy
) -> tuple[Totals, Totals]:
    """The total and the task total (the sum before shaping and clip) of each row; None for a row that is unscored.

    `outcomes` (by label) and `groups` have one entry per row. A row is unscored if a credited reward failed (unless
    `on_error` is `abstain`) or if all rewards with the role `reward` abstained; without rewards, all rows are unscored.
    A row that fails a gate gets the `fail_value` of this gate and nothing else. If a reward abstains on a row that is
    scored, the mean of its scores in the group is used, so that the row has neither advantage nor disadvantage; if it
    abstains on the whole group, 0.
    """
    rows = range(len(groups))
    credited = [reward for reward in rewards if reward.credited]
    gates, summed, shapers = ([r for r in credited if r.role == role] for role in ("gate", "reward", "shaping"))
    failed = _failed_gates(gates, outcomes, rows)
    judged = summed or not rewards  # with shaping rewards only, their sum is the score
    abstained = {row for row in rows if judged and all(outcomes[r.label][row].value is None for r in summed)}
    unscored = abstained - failed.keys()
    if policy.on_error != "abstain":
        unscored |= {row for reward in credited for row in rows if outcomes[reward.label][row].failed}
    remaining = [row for row in rows if row not in unscored and row not in failed]
    task = _weighted(summed, outcomes, groups, remaining)
    shaping = _weighted(shapers, outcomes, groups, remaining)
    task_totals = task | failed
    totals = {row: _clipped(value + shaping.get(row, 0.0), policy.clip) for row, value in task_totals.items()}
    return (
        [None if row in unscored else totals[row] for row in rows],
        [None if row in unscored else task_totals[row] for row in rows],
    )


def _failed_gates(gates: Sequence[Reward], outcomes: Outcomes, rows: Collection[int]) -> dict[int, float]:
    """The rows that fail a gate, each with the `fail_value` of the first gate it fails.

    A row on which a gate has no score passes this gate.
    """
    failed: dict[int, float] = {}
    for gate in gates:
        for row in rows:
            value = outcomes[gate.label][row].value
            if value is not None and not gate.passes(value):
                failed.setdefault(row, gate.spec.fail_value)
    return failed


def _weighted(
    rewards: Sequence[Reward], outcomes: Outcomes, groups: Sequence[int], rows: Sequence[int]
) -> dict[int, float]:
    totals = dict.fromkeys(rows, 0.0)
    for reward in rewards:
        values = {row: outcomes[reward.label][row].value for row in rows}
        scored: dict[int, list[float]] = {}
        for row, value in values.items():
            if value is not None:
                scored.setdefault(groups[row], []).append(value)
        for row, value in values.items():
            peers = scored.get(groups[row], [])
            if value is None:
                value = sum(peers) / len(peers) if peers else 0.0
            totals[row] += reward.spec.weight * value
    return totals


def _clipped(total: float, clip: tuple[float, float] | None) -> float:
    return total if clip is None else min(max(total, clip[0]), clip[1])
