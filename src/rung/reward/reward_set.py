"""All rewards of a stage: they are checked against the data, and score completions unless one fails too often."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rung.errors import RewardError
from rung.reward.binding import Reward, RewardSource, bind
from rung.reward.call import Reply
from rung.reward.caller import Caller
from rung.reward.compose import compose
from rung.reward.decorator import Goal, declaration
from rung.reward.failures import FailureWatch
from rung.reward.logs import Logs
from rung.reward.outcome import MAX_SCORE, Outcome, judged, judged_many
from rung.reward.sample import Sample, text_of
from rung.reward.scores import Scores
from rung.reward.spec import RewardPolicy
from rung.reward.trainer_state import TrainerState, trainer_state

MAX_COMPLETION_CHARACTERS = 1_000_000
ENVIRONMENT_REWARD = "environment_reward"  # in `rung.rewards`


class RewardSet:
    """The rewards of a stage, or the metrics of an evaluation, which are functions of the same form.

    Each of `specs` is a name, a config entry or a function. A reward that is named and has a deadline runs in a worker
    process, which is ended at the deadline. Rewards of `rung.rewards` and functions that a Python program passes run in
    this process. With `trajectories`, functions can read the fields of trajectories. Call `close`, or use a `with`
    block, to end the worker processes.

    Raises RewardError or ConfigError for an unknown reward or setting, a value of a wrong type, or a duplicate label.
    """

    def __init__(
        self,
        specs: Iterable[RewardSource],
        policy: RewardPolicy | None = None,
        base: Path | None = None,
        *,
        trajectories: bool = False,
    ):
        self.policy = policy or RewardPolicy()
        self.rewards = [bind(spec, self.policy, base, trajectories=trajectories) for spec in specs]
        labels = [reward.label for reward in self.rewards]
        for label in labels:
            if labels.count(label) > 1:
                raise RewardError(f"two rewards are called `{label}`", "give one of them a `label`")
        self._failures = FailureWatch(labels, self.policy)
        self._logs = Logs()
        self._caller = Caller(self.rewards)

    @property
    def goals(self) -> dict[str, Goal]:
        """The goal of each reward by label: `max` if higher is better, `min` if lower is better."""
        return {reward.label: reward.goal for reward in self.rewards}

    @property
    def weights(self) -> dict[str, float]:
        """The weights, by label, of the rewards that are summed: those that are credited and are not gates."""
        summed = (reward for reward in self.rewards if reward.credited and reward.role != "gate")
        return {reward.label: reward.spec.weight for reward in summed}

    @property
    def environment_weight(self) -> float:
        """The weight of the reward that environments give, of which the rewards of turns are a part; 0 if unused."""
        named = (reward for reward in self.rewards if reward.spec.name == ENVIRONMENT_REWARD)
        return sum(self.weights.get(reward.label, 0.0) for reward in named)

    def named_columns(self) -> list[str]:
        """The columns of the data that parameters of the rewards name, each once."""
        return list(dict.fromkeys(column for reward in self.rewards for column in reward.named_columns()))

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

    def check(self, columns: Collection[str], renamed: Mapping[str, str] | None = None) -> None:
        """Raises RewardError if the data lack a column that a reward requires; to be called before computation.

        `renamed` has the columns that are read under another name, and that name.
        """
        for reward in self.rewards:
            reward.check(columns, renamed or {})

    def columns_read(self, columns: Collection[str]) -> set[str]:
        """Those of the data's columns that at least one reward is given."""
        return {name for reward in self.rewards for name in reward.columns_read(columns)}

    def check_policy(self, tokenizer: Any) -> None:
        """Raises UserError if a reward cannot judge a policy with this tokenizer; to be called before computation."""
        for reward in self.rewards:
            check = declaration(reward.function).check
            if check is not None:
                check(reward.settings, tokenizer)

    def score(
        self, samples: Sequence[Sample], *, step: int = 0, max_steps: int = 0, steps_per_epoch: float = 0.0
    ) -> Scores:
        """Scores the samples with all rewards, which can read the progress of training as `trainer_state`.

        Raises RewardError if a credited reward failed on more than half of its first batch, or on a share of its last
        1,000 calls above `max_error_rate`; with `on_error: raise`, at the first failure.
        """
        self._logs.start(len(samples))
        state = trainer_state(step, max_steps, steps_per_epoch)
        by_reward: dict[str, list[Outcome]] = {}
        for reward in self.rewards:
            outcomes, calls = self._outcomes(reward, samples, state)
            by_reward[reward.label] = outcomes
            if reward.credited:
                self._failures.check(reward.label, outcomes, samples, calls)
        for label, outcomes in by_reward.items():
            self._failures.tell(label, outcomes, samples)
        groups = [sample.group for sample in samples]
        totals, task_totals = compose(self.rewards, by_reward, groups, self.policy)
        _check_size(totals + task_totals)
        return Scores(
            totals=totals,
            task_totals=task_totals,
            by_reward=by_reward,
            groups=groups,
            columns=self._logs.columns,
            logged=self._logs.metrics,
        )

    def state_dict(self) -> dict[str, Any]:
        """Which of the recent calls of each reward failed, as JSON values."""
        return self._failures.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""
        self._failures.load_state_dict(state)

    def close(self) -> None:
        """Ends the worker processes; the next call of a reward with a timeout starts new ones."""
        self._caller.close()

    def __enter__(self) -> RewardSet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _outcomes(
        self, reward: Reward, samples: Sequence[Sample], state: TrainerState
    ) -> tuple[list[Outcome], list[list[int]]]:
        """The outcome of each sample, and the samples that were judged in the same call."""
        outcomes = [_not_judged(sample) for sample in samples]
        rows = [i for i, outcome in enumerate(outcomes) if outcome is None]
        calls = reward.batches(samples, rows)
        many = [reward.arguments([samples[i] for i in call]) for call in calls]
        replies = self._caller.replies(reward, many, state)
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, Reply):
                self._logs.add(reward.label, call, reply)
            for row, outcome in zip(call, _judged(reward, reply, len(call)), strict=True):
                outcomes[row] = outcome
        judged_rows = set(rows)
        given = [outcome for outcome in outcomes if outcome is not None]
        assert len(given) == len(samples), "every sample has an outcome"
        return given, [*calls, *([row] for row in range(len(samples)) if row not in judged_rows)]


def _not_judged(sample: Sample) -> Outcome | None:
    """The outcome of a sample that no reward is asked about: its tools failed, or it is too long; None for others."""
    if sample.trajectory is not None and sample.trajectory.failure:
        return Outcome("abstained", note=sample.trajectory.failure)
    if len(text_of(sample.completion)) > MAX_COMPLETION_CHARACTERS:
        return Outcome("error", note=f"the completion has more than {MAX_COMPLETION_CHARACTERS:,} characters")
    return None


def _check_size(totals: Sequence[float | None]) -> None:
    """Raises RewardError if weights make the total of a row larger than a score may be."""
    largest = max((abs(total) for total in totals if total is not None), default=0.0)
    if not largest <= MAX_SCORE:
        what = f"the weighted rewards of a row add up to {largest:g}, but float32 holds its square up to {MAX_SCORE:g}"
        raise RewardError(what, "lower the weights, or set `reward_policy.clip`")


def _judged(reward: Reward, reply: Reply | Outcome, count: int) -> list[Outcome]:
    if isinstance(reply, Outcome):
        return [reply] * count
    if reward.signature.style == "sample":
        return [judged(reply.returned, reward.range)]
    return judged_many(reply.returned, count, reward.range)
