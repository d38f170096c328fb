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
    """The forward passes that `prepare` may run; they return tensors without a gradient, (N, T) unless stated."""

    @property
    def ranks(self) -> Ranks:
        """The ranks (processes) that train together; each one prepares its own share of a step."""
        ...

    def logps(self, batch: Batch) -> Tensor:
        """Log-probs under the current weights, in nats; 0 at tokens that are not trained."""
        ...

    def reference_logps(self, batch: Batch) -> Tensor:
        """Log-probs under the reference model, in nats; 0 at tokens that are not trained."""
        ...

    def readout(self, batch: Batch, readout: Readout) -> Tensor:
        """The result of a readout (a function of logits) for the current weights; 0 at tokens that are not trained."""
        ...

    def values(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The values of the states before each trained token (N, T), and after the last attended token (N,)."""
        ...


class Algorithm(BaseModel):
    """The base class of algorithms: a subclass sets `name` and implements `data_kind`, `terms` and `loss`.

    `name`             the name of the algorithm in a config.
    `keep_together`    the unit that is never split when a step is divided into parts (micro-batches): a `row`, or a
                       `group`, for a loss that compares the rows of a group.
    `group_size`       the number of completions per prompt in `pairs` data; None allows two or more.
    `least_batch_size` the smallest number of examples per step for which the loss is defined.
    `reads_logps`      False if `loss` reads neither log-probs nor readouts: the LM head is then not computed.
    `reads_rewards`    False if the loss on sampled completions does not depend on rewards: they are then optional
                       and only logged.
    `bounds`           the settings that only bound what is sampled before a run gives up, and may therefore change
                       while a stage is trained.

    The fields of a subclass are its settings, and their defaults give the objective of the paper. A variant is a
    subclass with other defaults and its own name. Hooks are methods, so that their results can depend on settings.
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
    bounds: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **options: Any) -> None:
        """Raises TypeError if the subclass defines a hook that is not a method, or under its name of an old version."""
        super().__init_subclass__(**options)
        own = vars(cls)
        for old, new in RENAMED_HOOKS.items():
            if old in own:
                raise TypeError(f"{cls.__name__}: `{old}` is called `{new}` now: rename it")
        for hook in HOOKS & own.keys():
            if not callable(own[hook]):
                raise TypeError(f"{cls.__name__}: `{hook}` is a method: write `def {hook}(self): return ...`")

    def data_kind(self) -> DataKind | None:
        """The kind of data that the algorithm trains on; None if it trains nothing.

        `text`: completions to imitate. `pairs`: completions in order of preference. `unpaired`: completions labelled
        good or bad. `prompts`: prompts, for which completions are sampled.
        """
        return None

    def needs(self) -> frozenset[Need]:
        """What the engine must provide besides the data.

        `reference`, `old_logps`, `values`: the reference model's log-probs, the old log-probs and the critic's values,
        which `prepare` computes. `teacher`: the logits of a teacher model. `score_head`: a scalar head at the last
        token. `sampled_logps`: the sampler's own log-probs in `Batch.extras`. `separate_rewards`: the individual
        rewards in `Batch.separate_rewards`.
        """
        return frozenset()

    def terms(self) -> Mapping[str, Denominator]:
        """The names of the sums that `loss` returns, each with its denominator over the whole optimizer step."""
        return {}

    def readouts(self) -> Mapping[str, Readout]:
        """The readouts by name: pure functions of a chunk of logits, (n, V) -> (n,), such as the entropy.

        `loss` finds their results in `Outputs.readouts`.
        """
        return {}

    def teacher_readouts(self) -> Mapping[str, TeacherReadout]:
        """Like `readouts`, but functions of two arguments: the policy's logits and the teacher's, both (n, V).

        The teacher's logits have no gradient.
        """
        return {}

    def makes_policy(self) -> bool:
        """Whether the trained model is a policy; False if it is a reward model, that is, if it has a score head."""
        return "score_head" not in self.needs()

    def unused_settings(self) -> Mapping[str, str]:
        """The settings that have no effect given the other settings, each with the reason.

        A config that changes such a setting from its default is rejected.
        """
        return {}

    def check_settings(self) -> None:
        """Raises ConfigError for settings that are each in range, but with which no stage should be trained."""

    def samples_per_prompt(self) -> int:
        """The number of completions that are sampled per prompt."""
        return 1

    def generation_limit(self) -> int:
        """The maximum number of generation batches that may be sampled to fill a rollout with groups; 0 = no limit."""
        return 0

    def trains_on(self) -> Literal["assistant", "all"]:
        """Which tokens of a chat are trained: those of assistant turns, or all."""
        return "assistant"

    def notes(self, updates_per_rollout: int) -> list[str]:
        """Notes on the settings that the user is shown before training, one sentence each."""
        return []

    def initial_state(self) -> State:
        """The initial value of the state (adaptive coefficients, baselines) that `credit` updates; JSON values."""
        return {}

    @torch.no_grad()
    def prepare(self, batch: Batch, policy: ForwardPasses) -> Batch:
        """The batch with the model outputs named in `needs`: computed once per batch, without a gradient."""
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
        """(groups,) bool: true for groups of the rollout to train on; the engine samples new groups for the others."""
        return torch.ones(rollout.num_groups, dtype=torch.bool)

    def credit(self, rollout: Batch, state: State) -> tuple[Batch, State]:
        """The rollout with the advantages (N, T) that follow from its rewards, and the updated state.

        Called once per rollout, before it is split into optimizer steps.
        """
        return rollout, state

    def rollout_metrics(self, rollout: Batch, state: State) -> Metrics:
        """Metrics of a rollout over all ranks, logged with the first optimizer step on it.

        `rollout` is the result of `credit`, and `state` is the state that `credit` received.
        """
        return {}

    def active_rows(self, batch: Batch) -> Tensor:
        """(N,) bool: true for rows with a gradient; other rows count in the denominators, but get no forward pass."""
        return torch.ones(batch.num_rows, dtype=torch.bool)

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The sums that `terms` declares, over one part (micro-batch) of a step, and metrics."""
        raise NotImplementedError(f"{type(self).__name__} trains no weights")
