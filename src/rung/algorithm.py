"""The base class of algorithms: frozen settings with a `loss` method and the hooks that the engine calls."""

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
    """The forward passes that `prepare` may run: outputs without a gradient, (N, T) unless stated otherwise."""

    @property
    def ranks(self) -> Ranks:
        """The ranks that prepare their shares of the same step."""
        ...

    def logps(self, batch: Batch) -> Tensor:
        """Log-probs under the current weights, in nats; 0 at tokens that are not trained."""
        ...

    def reference_logps(self, batch: Batch) -> Tensor:
        """Log-probs under the reference model, in nats; 0 at tokens that are not trained."""
        ...

    def readout(self, batch: Batch, readout: Readout) -> Tensor:
        """A readout of the logits under the current weights; 0 at tokens that are not trained."""
        ...

    def values(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Values of the state before each trained token (N, T), and of the state after the last attended one (N,)."""
        ...


class Algorithm(BaseModel):
    """The base of every algorithm: a subclass sets `name` and implements `data_kind`, `terms` and `loss`.

    `name`             the name in a config.
    `keep_together`    what is never split between parts of a step: a `row`, or a `group` whose rows the loss couples.
    `group_size`       the number of completions per prompt in `pairs` data; None allows two or more.
    `least_batch_size` the smallest number of examples per step for which the loss is defined.
    `reads_logps`      False where `loss` reads neither log-probs nor readouts: the LM head is then not computed.
    `reads_rewards`    False where the loss on sampled completions does not depend on rewards, which are then optional
                       and only logged.

    The defaults of the fields are the objective of the paper. A variant is a subclass with other defaults and its own
    name. Hooks are methods, so that what they return can depend on settings.
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
        """The kind of data that it trains on; None where it trains nothing.

        `text` has completions to imitate, `pairs` completions in order of preference, `unpaired` completions labelled
        good or bad, and `prompts` prompts to sample completions for.
        """
        return None

    def needs(self) -> frozenset[Need]:
        """What the engine must provide besides the data.

        `reference`, `old_logps`, `values`: outputs that `prepare` computes. `teacher`: a second model in the forward
        pass. `score_head`: a scalar head at the last token. `sampled_logps`: the sampler's own log-probs in
        `Batch.extras`. `separate_rewards`: the individual rewards in `Batch.separate_rewards`.
        """
        return frozenset()

    def terms(self) -> Mapping[str, Denominator]:
        """The names of the sums that `loss` returns, with the denominator of each over the whole optimizer step."""
        return {}

    def readouts(self) -> Mapping[str, Readout]:
        """Pure functions of a chunk of logits, (n, V) -> (n,), by name; `loss` reads their results from `Outputs`."""
        return {}

    def teacher_readouts(self) -> Mapping[str, TeacherReadout]:
        """As `readouts`, of the policy's logits and the teacher's, both (n, V); the teacher's have no gradient."""
        return {}

    def makes_policy(self) -> bool:
        """Whether the trained model is a policy; with a score head it is a reward model."""
        return "score_head" not in self.needs()

    def unused_settings(self) -> Mapping[str, str]:
        """Settings that have no effect given the other settings, each with the reason; setting one is an error."""
        return {}

    def check_settings(self) -> None:
        """Raises ConfigError for settings that are in range but that no stage should be trained with."""

    def samples_per_prompt(self) -> int:
        """The number of completions that are sampled per prompt."""
        return 1

    def generation_limit(self) -> int:
        """The maximum number of generation batches per rollout until enough groups are kept; 0 = no limit."""
        return 0

    def trains_on(self) -> Literal["assistant", "all"]:
        """Which tokens of a chat are trained: those of assistant turns, or all."""
        return "assistant"

    def notes(self, updates_per_rollout: int) -> list[str]:
        """Notes on these settings, which the user reads before training; one sentence each."""
        return []

    def initial_state(self) -> State:
        """The initial state that `credit` updates at each rollout (adaptive coefficients, baselines); JSON values."""
        return {}

    @torch.no_grad()
    def prepare(self, batch: Batch, policy: ForwardPasses) -> Batch:
        """The batch with the outputs in `needs`, computed once without a gradient, before it is split into parts."""
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
        """(groups,) bool: which groups of a rollout are trained on; the engine samples new ones for the others."""
        return torch.ones(rollout.num_groups, dtype=torch.bool)

    def credit(self, rollout: Batch, state: State) -> tuple[Batch, State]:
        """The rollout with advantages (N, T) from its rewards, before the split into updates, and the new state."""
        return rollout, state

    def rollout_metrics(self, rollout: Batch, state: State) -> Metrics:
        """Metrics of a rollout over all ranks after `credit`, which received `state`; logged with its first update."""
        return {}

    def active_rows(self, batch: Batch) -> Tensor:
        """(N,) bool: rows with a gradient; the others count in the denominators, but get no forward pass."""
        return torch.ones(batch.num_rows, dtype=torch.bool)

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The sums named in `terms` over one part of a step, and metrics."""
        raise NotImplementedError(f"{type(self).__name__} trains no weights")
