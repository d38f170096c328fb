"""Signs in the metrics of a stage that it learns nothing, each with where to look.

They are computed from the logged metrics alone, so that a resumed run and the report find the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rung.training.trackers import read_rows

IN_A_ROW = 5  # rollouts, or steps without anything to train
STILL_STEPS, STILL = 20, 1e-4  # steps with a loss within this share of its mean
FALLING_STEPS, FALL = 50, 0.01  # steps after which the second half must be lower than the first by this share

EMPTY_STEPS, SKIPPED_STEPS = "filter/empty_steps", "skipped_steps"
CUT = "read completions.jsonl: raise `rollout.max_completion_length`, or see whether the model ends its answers"
HIGH, LOW = 0.75, 0.25  # mean rewards, on the usual scale from 0 to 1, from which prompts are too easy or too hard
TOO_EASY = "Use harder prompts or fewer SFT epochs"
TOO_HARD = "Use easier prompts, more SFT first, or a reward with partial credit; completions.jsonl has the answers"
EQUAL = "Use prompts that are answered well only sometimes; completions.jsonl has what was judged"
EMPTY = "see `rewards/NAME/abstained` and `errors`, and `completions/clipped_ratio`, in metrics.jsonl"
NOT_FINITE = "see `grad_norm` in metrics.jsonl; lower `learning_rate` or `max_grad_norm` if it goes on"
NO_EVAL_LOSS = "such an evaluation never counts as the best; see `loss` and `grad_norm` in metrics.jsonl"
FLAT = "see `grad_norm` and `learning_rate` in metrics.jsonl, and what the rows teach"

Values = Mapping[str, float | None]


class _Row(NamedTuple):
    """How often a sign was seen, how often in a row up to now, and the step at which that row began."""

    seen: int = 0
    length: int = 0
    begun: int = 0

    def after(self, present: bool, step: int) -> _Row:
        if not present:
            return self._replace(length=0)
        return _Row(self.seen + 1, self.length + 1, self.begun if self.length else step)


class Symptoms:
    """The symptoms of a stage of `total` steps, of which `observe` reports each kind once.

    `found` has them in words by kind.
    """

    def __init__(self, total: int):
        self.total = total
        self.found: dict[str, str] = {}
        self.rollouts = 0
        self.skipped = 0
        self._rows: dict[str, _Row] = {}
        self._losses: list[float] = []
        self._last_reward: float | None = None
        self._equal_rewards: list[float] = []  # the mean of each rollout in which they are equal

    def observe(self, step: int, seen: Values) -> list[str]:
        """Takes the metrics of a step; returns the symptoms that show for the first time."""
        new = {kind: words for kind, words in self._signs(step, seen) if kind not in self.found}
        self.found |= new
        return list(new.values())

    def summary(self) -> list[str]:
        """The symptoms in words, those of rollouts with the number of rollouts that show them."""
        found = dict(self.found)
        if "rewards" in found:
            found["rewards"] = f"{len(self._equal_rewards)} of {self.rollouts} rollouts: {_equal(self._equal_rewards)}"
        if "truncated" in found:
            found["truncated"] += f" ({self._rows['truncated'].seen} of {self.rollouts} rollouts)"
        if "skipped" in found:
            found["skipped"] += f" ({self.skipped} in all)"
        return list(found.values())

    def _signs(self, step: int, seen: Values) -> Iterator[tuple[str, str]]:
        if (skipped := seen.get(SKIPPED_STEPS)) is not None:
            self.skipped = int(skipped)
            words = f"step {step} is skipped, because its loss or gradient is not finite; the weights stay as they are"
            yield "skipped", f"{words}; {NOT_FINITE}"
        if "eval_loss" in seen and not _is_finite(seen["eval_loss"]):
            yield "eval_loss", f"step {step}: the loss on the held-out rows is not finite; {NO_EVAL_LOSS}"
        if "completions/clipped_ratio" in seen:
            self.rollouts += 1
            if since := self._in_a_row("truncated", seen["completions/clipped_ratio"] == 1, step):
                yield "truncated", f"steps {since} to {step}: every completion is cut off at the length limit; {CUT}"
        reward = seen.get("reward")
        if reward is not None:
            equal = seen.get("frac_reward_zero_std", float(reward == self._last_reward)) == 1
            self._last_reward = reward
            self._equal_rewards += [reward] if equal else []
            if since := self._in_a_row("rewards", equal, step):
                yield "rewards", f"steps {since} to {step}: {_equal(self._equal_rewards)}"
        if since := self._in_a_row("empty", EMPTY_STEPS in seen, step):
            yield "empty", f"steps {since} to {step}: nothing to train; {EMPTY}"
        elif EMPTY_STEPS not in seen and not self.rollouts:
            yield from self._loss(step, seen.get("loss"))

    def _in_a_row(self, kind: str, present: bool, step: int) -> int:
        """The step since which a sign has shown, if that is often enough in a row or from the first step to the last.

        0 otherwise.
        """
        row = self._rows[kind] = self._rows.get(kind, _Row()).after(present, step)
        always = step == self.total and row.begun == 1 and row.length > 1
        return row.begun if row.length >= IN_A_ROW or always else 0

    def _loss(self, step: int, loss: float | None) -> Iterator[tuple[str, str]]:
        if loss is None or not _is_finite(loss):  # metrics.jsonl has null in place of a number that is not finite
            return
        self._losses.append(loss)
        recent = self._losses[-STILL_STEPS:]
        if len(recent) == STILL_STEPS and max(recent) - min(recent) <= STILL * abs(sum(recent) / STILL_STEPS):
            yield "loss", f"steps {step - STILL_STEPS + 1} to {step}: the loss stays at {loss:.4g}; {FLAT}"
        count = len(self._losses)
        if count == FALLING_STEPS or (step == self.total and count > FALLING_STEPS):
            halves = self._losses[: count // 2], self._losses[count // 2 :]
            first, second = (sum(half) / len(half) for half in halves)
            if second > first - FALL * abs(first):
                yield "loss", f"steps 1 to {step}: the loss does not fall ({first:.4g}, then {second:.4g}); {FLAT}"


def _equal(rewards: Sequence[float]) -> str:
    """What equal rewards of all answers to each prompt tell, given their mean in each rollout, and what can be done."""
    mean = sum(rewards) / len(rewards)
    if mean in (0, 1):
        what = f"every answer had {'the full reward (1)' if mean else 'the reward 0'}, which teaches nothing"
    else:
        what = f"all answers to a prompt had the same reward ({mean:.4g} on average), which teaches nothing"
    return f"{what}. {TOO_EASY if HIGH <= mean <= 1 else TOO_HARD if 0 <= mean <= LOW else EQUAL}"


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def read_symptoms(file: Path, total: int | None = None) -> Symptoms:
    """The symptoms in a metrics.jsonl; without `total`, of a stage that ended with the last line."""
    rows = list(read_rows(file))
    symptoms = Symptoms(total if total is not None else int(rows[-1]["step"]) if rows else 0)
    for row in rows:
        symptoms.observe(int(row["step"]), row)
    return symptoms
