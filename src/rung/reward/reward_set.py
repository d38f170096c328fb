"""All rewards of a stage: they are checked against the data, and score completions unless one fails too often."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rung.errors import RewardError
from rung.reward.binding import Reward, RewardSource, bind
from rung.reward.call import Reply, call, call_all_async, is_async
from rung.reward.compose import compose
from rung.reward.decorator import Goal, declaration
from rung.reward.outcome import Outcome, judged, judged_many
from rung.reward.sample import Sample, text_of
from rung.reward.scores import Scores
from rung.reward.spec import RewardPolicy
from rung.reward.worker import Worker

MAX_COMPLETION_CHARACTERS = 1_000_000
WINDOW, MIN_CALLS = 1000, 50  # the failure rate is that of the last 1000 calls, and is ignored for fewer than 50


class RewardSet:
    """The rewards of a stage, or the metrics of an evaluation, which are functions of the same form.

    Each of `specs` is a name, a config entry or a function. A reward with a timeout runs in a worker process that is
    killed at the deadline (an `async` one only has its call cancelled); other rewards run in this process. Call
    `close`, or use a `with` block, to end the worker process. Raises RewardError or ConfigError for an unknown reward
    or setting, a value of a wrong type, or a duplicate label.
    """

    def __init__(self, specs: Iterable[RewardSource], policy: RewardPolicy | None = None, base: Path | None = None):
        self.policy = policy or RewardPolicy()
        self.rewards = [bind(spec, self.policy, base) for spec in specs]
        labels = [reward.label for reward in self.rewards]
        for label in labels:
            if labels.count(label) > 1:
                raise RewardError(f"two rewards are called `{label}`", "give one of them a `label`")
        self._failures = {label: deque[bool](maxlen=WINDOW) for label in labels}
        self._worker = Worker()

    @property
    def goals(self) -> dict[str, Goal]:
        """The goal of each reward by label: `max` if higher is better, `min` if lower is better."""
        return {reward.label: reward.goal for reward in self.rewards}

    @property
    def weights(self) -> dict[str, float]:
        """The weights, by label, of the rewards that are summed: those that are credited and are not gates."""
        summed = (reward for reward in self.rewards if reward.credited and reward.role != "gate")
        return {reward.label: reward.spec.weight for reward in summed}

    def check_separate(self) -> None:
        """Raises RewardError if the rewards cannot be normalised one by one within a group before they are summed."""
        gates = [reward.label for reward in self.rewards if reward.role == "gate"]
        if gates:
            what = f"the gate `{gates[0]}` sets the sum of rewards, but `normalize_then_sum` normalises each separately"
            raise RewardError(what, "set `role: reward`, or use `sum_then_normalize`")
        if self.policy.clip is not None:
            what = "`reward_policy.clip` limits the sum of rewards, but `normalize_then_sum` normalises each separately"
            raise RewardError(what, "leave it out, or use `sum_then_normalize`")
        if len(self.weights) < 2:
            what = f"`normalize_then_sum` needs at least two rewards, but there is only one: {', '.join(self.weights)}"
            raise RewardError(what, "add another, or use `sum_then_normalize`")

    def check(self, columns: Collection[str]) -> None:
        """Raises RewardError if the data lack a column that a reward requires; to be called before computation."""
        for reward in self.rewards:
            reward.check(columns)

    def check_policy(self, tokenizer: Any) -> None:
        """Raises UserError if a reward cannot judge a policy with this tokenizer; to be called before computation."""
        for reward in self.rewards:
            check = declaration(reward.function).check
            if check is not None:
                check(reward.settings, tokenizer)

    def score(self, samples: Sequence[Sample], *, step: int = 0) -> Scores:
        """Scores the samples with all rewards; `step` is what TRL-style rewards read as `trainer_state.global_step`.

        Raises RewardError if a credited reward failed on more than half of its first batch, or on a share of its last
        1,000 calls above `max_error_rate`; with `on_error: raise`, at the first failure.
        """
        columns: dict[str, list[Any]] = {}
        logged: dict[str, list[float]] = {}
        by_reward = {reward.label: self._outcomes(reward, samples, step, columns, logged) for reward in self.rewards}
        for reward in self.rewards:
            if reward.credited:
                self._check_failures(reward, by_reward[reward.label], samples)
        groups = [sample.group for sample in samples]
        totals, task_totals = compose(self.rewards, by_reward, groups, self.policy)
        return Scores(
            totals=totals,
            task_totals=task_totals,
            by_reward=by_reward,
            groups=groups,
            columns=columns,
            logged=logged,
        )

    def state_dict(self) -> dict[str, Any]:
        """Which of the recent calls of each reward failed, as JSON values."""
        return {label: "".join("x" if failed else "." for failed in calls) for label, calls in self._failures.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""
        for label, calls in self._failures.items():
            calls.clear()
            calls.extend(mark == "x" for mark in state.get(label, ""))

    def close(self) -> None:
        """Ends the worker process; the next call of a reward with a timeout starts a new one."""
        self._worker.close()

    def __enter__(self) -> RewardSet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _outcomes(
        self,
        reward: Reward,
        samples: Sequence[Sample],
        step: int,
        columns: dict[str, list[Any]],
        logged: dict[str, list[float]],
    ) -> list[Outcome]:
        too_long = Outcome("error", note=f"the completion has more than {MAX_COMPLETION_CHARACTERS:,} characters")
        outcomes = [too_long] * len(samples)
        rows = [i for i, sample in enumerate(samples) if len(text_of(sample.completion)) <= MAX_COMPLETION_CHARACTERS]
        batches = reward.batches(samples, rows)
        replies = self._replies(reward, [reward.arguments([samples[i] for i in batch]) for batch in batches], step)
        for batch, reply in zip(batches, replies, strict=True):
            if isinstance(reply, Reply):
                for name, values in reply.columns.items():
                    column = columns.setdefault(name, [None] * len(samples))
                    for row, value in zip(batch, values, strict=False):
                        column[row] = value
                for name, numbers in reply.metrics.items():
                    logged.setdefault(name, []).extend(numbers)
            for row, outcome in zip(batch, _judged(reward, reply, len(batch)), strict=True):
                outcomes[row] = outcome
        return outcomes

    def _replies(self, reward: Reward, many: Sequence[dict[str, Any]], step: int) -> Iterable[Reply | Outcome]:
        hooks = reward.signature.hooks
        if reward.address is None:
            full = [{**arguments, **reward.settings} for arguments in many]
            if is_async(reward.function):
                return call_all_async(reward.function, hooks, full, step, reward.timeout)
            return [call(reward.function, hooks, arguments, step) for arguments in full]
        assert reward.timeout is not None, "a reward in a worker has a timeout"
        try:
            json.dumps(many)
        except (TypeError, ValueError) as error:
            what = f"reward `{reward.label}` runs in a worker process, but an argument cannot be sent as JSON: {error}"
            raise RewardError(what, "store the column as text or numbers, or remove the reward's timeout") from None
        return [self._worker.call(reward.label, reward.address, each, step, reward.timeout) for each in many]

    def _check_failures(self, reward: Reward, outcomes: Sequence[Outcome], samples: Sequence[Sample]) -> None:
        calls, limit = self._failures[reward.label], self.policy.max_error_rate
        failed = [row for row, outcome in enumerate(outcomes) if outcome.failed]
        mostly_at_first = not calls and len(failed) > max(limit, 0.5) * len(outcomes)
        calls.extend(outcome.failed for outcome in outcomes)
        too_often = len(calls) >= MIN_CALLS and sum(calls) > limit * len(calls)
        if not (mostly_at_first or too_often or (failed and self.policy.on_error == "raise")):
            return
        example = max((outcomes[row] for row in failed), key=lambda outcome: outcome.kind == "error", default=None)
        rows = ", ".join(samples[row].row_id for row in failed[:5])
        what = f"reward `{reward.label}` failed on {sum(calls)} of its last {len(calls)} calls (rows {rows})"
        reason = f": {example.note}" if example else ""
        ends_at_once = self.policy.on_error == "raise"
        bears = "set `on_error: drop_row`" if ends_at_once else "raise `max_error_rate` or its timeout"
        raise RewardError(what + reason, f"fix the reward, or {bears} (in `reward_policy`)")


def _judged(reward: Reward, reply: Reply | Outcome, count: int) -> list[Outcome]:
    if isinstance(reply, Outcome):
        return [reply] * count
    if reward.signature.style == "sample":
        return [judged(reply.returned, reward.range)]
    return judged_many(reply.returned, count, reward.range)
