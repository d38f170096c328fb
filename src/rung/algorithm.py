"""What an algorithm is: a frozen config whose `loss` is a method. The engine knows nothing else about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from rung.batch import Batch, Loss, Outputs, Unit
from rung.metrics import Metrics

if TYPE_CHECKING:
    from rung.policy import Policy

Need = Literal[
    "text",
    "pairs",
    "unpaired",
    "prompts",
    "reference",
    "old_logps",
    "sampled_logps",
    "standardised_rewards",
    "values",
    "final",
    "teacher",
]
State = Mapping[str, float | int | list[float]]
Readout = Callable[[Tensor], Tensor]
TeacherReadout = Callable[[Tensor, Tensor], Tensor]


class Algorithm(BaseModel):
    """The base of every algorithm; a subclass sets the class variables and writes `loss`.

    `name`     the word in a config.
    `needs`    one kind of data (`text` to imitate, `pairs`, `unpaired` answers labelled good or bad, `prompts` to
               sample from; none: nothing is trained), and what `prepare` brings: `reference`, `old_logps`, `values`; or
               a head on the last token: `final`; or another model that the forward runs beside the policy: `teacher`;
               or of the sampler its own log-probs, `sampled_logps`, and of the rewards each by itself,
               `standardised_rewards`, both in `Batch.extras`.
    `terms`    the sums that `loss` returns and what each is divided by, counted over the whole optimizer step:
               `tokens`, `rows`, `groups`, a constant, or a function of the batch.
    `unit`     what a part may never cut: a `row`, or a `group` where the loss couples the rows of one.
    `group_size` how many answers a prompt of `pairs` must have; None where any number from two on will do.
    `least_batch_size` the fewest examples of a step that the loss makes sense of.
    `readouts` pure functions of a chunk of logits (n, V) -> (n,), run inside the forward, read from `Outputs.readouts`.
    `teacher_readouts` the same of the policy's logits and the teacher's, both (n, V); the latter have no gradient.
    `reads_logps` False where `loss` reads neither log-probs nor readouts: the LM head is then left out.
    `reads_rewards` False where sampled completions are trained on whatever they are worth: rewards are then optional,
               and are logged.

    Class defaults hold the objective of the paper. A variant is a subclass with other defaults and a name of its own.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset()
    terms: ClassVar[Mapping[str, Unit]] = {}
    unit: ClassVar[Literal["row", "group"]] = "row"
    group_size: ClassVar[int | None] = None
    least_batch_size: ClassVar[int] = 1
    readouts: ClassVar[Mapping[str, Readout]] = {}
    teacher_readouts: ClassVar[Mapping[str, TeacherReadout]] = {}
    reads_logps: ClassVar[bool] = True
    reads_rewards: ClassVar[bool] = True

    def requires(self) -> frozenset[Need]:
        """What this instance needs; override where a setting decides, such as a KL coefficient of 0."""
        return self.needs

    def units(self) -> Mapping[str, Unit]:
        """The denominators of this instance; override where a setting decides which terms there are."""
        return self.terms

    def reads(self) -> Mapping[str, Readout]:
        """The readouts of this instance; override where a setting decides which are worth their time."""
        return self.readouts

    def reads_with_teacher(self) -> Mapping[str, TeacherReadout]:
        """The teacher readouts of this instance; override where a setting decides which they are."""
        return self.teacher_readouts

    def makes_policy(self) -> bool:
        """Whether what is trained answers prompts; a model with a head on the last token judges answers instead."""
        return "final" not in self.requires()

    def idle_settings(self) -> Mapping[str, str]:
        """Settings that have no effect beside the others, each with why; to write one of them is an error."""
        return {}

    def refuse(self) -> None:
        """Raises ConfigError for settings that can be computed and that a stage is not to be trained with."""

    def samples_per_prompt(self) -> int:
        """How many completions the engine samples for a prompt."""
        return 1

    def generation_limit(self) -> int:
        """How many generation batches one rollout may take until enough groups are kept; 0 = no limit."""
        return 0

    def trains_on(self) -> Literal["assistant", "all"]:
        """Which tokens of a chat are trained: the assistant's turns or all."""
        return "assistant"

    def notes(self, updates_per_rollout: int) -> list[str]:
        """What a user should know of these settings before they are trained with, a sentence each."""
        return []

    def initial_state(self) -> State:
        """What `credit` carries from rollout to rollout (adaptive coefficients, baselines); JSON values."""
        return {}

    @torch.no_grad()
    def prepare(self, batch: Batch, policy: Policy) -> Batch:
        """No-grad outputs on the whole batch, made once before it is cut: what `requires` names, or more."""
        required = self.requires()
        if "reference" in required and batch.ref_logps is None:
            batch = replace(batch, ref_logps=policy.reference_logps(batch))
        if "old_logps" in required and batch.old_logps is None:
            batch = replace(batch, old_logps=policy.logps(batch))
        if "values" in required and batch.values is None:
            values, end_values = policy.values(batch)
            batch = replace(batch, values=values, end_values=end_values)
        return batch

    def keep(self, rollout: Batch) -> Tensor:
        """(groups,) bool: which groups of a rollout are worth training on; the others are drawn anew."""
        return torch.ones(rollout.num_groups, dtype=torch.bool)

    def credit(self, rollout: Batch, state: State) -> tuple[Batch, State]:
        """Rewards become advantages (N, T), on the whole rollout, before it is cut into updates."""
        return rollout, state

    def rollout_metrics(self, rollout: Batch, state: State) -> Metrics:
        """What a credited rollout of all ranks shows, told with its first update; `credit` was given `state`."""
        return {}

    def active(self, batch: Batch) -> Tensor:
        """(N,) bool: rows that can move the policy; the others count in the denominators and are not computed."""
        return torch.ones(batch.num_rows, dtype=torch.bool)

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The sums named in `units()` over one part of a step, and metrics."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing")
