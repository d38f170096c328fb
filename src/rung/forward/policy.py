"""The policy: a causal LM with its heads, adapters and reference; every training batch runs through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rung.algorithm import Algorithm
from rung.batch import Batch, Outputs, Readout
from rung.distributed.fsdp import Shards, all_finite
from rung.distributed.ranks import Ranks
from rung.errors import ConfigError, MemoryLimitError
from rung.forward.layouts import States
from rung.forward.logprobs import TeacherInputs, target_logps
from rung.forward.memory import SHARDED, smaller_budget, within_memory
from rung.forward.passes import PartRunner, WorkCounter
from rung.forward.planner import Block, Cost, Layout, plan
from rung.forward.supported import layouts
from rung.models.architecture import base_model, hidden_matrices, zero_dropout
from rung.sampling import Sampling

Result = TypeVar("Result")
Precision = Literal["fp32", "bf16"]
# Prefixes of parameter names; checkpoints contain them, so changing one makes saved stages unreadable.
PREFIXES = {"model": "", "value_head": "value_head.", "score_head": "final_head.", "critic": "critic."}
FIRST_STEP_TOLERANCE = 1e-3  # nats; a different checkpoint differs by far more


@dataclass(frozen=True, slots=True)
class ReferenceUpdate:
    """How the reference model is updated: every `every` steps, reference += `share` x (policy - reference)."""

    every: int
    share: float


@dataclass
class Policy:
    """A causal LM with its heads, critic, reference and teacher, and the settings of its forward pass.

    The logits of every pass are divided by the temperature of `sampling`, as in the sampler; None is temperature 1, for
    offline algorithms. `value_head` and `score_head` map (n, H) to (n, 1); with a `critic`, the value head reads the
    critic's hidden states. A frozen `teacher` runs on the same parts as the policy, for the readouts that compare both.
    `token_budget` bounds the padded positions of a part of one model; `lowered_budget` is a lower bound that was found
    when memory ran out. With `reference_is_start` the first reference
    pass asserts that the policy still equals its reference. `ranks` are the processes that hold replicas or shards of
    the policy and compute their shares of each step.

    Weights are fp32; with `precision` bf16 a pass is autocast to bf16, and softmax and losses stay fp32. The model
    stays in eval mode, which disables dropout but not gradients; activation checkpointing works in training mode only,
    so dropout rates are set to 0. Raises ConfigError for adapters that add tokens to the prompt.
    """

    model: PreTrainedModel
    sampling: Sampling | None = None
    token_budget: int = 8192
    lowered_budget: int | None = None
    value_head: nn.Module | None = None
    score_head: nn.Module | None = None
    critic: PreTrainedModel | None = None
    reference: PreTrainedModel | None = None
    teacher: PreTrainedModel | None = None
    reference_is_start: bool = False
    reference_update: ReferenceUpdate | None = None
    precision: Precision = "fp32"
    ranks: Ranks = field(default_factory=Ranks)
    shards: Shards | None = None
    work: WorkCounter = field(default_factory=WorkCounter)

    def __post_init__(self) -> None:
        adapters: dict[str, object] = getattr(self.model, "peft_config", {})
        if any(getattr(adapter, "is_prompt_learning", False) for adapter in adapters.values()):
            raise ConfigError(
                "the adapter adds tokens to the prompt", "use an adapter inside the layers, such as `lora`"
            )
        self.causal_lm = base_model(self.model)
        for model in filter(None, (self.model, self.critic)):
            zero_dropout(model)
            model.train(base_model(model).is_activation_checkpointing)

    @property
    def temperature(self) -> float:
        """The temperature that divides the logits of every pass."""
        return 1.0 if self.sampling is None else self.sampling.temperature

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters, in the model's order."""
        return list(self.named_parameters().values())

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name; those of heads and critic have a prefix."""
        return {
            PREFIXES[module] + name: parameter
            for module, trained in self.modules().items()
            if module in PREFIXES
            for name, parameter in trained.named_parameters()
            if parameter.requires_grad
        }

    def modules(self) -> dict[str, nn.Module]:
        """Every module with weights, by the name of its attribute."""
        named = {name: getattr(self, name) for name in (*PREFIXES, "reference", "teacher")}
        return {name: module for name, module in named.items() if module is not None}

    def shard(self) -> None:
        """Shards all weights over the ranks; a collective. No module can be copied or added afterwards."""
        self.shards = Shards(self.modules())

    def gathered(self) -> Policy | None:
        """The policy with unsharded weights, without reference and teacher; None on sharded ranks other than 0.

        A collective.
        """
        if self.shards is None:
            return self
        trained = {name: self.shards.gather_module(name) for name in self.modules() if name in PREFIXES}
        return None if trained["model"] is None else replace(self, **trained, reference=None, teacher=None, shards=None)  # type: ignore[arg-type]

    def with_weights(self, compute: Callable[[], Result]) -> Result:
        """Runs `compute`, which may call the model any number of times, with full weights; a collective if sharded."""
        return compute() if self.shards is None else self.shards.run_unsharded(compute)

    def hidden_matrices(self) -> set[str]:
        """Names of the trained matrices of policy and critic, without embeddings and heads."""
        models = {"": self.model, **({"critic.": self.critic} if self.critic is not None else {})}
        return {prefix + name for prefix, model in models.items() for name in hidden_matrices(model)}

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of matrix multiplications."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def layouts(self) -> tuple[Layout, ...]:
        """The layouts that the policy, its critic, its teacher and their settings all support; always includes `plain`.

        With sharded weights `shared` is excluded, because all ranks would have to split the completions of each prompt
        alike.
        """
        allowed = [layouts(model) for model in self._decoders()]
        if self.shards is not None:
            allowed.append(("plain", "masked"))
        return tuple(layout for layout in allowed[0] if all(layout in other for other in allowed))

    @property
    def budget(self) -> int:
        """The token budget in force."""
        return self.token_budget if self.lowered_budget is None else min(self.token_budget, self.lowered_budget)

    def lower_budget(self, batch: Batch, keep_together: str) -> int:
        """Lowers the token budget until the batch is split into smaller parts; returns it, or 0 at the smallest.

        Raises MemoryLimitError with sharded weights: a part is a collective, which one rank alone cannot repeat.
        """
        if self.shards is not None:
            raise MemoryLimitError(*SHARDED)
        smaller = smaller_budget(lambda budget: self.plan(batch, keep_together, budget), self.budget)
        self.lowered_budget = smaller or self.lowered_budget
        return smaller

    def plan(self, batch: Batch, unit: str, token_budget: int | None = None) -> tuple[Block, ...]:
        """The plan by which `parts` splits this batch; a `unit` (row or group) is never split.

        `token_budget` is by default the one in force.
        """
        config = self.causal_lm.config.get_text_config()
        embeddings = sum(p.numel() for p in self.causal_lm.get_input_embeddings().parameters())
        trunk = sum(p.numel() for p in self.causal_lm.parameters()) - embeddings
        cost = Cost.of(trunk, config.hidden_size, config.num_hidden_layers)
        budget = token_budget or self.budget
        return plan(batch, unit=unit, layouts=self.layouts(), cost=cost, token_budget=budget)  # type: ignore[arg-type]

    def parts(self, batch: Batch, algorithm: Algorithm) -> Iterator[tuple[Batch, Outputs]]:
        """Yields the parts of a batch with their outputs; call backward on a part's loss before taking the next part.

        After the last part of a block, the gradients accumulated on the shared prompts are propagated through them: the
        gradient is complete only when the iterator is exhausted.
        """

        def compute(part: Batch, states: list[States]) -> dict[str, Any]:
            return self._outputs(part, states, algorithm)

        for _, part, outputs in self._runner().run(
            self._decoders(), batch, self.plan(batch, algorithm.keep_together), compute
        ):
            yield part, Outputs(**outputs)

    @torch.no_grad()
    def logps(self, batch: Batch) -> Tensor:
        """(N, T) log-probs under the current weights, without a gradient; 0 for tokens that are not trained."""
        return self._logps(self.model, batch)

    @torch.no_grad()
    def readout(self, batch: Batch, readout: Readout) -> Tensor:
        """(N, T) values of a readout (a function of the logits), without a gradient; 0 for tokens not trained."""
        return self._read(self.model, batch, readout)[1]

    @torch.no_grad()
    def values(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Values of the state before each trained token and of that after the last attended token, without a gradient.

        Shapes: (N, T), 0 for tokens that are not trained, and (N,).
        """
        return within_memory(self, batch, "row", lambda: self._compute_values(batch))

    def _compute_values(self, batch: Batch) -> tuple[Tensor, Tensor]:
        before, after = torch.zeros(batch.completion_ids.shape), torch.zeros(batch.num_rows)
        decoders = [self.causal_lm if self.critic is None else self.critic]

        def compute(part: Batch, states: list[States]) -> dict[str, Any]:
            return {
                "before": scatter_to_mask(self._values(states[0].predicting), part.loss_mask),
                "after": self._values(states[0].last),
            }

        for rows, part, made in self._runner().run(decoders, batch, self.plan(batch, "row"), compute):
            before[rows, : part.completion_ids.shape[1]] = made["before"].cpu()
            after[rows] = made["after"].cpu()
        return before, after

    @torch.no_grad()
    def reference_logps(self, batch: Batch) -> Tensor:
        """(N, T) log-probs under the reference: a separate model, or the policy with its adapters disabled."""
        if self.reference is not None:
            logps = self._logps(self.reference, batch)
        else:
            assert hasattr(self.model, "disable_adapter"), "a policy without adapters needs a separate reference model"
            with self.model.disable_adapter():  # type: ignore[operator]
                logps = self._logps(self.model, batch)
        if self.reference_is_start:
            self.reference_is_start = False
            distances = (self.logps(batch) - logps).abs()  # a collective: also for a rank without rows
            largest = float(distances.max()) if distances.numel() else 0.0
            assert not largest >= FIRST_STEP_TOLERANCE, (  # NaN makes the loss NaN, which is told there
                f"the reference differs from the start of the stage: log-probs differ by {largest}"
            )
        return logps

    def moving_reference(self) -> dict[str, nn.Parameter]:
        """The parameters of the reference that are updated, by their names in the policy; empty if it is fixed."""
        if self.reference_update is None:
            return {}
        assert self.reference is not None, "a reference that is updated must be a separate model"
        own = dict(self.reference.named_parameters())
        return {name: own[name] for name, live in self.model.named_parameters() if live.requires_grad}

    @torch.no_grad()
    def update_reference(self, step: int) -> None:
        """Moves the reference towards the policy if an update is due at `step`, and all weights are finite."""
        if self.reference_update is not None and step % self.reference_update.every == 0:
            live, moving = dict(self.model.named_parameters()), self.moving_reference()
            if not self.ranks.agree(all_finite(live[name] for name in moving)):
                return
            for name, parameter in moving.items():
                parameter.lerp_(live[name], self.reference_update.share)

    def snapshot(self) -> PreTrainedModel:
        """A frozen copy of the current weights; call it before `shard`."""
        copied = deepcopy(self.model)
        return copied.requires_grad_(False).eval()  # type: ignore[return-value]

    def _decoders(self) -> list[PreTrainedModel]:
        """The models that a part runs through: the policy, then its critic and its teacher, if any."""
        return [self.causal_lm, *(base_model(each) for each in (self.critic, self.teacher) if each is not None)]

    def _logps(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        return self._read(model, batch)[0]

    def _read(self, model: PreTrainedModel, batch: Batch, *readouts: Readout) -> Tensor:
        """(1 + readouts, N, T): log-probs under a model, then the readouts of its logits."""
        return within_memory(self, batch, "row", lambda: self._read_parts(model, batch, *readouts))

    def _read_parts(self, model: PreTrainedModel, batch: Batch, *readouts: Readout) -> Tensor:
        result = torch.zeros(1 + len(readouts), *batch.completion_ids.shape)
        causal_lm = base_model(model)

        def compute(part: Batch, states: list[States]) -> dict[str, Any]:
            targets = part.completion_ids[part.loss_mask]
            flat = target_logps(causal_lm, states[0].predicting, targets, self.temperature, readouts)
            return {"read": torch.stack([scatter_to_mask(values, part.loss_mask) for values in flat])}

        for rows, part, made in self._runner().run([causal_lm], batch, self.plan(batch, "row"), compute):
            result[:, rows, : part.completion_ids.shape[1]] = made["read"].cpu()
        return result

    def _runner(self) -> PartRunner:
        return PartRunner(self.device, self.dtype, self.shards, self.ranks, self.work)

    def _outputs(self, part: Batch, states: list[States], algorithm: Algorithm) -> dict[str, Any]:
        """The fields of `Outputs` for a part, by name."""
        own, mask = states[0], part.loss_mask
        valued = own if self.critic is None else states[1]
        unread = torch.full(mask.shape, torch.nan, device=mask.device)
        logps, readouts = self._token_outputs(part, states, algorithm) if algorithm.reads_logps else (unread, {})
        return {
            "logps": logps,
            "readouts": readouts,
            "values": scatter_to_mask(self._values(valued.predicting), mask) if self.value_head is not None else None,
            "scores": self._scores(own.last) if self.score_head is not None else None,
        }

    def _token_outputs(
        self, part: Batch, states: list[States], algorithm: Algorithm
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Log-probs (N, T) of the trained tokens, and the readouts of their logits and of the teacher's."""
        hidden, targets = states[0].predicting, part.completion_ids[part.loss_mask]
        readouts, compared, teacher = algorithm.readouts(), algorithm.teacher_readouts(), None
        if compared:
            assert self.teacher is not None, "`teacher` is missing from the algorithm's `needs`"
            teacher = TeacherInputs(base_model(self.teacher), states[-1].predicting, tuple(compared.values()))
        self.work.head_rows += len(hidden) * (2 if compared else 1)
        flat = target_logps(self.causal_lm, hidden, targets, self.temperature, tuple(readouts.values()), teacher)
        logps, *read = (scatter_to_mask(values, part.loss_mask) for values in flat)
        return logps, dict(zip((*readouts, *compared), read, strict=True))

    def _values(self, hidden: Tensor) -> Tensor:
        """The values (n,) of hidden states (n, H), in float32."""
        assert self.value_head is not None, "`values` is missing from the algorithm's `needs`"
        return self.value_head(hidden)[:, 0].float()

    def _scores(self, last: Tensor) -> Tensor:
        """The scores (N,) of hidden states (N, H), in float32; a copy, because FSDP2 warns about views."""
        assert self.score_head is not None, "`score_head` is missing from the algorithm's `needs`"
        return self.score_head(last)[:, 0].float().clone()


def scatter_to_mask(flat: Tensor, mask: Tensor) -> Tensor:
    """Writes the values `flat` (n,) to the n true entries of `mask` (N, T), row by row; 0 elsewhere."""
    return flat.new_zeros(mask.shape).masked_scatter(mask, flat)
