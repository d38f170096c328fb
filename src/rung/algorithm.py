"""What an algorithm is: a frozen config whose `loss` is a method. The engine knows nothing else about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from rung.batch import Batch, Denominator, Loss, Outputs, Readout, TeacherReadout
from rung.metrics import Metrics

if TYPE_CHECKING:
    from rung.distributed.ranks import Ranks

DataKind = Literal["text", "pairs", "unpaired", "prompts"]
Need = Literal[
    "reference", "old_logps", "sampled_logps", "separate_rewards", "values", "score_head", "teacher"
]  # fmt: skip
State = Mapping[str, float | int | list[float]]

HOOKS = frozenset({"data_kind", "needs", "terms", "readouts", "teacher_readouts", "unused_settings", "trains_on"})
RENAMED_HOOKS = {
    "requires": "needs",
    "units": "terms",
    "unit": "keep_together",
    "reads": "readouts",
    "reads_with_teacher": "teacher_readouts",
    "idle_settings": "unused_settings",
    "refuse": "check_settings",
    "keep": "keep_groups",
    "active": "active_rows",
}


class ForwardPasses(Protocol):
    """What `prepare` may ask of the policy: outputs without a gradient, all (N, T) unless told otherwise."""

    @property
    def ranks(self) -> Ranks:
        """The processes that prepare their shares of the same step."""
        ...

    def logps(self, batch: Batch) -> Tensor:
        """Log-probs under the live weights, in nats; 0 where nothing is trained."""
        ...

    def reference_logps(self, batch: Batch) -> Tensor:
        """Log-probs under the reference, in nats; 0 where nothing is trained."""
        ...

    def readout(self, batch: Batch, readout: Readout) -> Tensor:
        """A readout of the live weights' logits; 0 where nothing is trained."""
        ...

    def values(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Values of the state before each trained token (N, T), and of the state after the last attended one (N,)."""
        ...


class Algorithm(BaseModel):
    """The base of every algorithm: a subclass sets `name` and writes `data_kind`, `terms` and `loss`.

    `name`             the word in a config.
    `keep_together`    what a part of a step never cuts: a `row`, or a `group` where the loss couples the rows of one.
    `group_size`       how many answers a prompt of `pairs` must have; None allows any number from two on.
    `least_batch_size` the fewest examples of a step for which the loss is defined.
    `reads_logps`      False where `loss` reads neither log-probs nor readouts: the LM head is then not computed.
    `reads_rewards`    False where sampled completions are trained on whatever their reward: rewards are then optional,
                       and only logged.

    Class defaults hold the objective of the paper. A variant is a subclass with other defaults and a name of its own.
    A hook is a method, so that a setting may decide what it returns.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    name: ClassVar[str]
    keep_together: ClassVar[Literal["row", "group"]] = "row"
    group_size: ClassVar[int | None] = None
    least_batch_size: ClassVar[int] = 1
    reads_logps: ClassVar[bool] = True
    reads_rewards: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:
        """Raises TypeError for a hook that is no method, or has the name that it had in an earlier version."""
        super().__init_subclass__(**options)
        own = vars(cls)
        for old, new in RENAMED_HOOKS.items():
            if old in own:
                raise TypeError(f"{cls.__name__}: `{old}` is called `{new}` now: rename it")
        for hook in HOOKS & own.keys():
            if not callable(own[hook]):
                raise TypeError(f"{cls.__name__}: `{hook}` is a method: write `def {hook}(self): return ...`")

    def data_kind(self) -> DataKind | None:
        """What it learns from; None trains nothing.

        `text` is imitated, `pairs` are compared, `unpaired` answers are labelled good or bad, `prompts` are sampled
        from.
        """
        return None

    def needs(self) -> frozenset[Need]:
        """What the engine must bring besides the data.

        `reference`, `old_logps`, `values`: what `prepare` computes. `teacher`: a second model in the forward pass.
        `score_head`: a head on the last token. `sampled_logps`: the sampler's own log-probs in `Batch.extras`.
        `separate_rewards`: each reward by itself in `Batch.separate_rewards`.
        """
        return frozenset()

    def terms(self) -> Mapping[str, Denominator]:
        """The sums that `loss` returns by name, and what each is divided by over the whole optimizer step."""
        return {}

    def readouts(self) -> Mapping[str, Readout]:
        """Pure functions of a chunk of logits (n, V) -> (n,) by name; `loss` reads them from `Outputs.readouts`."""
        return {}

    def teacher_readouts(self) -> Mapping[str, TeacherReadout]:
        """The same of the policy's logits and the teacher's, both (n, V); the teacher's have no gradient."""
        return {}

    def makes_policy(self) -> bool:
        """Whether the trained model answers prompts; one with a score head judges answers instead."""
        return "score_head" not in self.needs()

    def unused_settings(self) -> Mapping[str, str]:
        """Settings that have no effect beside the others, each with the reason; setting one of them is an error."""
        return {}

    def check_settings(self) -> None:
        """Raises ConfigError for settings that are valid and that no stage should be trained with."""

    def samples_per_prompt(self) -> int:
        """How many completions the engine samples for a prompt."""
        return 1

    def generation_limit(self) -> int:
        """How many generation batches one rollout may take until enough groups are kept; 0 = no limit."""
        return 0

    def trains_on(self) -> Literal["assistant", "all"]:
        """Which tokens of a chat are trained: those of the assistant's turns, or all."""
        return "assistant"

    def notes(self, updates_per_rollout: int) -> list[str]:
        """What a user should know about these settings before training, one sentence each."""
        return []

    def initial_state(self) -> State:
        """What `credit` carries from rollout to rollout (adaptive coefficients, baselines); JSON values."""
        return {}

    @torch.no_grad()
    def prepare(self, batch: Batch, policy: ForwardPasses) -> Batch:
        """The whole batch with the outputs named in `needs`, computed once and without a gradient before it is cut."""
        needs = self.needs()
        if "reference" in needs and batch.ref_logps is None:
            batch = replace(batch, ref_logps=policy.reference_logps(batch))
        if "old_logps" in needs and batch.old_logps is None:
            batch = replace(batch, old_logps=policy.logps(batch))
        if "values" in needs and batch.values is None:
            values, end_values = policy.values(batch)
            batch = replace(batch, values=values, end_values=end_values)
        return batch

    def keep_groups(self, rollout: Batch) -> Tensor:
        """(groups,) bool: which groups of a rollout are trained on; the engine samples others in place of the rest."""
        return torch.ones(rollout.num_groups, dtype=torch.bool)

    def credit(self, rollout: Batch, state: State) -> tuple[Batch, State]:
        """The whole rollout with advantages (N, T) made of its rewards, before it is cut into updates."""
        return rollout, state

    def rollout_metrics(self, rollout: Batch, state: State) -> Metrics:
        """Metrics of a credited rollout of all ranks, logged with its first update; `credit` was given `state`."""
        return {}

    def active_rows(self, batch: Batch) -> Tensor:
        """(N,) bool: rows with a gradient; the others count in the denominators and are not computed."""
        return torch.ones(batch.num_rows, dtype=torch.bool)

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The sums named in `terms` over one part of a step, and metrics."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing")
