"""A causal LM with its heads, adapters and reference: the one place where a model meets a batch in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rung.algorithm import Algorithm, Readout
from rung.anatomy import base_model, hidden_matrices, layouts, zero_dropout
from rung.batch import Batch, Outputs
from rung.errors import ConfigError
from rung.layouts import States
from rung.passes import Counted, Passes
from rung.planner import Block, Cost, Layout, plan
from rung.ranks import Ranks
from rung.scoring import Teaching, score
from rung.shards import Shards

Result = TypeVar("Result")
Precision = Literal["fp32", "bf16"]
TRAINED = ("model", "value_head", "final_head", "critic")
FIRST_STEP_TOLERANCE = 1e-3  # nats; another checkpoint is off by far more


@dataclass(frozen=True, slots=True)
class Following:
    """How a reference moves: `every` so many steps the policy has a `share` in it, 1 of `sync`."""

    every: int
    share: float


@dataclass
class Policy:
    """A causal LM, the settings of its forward pass, and the reference that it is held against.

    `temperature` divides the logits in every pass, as in sampling; 1 for offline algorithms. `value_head` and
    `final_head` map (n, H) to (n, 1); with a `critic`, the value head reads its hidden states. `token_budget` bounds
    the padded positions of a part of one model. With `reference_is_start`
    the first reference pass asserts that nothing was trained between the two. `ranks` are the processes that hold
    replicas or shards of it and prepare their shares of the same steps. Weights are fp32; with `precision` bf16 a pass
    is autocast to bf16, and softmax and losses stay fp32. A `teacher`, frozen like a reference, runs beside the policy
    for the readouts that compare the two. The model stays in eval
    mode, where dropout is off and gradients flow all the same; under activation checkpointing, which works in training
    mode alone, dropout is set to 0. Raises ConfigError for adapters that live in the prompt.
    """

    model: PreTrainedModel
    temperature: float = 1.0
    token_budget: int = 8192
    value_head: nn.Module | None = None
    final_head: nn.Module | None = None
    critic: PreTrainedModel | None = None
    reference: PreTrainedModel | None = None
    teacher: PreTrainedModel | None = None
    reference_is_start: bool = False
    follows: Following | None = None
    precision: Precision = "fp32"
    ranks: Ranks = field(default_factory=Ranks)
    shards: Shards | None = None
    counted: Counted = field(default_factory=Counted)

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
    def parameters(self) -> list[nn.Parameter]:
        """What is trained, in the model's order."""
        return list(self.named_parameters().values())

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name; heads and critic come under `value_head.`, `final_head.` and `critic.`."""
        prefixes = {name: "" if name == "model" else f"{name}." for name in TRAINED}
        return {
            prefixes[module] + name: parameter
            for module, trained in self.modules().items()
            if module in TRAINED
            for name, parameter in trained.named_parameters()
            if parameter.requires_grad
        }

    def modules(self) -> dict[str, nn.Module]:
        """Everything with weights, by the name that it has here."""
        named = {name: getattr(self, name) for name in (*TRAINED, "reference", "teacher")}
        return {name: module for name, module in named.items() if module is not None}

    def shard(self) -> None:
        """Spreads all weights over the ranks, from here on; a collective. Nothing can be copied or added any more."""
        self.shards = Shards(self.modules())

    def assembled(self) -> Policy | None:
        """The policy without reference and teacher, its weights whole; in shards on rank 0 alone. A collective."""
        if self.shards is None:
            return self
        trained = {name: self.shards.assembled(name) for name in self.modules() if name in TRAINED}
        return None if trained["model"] is None else replace(self, **trained, reference=None, teacher=None, shards=None)  # type: ignore[arg-type]

    def with_weights(self, compute: Callable[[], Result]) -> Result:
        """What `compute` gives, which may call the model as often as it likes; a collective where it is in shards."""
        return compute() if self.shards is None else self.shards.run_whole(compute)

    def hidden_matrices(self) -> set[str]:
        """Names of the trained matrices that are neither an embedding nor a head, of policy and critic."""
        models = {"": self.model, **({"critic.": self.critic} if self.critic is not None else {})}
        return {prefix + name for prefix, model in models.items() for name in hidden_matrices(model)}

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What its passes multiply in."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def layouts(self) -> tuple[Layout, ...]:
        """The layouts that this policy, its critic, its teacher and their settings allow; `plain` always is one.

        In shards, ranks would have to cut the completions on each shared prompt alike: there is one pass a part.
        """
        allowed = [layouts(model) for model in self._decoders()]
        if self.shards is not None:
            allowed.append(("plain", "masked"))
        return tuple(layout for layout in allowed[0] if all(layout in other for other in allowed))

    def plan(self, batch: Batch, unit: str) -> tuple[Block, ...]:
        """How `parts` cuts this batch."""
        config = self.causal_lm.config
        embeddings = sum(p.numel() for p in self.causal_lm.get_input_embeddings().parameters())
        trunk = sum(p.numel() for p in self.causal_lm.parameters()) - embeddings
        cost = Cost.of(trunk, config.hidden_size, config.num_hidden_layers)
        return plan(batch, unit=unit, layouts=self.layouts(), cost=cost, token_budget=self.token_budget)  # type: ignore[arg-type]

    def parts(self, batch: Batch, algorithm: Algorithm) -> Iterator[tuple[Batch, Outputs]]:
        """The batch part by part, each with its outputs; call backward on a part's loss before taking the next.

        When the last part of a block has been taken, the gradient that its parts left on the shared prompts is sent
        through them: the whole gradient is there once the iterator has run out.
        """

        def compute(part: Batch, states: list[States]) -> dict[str, Any]:
            return self._outputs(part, states, algorithm)

        for _, part, outputs in self._passes().run(self._decoders(), batch, self.plan(batch, algorithm.unit), compute):
            yield part, Outputs(**outputs)

    @torch.no_grad()
    def logps(self, batch: Batch) -> Tensor:
        """(N, T) log-probs under the live weights, without a gradient; 0 where nothing is trained."""
        return self._logps(self.model, batch)

    @torch.no_grad()
    def readout(self, batch: Batch, readout: Readout) -> Tensor:
        """(N, T) what a readout says of the live weights' logits, without a gradient; 0 where nothing is trained."""
        return self._read(self.model, batch, readout)[1]

    @torch.no_grad()
    def values(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Values of the state before each trained token and of the one after the last attended token, no gradient.

        Shapes: (N, T), 0 where nothing is trained, and (N,).
        """
        before, after = torch.zeros(batch.completion_ids.shape), torch.zeros(batch.num_rows)
        decoders = [self.causal_lm if self.critic is None else self.critic]

        def compute(part: Batch, states: list[States]) -> dict[str, Any]:
            return {
                "before": spread(self._valued(states[0].predicting), part.loss_mask),
                "after": self._valued(states[0].last),
            }

        for rows, part, made in self._passes().run(decoders, batch, self.plan(batch, "row"), compute):
            before[rows, : part.completion_ids.shape[1]] = made["before"].cpu()
            after[rows] = made["after"].cpu()
        return before, after

    @torch.no_grad()
    def reference_logps(self, batch: Batch) -> Tensor:
        """(N, T) log-probs under the reference: its own snapshot, or the live model with its adapters off."""
        if self.reference is not None:
            logps = self._logps(self.reference, batch)
        else:
            assert hasattr(self.model, "disable_adapter"), "a full model needs a snapshot as its reference"
            with self.model.disable_adapter():  # type: ignore[operator]
                logps = self._logps(self.model, batch)
        if self.reference_is_start:
            self.reference_is_start = False
            distances = (self.logps(batch) - logps).abs()  # also where this rank kept no row: the others call it too
            apart = float(distances.max()) if distances.numel() else 0.0
            assert apart < FIRST_STEP_TOLERANCE, (
                f"the reference is not what the stage starts from: log-probs differ by {apart}"
            )
        return logps

    def moving(self) -> dict[str, nn.Parameter]:
        """The parameters of a reference that moves, by the names of those that they follow; none of one that stays."""
        if self.follows is None:
            return {}
        assert self.reference is not None, "what moves is a model of its own"
        own = dict(self.reference.named_parameters())
        return {name: own[name] for name, live in self.model.named_parameters() if live.requires_grad}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """After so many steps, moves the reference towards the policy where that is due."""
        if self.follows is not None and step % self.follows.every == 0:
            live = dict(self.model.named_parameters())
            for name, parameter in self.moving().items():
                parameter.lerp_(live[name], self.follows.share)

    def snapshot(self) -> PreTrainedModel:
        """A frozen copy of the live weights, which are not in shards yet."""
        copied = deepcopy(self.model)
        return copied.requires_grad_(False).eval()  # type: ignore[return-value]

    def _decoders(self) -> list[PreTrainedModel]:
        """What a part goes through: the policy, then its critic and its teacher where it has them."""
        return [self.causal_lm, *(base_model(each) for each in (self.critic, self.teacher) if each is not None)]

    def _logps(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        return self._read(model, batch)[0]

    def _read(self, model: PreTrainedModel, batch: Batch, *readouts: Readout) -> Tensor:
        """(1 + readouts, N, T): log-probs under a model, then what is read of its logits."""
        result = torch.zeros(1 + len(readouts), *batch.completion_ids.shape)
        causal_lm = base_model(model)

        def compute(part: Batch, states: list[States]) -> dict[str, Any]:
            targets = part.completion_ids[part.loss_mask]
            flat = score(causal_lm, states[0].predicting, targets, self.temperature, readouts)
            return {"read": torch.stack([spread(values, part.loss_mask) for values in flat])}

        for rows, part, made in self._passes().run([causal_lm], batch, self.plan(batch, "row"), compute):
            result[:, rows, : part.completion_ids.shape[1]] = made["read"].cpu()
        return result

    def _passes(self) -> Passes:
        return Passes(self.device, self.dtype, self.shards, self.ranks, self.counted)

    def _outputs(self, part: Batch, states: list[States], algorithm: Algorithm) -> dict[str, Any]:
        """The fields of `Outputs`."""
        own, mask = states[0], part.loss_mask
        valued = own if self.critic is None else states[1]
        unread = torch.full(mask.shape, torch.nan, device=mask.device)
        logps, readouts = self._scored(part, states, algorithm) if algorithm.reads_logps else (unread, {})
        return {
            "logps": logps,
            "readouts": readouts,
            "values": spread(self._valued(valued.predicting), mask) if self.value_head is not None else None,
            "final": self._judged(own.last) if self.final_head is not None else None,
        }

    def _scored(self, part: Batch, states: list[States], algorithm: Algorithm) -> tuple[Tensor, dict[str, Tensor]]:
        """Log-probs (N, T) of the trained tokens, and the readouts of their logits and of the teacher's."""
        hidden, targets = states[0].predicting, part.completion_ids[part.loss_mask]
        readouts, compared, teaching = algorithm.reads(), algorithm.reads_with_teacher(), None
        if compared:
            assert self.teacher is not None, "the algorithm did not say that it needs a teacher"
            teaching = Teaching(base_model(self.teacher), states[-1].predicting, tuple(compared.values()))
        self.counted.head_rows += len(hidden) * (2 if compared else 1)
        flat = score(self.causal_lm, hidden, targets, self.temperature, tuple(readouts.values()), teaching)
        logps, *read = (spread(values, part.loss_mask) for values in flat)
        return logps, dict(zip((*readouts, *compared), read, strict=True))

    def _valued(self, hidden: Tensor) -> Tensor:
        """(n, H) -> (n,) float32."""
        assert self.value_head is not None, "the algorithm did not say that it needs values"
        return self.value_head(hidden)[:, 0].float()

    def _judged(self, last: Tensor) -> Tensor:
        """(N, H) -> (N,) float32; a copy, as FSDP2 warns of views."""
        assert self.final_head is not None, "the algorithm did not say that it needs a verdict"
        return self.final_head(last)[:, 0].float().clone()


def spread(flat: Tensor, mask: Tensor) -> Tensor:
    """(n,) -> (N, T): one value for each true entry of the mask, 0 elsewhere."""
    return flat.new_zeros(mask.shape).masked_scatter(mask, flat)
