"""Metrics of trajectories: turns, calls by tool, loops, limits, and the share of tokens that are answers."""

from __future__ import annotations

from collections.abc import Sequence

from rung.batch import Completion
from rung.metrics import Mean, Metric
from rung.reward.trajectory import CallRecord, Trajectory

LIMITS = ("length", "answer_length", "turns")  # ways in which a limit ends a row


def trajectory_metrics(completions: Sequence[Completion], trajectories: Sequence[Trajectory]) -> dict[str, Metric]:
    """The metrics of a rollout with tools; `tools/call_frequency` and `tools/failure_frequency` are TRL's."""
    rows = len(completions)
    calls = [call for one in trajectories for call in one.calls]
    tokens = sum(len(one.ids) for one in completions)
    ended = [one.finish_reason for one in completions]
    found: dict[str, Metric] = {
        "turns/mean": Mean(float(sum(one.turns for one in trajectories)), rows),
        "turns/limit_ratio": Mean(float(sum(reason in LIMITS for reason in ended)), rows),
        "tokens/world_ratio": Mean(float(tokens - sum(sum(one.trained) for one in completions)), tokens),
        **_of_calls("tools", calls, rows),
        "tools/unscored_ratio": Mean(float(sum(bool(one.failure) for one in trajectories)), rows),
    }
    for name in sorted({call.name for call in calls if call.kind == "known"}):
        found |= _of_calls(f"tools/{name}", [call for call in calls if call.name == name], rows)
    return found


def _of_calls(prefix: str, calls: Sequence[CallRecord], rows: int) -> dict[str, Metric]:
    def share(chosen: Sequence[bool]) -> Mean:
        return Mean(float(sum(chosen)), len(calls))

    found: dict[str, Metric] = {
        f"{prefix}/call_frequency": Mean(float(len(calls)), rows),
        f"{prefix}/failure_frequency": share([call.status != "ok" for call in calls]),
        f"{prefix}/repeated_frequency": share([call.repeated for call in calls]),
    }
    if prefix == "tools":
        found[f"{prefix}/unknown_frequency"] = share([call.kind != "known" for call in calls])
    return found
