"""What TRL-style rewards log with `log_extra` and `log_metric`, under names that the trainer does not use itself."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

from rung.reward.call import Reply
from rung.reward.outcome import shortened

PREFIX = "logged/"  # of a name that is taken
MAX_NAMES, MAX_NAME = 100, 100  # names that a stage logs, and characters of one
MAX_VALUES = 1_000_000  # values of a metric in a step
_COLUMNS = {
    *("prompt", "completion", "raw_completion", "finish_reason", "reward", "rewards", "row_id", "columns", "details"),
    "step",
}
_METRICS = {
    *("accuracy", "beta", "cispo_clip_ratio", "clip_ratio", "empty_step", "empty_steps", "entropy", "epoch"),
    *("eval_loss", "explained_variance", "frac_reward_zero_std", "grad_norm", "kl", "learning_rate"),
    *("log_odds_chosen", "log_odds_ratio", "loss", "margin", "mean_token_accuracy", "num_tokens", "ratio", "reward"),
    *("reward_std", "skipped_step", "step", "step_time", "tokens_per_second", "top_logp"),
}
_METRIC_FAMILIES = {
    *("clip_ratio", "completions", "filter", "kl", "logps", "loss", "off_policy_mask", "policy", "reward", "rewards"),
    *("sampling", "value"),
}


class Logs:
    """What the rewards log for a batch: `columns` have a value for each sample, `metrics` those of all calls."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {}
        self.metrics: dict[str, list[float]] = {}
        self._count = 0
        self._names: dict[tuple[str, str], str | None] = {}

    def start(self, count: int) -> None:
        """Starts a batch of `count` samples."""
        self.columns, self.metrics, self._count = {}, {}, count

    def add(self, label: str, rows: Sequence[int], reply: Reply) -> None:
        """Adds what a call for some samples has logged; a metric that is not finite is left out."""
        for name, values in reply.columns.items():
            if kept := self._kept(label, "log_extra", name, name in _COLUMNS):
                column = self.columns.setdefault(kept, [None] * self._count)
                for row, value in zip(rows, values, strict=False):
                    column[row] = value
        for name, values in reply.metrics.items():
            taken = name in _METRICS or name.partition("/")[0] in _METRIC_FAMILIES
            if kept := self._kept(label, "log_metric", name, taken):
                found = self.metrics.setdefault(kept, [])
                room = MAX_VALUES - len(found)
                found += [float(value) for value in values[:room] if math.isfinite(value) and abs(value) < 1e300]

    def _kept(self, label: str, hook: str, name: str, taken: bool) -> str | None:
        """The name under which something is logged; None if there are too many names. Tells each change once."""
        if (hook, name) not in self._names:
            if len(self._names) >= MAX_NAMES:
                if len(self._names) == MAX_NAMES:
                    self._names[hook, name] = None
                    _tell(f"reward `{label}` logs more than {MAX_NAMES} names: the others are left out")
                return None
            kept = shortened(name, MAX_NAME).replace("\n", " ")
            self._names[hook, name] = f"{PREFIX}{kept}" if taken else kept
            if taken:
                _tell(f"reward `{label}` logs `{kept}`, a name of the trainer: it is logged as `{PREFIX}{kept}`")
        return self._names[hook, name]


def _tell(line: str) -> None:
    print(f"warning: {line} (told once)", file=sys.stderr, flush=True)
