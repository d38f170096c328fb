"""A causal LM with its heads, adapters and reference: the one place where a model meets a batch in training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rung.algorithm import Algorithm, Readout
from rung.batch import Batch, Outputs
from rung.errors import ConfigError
from rung.layouts import SharedPrompts, States, masked_rows, plain
from rung.planner import Block, Cost, Layout, Part, plan
from rung.ranks import Ranks
from rung.scoring import score

SHARES_CACHE = frozenset({"llama", "mistral", "qwen2", "qwen3", "gpt2", "gemma3_text"})
TAKES_MASKS = SHARES_CACHE - {"mistral"}  # a sliding Mistral builds one mask for all its layers by itself
FIRST_STEP_TOLERANCE = 1e-3  # nats; another checkpoint is off by far more


@dataclass
class Counted:
    """Work done since the start: positions through the decoder, rows through the LM head, model calls."""

    positions: int = 0
    head_rows: int = 0
    calls: int = 0


@dataclass
class Policy:
    """A causal LM, the settings of its forward pass, and the reference that it is held against.

    `temperature` divides the logits in every pass, as in sampling; 1 for offline algorithms. `value_head` and
    `final_head` map (n, H) to (n, 1); with a `critic`, the value head reads its hidden states. `token_budget` bounds
    the padded positions of a part of one model. With `reference_is_start`
    the first reference pass asserts that nothing was trained between the two. `ranks` are the processes that hold
    replicas of it and prepare their shares of the same steps. The model stays in eval
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
    reference_is_start: bool = False
    ranks: Ranks = field(default_factory=Ranks)
    counted: Counted = field(default_factory=Counted)

    def __post_init__(self) -> None:
        adapters: Mapping[str, object] = getattr(self.model, "peft_config", {})
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
        modules = {
            "": self.model,
            "value_head.": self.value_head,
            "final_head.": self.final_head,
            "critic.": self.critic,
        }
        return {
            prefix + name: parameter
            for prefix, module in modules.items()
            if module is not None
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    def hidden_matrices(self) -> set[str]:
        """Names of the trained matrices that are neither an embedding nor a head, of policy and critic."""
        models = {"": self.model, **({"critic.": self.critic} if self.critic is not None else {})}
        return {prefix + name for prefix, model in models.items() for name in hidden_matrices(model)}

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    def layouts(self) -> tuple[Layout, ...]:
        """The layouts that this policy, its critic and their settings allow; `plain` always is one."""
        models = [self.causal_lm, *([self.critic] if self.critic is not None else [])]
        allowed = [layouts(model) for model in models]
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
        decoders = [self.causal_lm, *([self.critic] if self.critic is not None else [])]
        for _, part, states in self._run(decoders, batch, self.plan(batch, algorithm.unit)):
            yield part, self._outputs(part, states, algorithm)

    @torch.no_grad()
    def logps(self, batch: Batch) -> Tensor:
        """(N, T) log-probs under the live weights, without a gradient; 0 where nothing is trained."""
        return self._logps(self.model, batch)

    @torch.no_grad()
    def values(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Values of the state before each trained token and of the one after the last attended token, no gradient.

        Shapes: (N, T), 0 where nothing is trained, and (N,).
        """
        before, after = torch.zeros(batch.completion_ids.shape), torch.zeros(batch.num_rows)
        decoders = [self.causal_lm if self.critic is None else self.critic]
        for rows, part, (states,) in self._run(decoders, batch, self.plan(batch, "row")):
            before[rows, : part.completion_ids.shape[1]] = spread(self._valued(states.predicting), part.loss_mask).cpu()
            after[rows] = self._valued(states.last).cpu()
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
            apart = float((self.logps(batch) - logps).abs().max()) if batch.num_rows else 0.0
            assert apart < FIRST_STEP_TOLERANCE, (
                f"the reference is not what the stage starts from: log-probs differ by {apart}"
            )
        return logps

    def snapshot(self) -> PreTrainedModel:
        """A frozen copy of the live weights."""
        copied = deepcopy(self.model)
        return copied.requires_grad_(False).eval()  # type: ignore[return-value]

    def _logps(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        result = torch.zeros(batch.completion_ids.shape)
        causal_lm = base_model(model)
        for rows, part, (states,) in self._run([causal_lm], batch, self.plan(batch, "row")):
            logps, *_ = score(causal_lm, states.predicting, part.completion_ids[part.loss_mask], self.temperature, ())
            result[rows, : part.completion_ids.shape[1]] = spread(logps, part.loss_mask).cpu()
        return result

    def _run(
        self, decoders: Sequence[PreTrainedModel], batch: Batch, blocks: tuple[Block, ...]
    ) -> Iterator[tuple[Tensor, Batch, list[States]]]:
        """Row numbers, the part, and its states under each of the decoders."""
        for block in blocks:
            if block.layout == "shared":
                yield from self._run_shared(decoders, batch, block)
                continue
            for planned in block.parts:
                rows, part = self._pick(batch, planned)
                yield rows, part, [self._states(decoder, part, planned, block.layout) for decoder in decoders]

    def _states(self, decoder: PreTrainedModel, part: Batch, planned: Part, layout: Layout) -> States:
        if layout == "plain":
            return self._counted(plain(decoder.base_model, part))
        packs = torch.tensor(planned.packs, device=part.prompt_of.device)
        return self._counted(masked_rows(decoder.base_model, decoder.config, part, packs))

    def _run_shared(
        self, decoders: Sequence[PreTrainedModel], batch: Batch, block: Block
    ) -> Iterator[tuple[Tensor, Batch, list[States]]]:
        everything = sorted(row for planned in block.parts for row in planned.rows)
        whole = batch.select(torch.tensor(everything)).to(self.device)
        shared = [SharedPrompts(decoder.base_model, decoder.config, whole) for decoder in decoders]
        self._count(sum(prompts.positions for prompts in shared), len(decoders))
        number_of = {
            prompt: number for number, prompt in enumerate(batch.prompt_of[everything].unique_consecutive().tolist())
        }
        for planned in block.parts:
            rows, part = self._pick(batch, planned)
            prompts = torch.tensor([number_of[p] for p in batch.prompt_of[rows].tolist()], device=self.device)
            yield rows, part, [self._counted(each.states(part, prompts)) for each in shared]
        for prompts in shared:
            prompts.backward()

    def _outputs(self, part: Batch, states: list[States], algorithm: Algorithm) -> Outputs:
        own, mask = states[0], part.loss_mask
        unread = torch.full(mask.shape, torch.nan, device=mask.device)
        logps, readouts = self._scored(part, own, algorithm.reads()) if algorithm.reads_logps else (unread, {})
        return Outputs(
            logps=logps,
            readouts=readouts,
            values=spread(self._valued(states[-1].predicting), mask) if self.value_head is not None else None,
            final=self.final_head(own.last)[:, 0].float() if self.final_head is not None else None,
        )

    def _scored(self, part: Batch, states: States, readouts: Mapping[str, Readout]) -> tuple[Tensor, dict[str, Tensor]]:
        """Log-probs (N, T) of the trained tokens, and the readouts of their logits."""
        self.counted.head_rows += len(states.predicting)
        targets = part.completion_ids[part.loss_mask]
        flat = score(self.causal_lm, states.predicting, targets, self.temperature, tuple(readouts.values()))
        logps, *read = (spread(values, part.loss_mask) for values in flat)
        return logps, dict(zip(readouts, read, strict=True))

    def _valued(self, hidden: Tensor) -> Tensor:
        """(n, H) -> (n,) float32."""
        assert self.value_head is not None, "the algorithm did not say that it needs values"
        return self.value_head(hidden)[:, 0].float()

    def _pick(self, batch: Batch, planned: Part) -> tuple[Tensor, Batch]:
        """Row numbers of a planned part, and those rows as a batch where the model lies."""
        rows = torch.tensor(planned.rows)
        return rows, batch.select(rows).to(self.device)

    def _counted(self, states: States) -> States:
        self._count(states.positions, 1)
        return states

    def _count(self, positions: int, calls: int) -> None:
        self.counted.positions += positions
        self.counted.calls += calls


def layouts(causal_lm: PreTrainedModel) -> tuple[Layout, ...]:
    """The layouts that a model and its settings allow."""
    config = causal_lm.config
    recurrent = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if recurrent:
        return ("plain",)
    takes_masks = config.model_type in TAKES_MASKS and config._attn_implementation == "sdpa"
    shares_cache = config.model_type in SHARES_CACHE and not causal_lm.is_activation_checkpointing
    return ("plain", *(["shared"] if shares_cache else []), *(["masked"] if takes_masks else []))


def spread(flat: Tensor, mask: Tensor) -> Tensor:
    """(n,) -> (N, T): one value for each true entry of the mask, 0 elsewhere."""
    return flat.new_zeros(mask.shape).masked_scatter(mask, flat)


def base_model(model: PreTrainedModel) -> PreTrainedModel:
    """The causal LM inside an adapter's wrapper, or the model itself; adapters stay in its layers."""
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model  # type: ignore[operator]


def hidden_matrices(model: PreTrainedModel) -> set[str]:
    """Names of the trained matrices between embeddings and head."""
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    head = base_model(model).get_output_embeddings()
    outside = {id(p) for module in (*embeddings, *([head] if head is not None else [])) for p in module.parameters()}
    named = model.named_parameters()
    return {name for name, p in named if p.requires_grad and p.dim() == 2 and id(p) not in outside}


def zero_dropout(model: nn.Module) -> None:
    """Turns dropout off for good: the modules, and the rates that attention layers read in training mode."""
    for module in model.modules():
        for name in ("p", "attention_dropout", "dropout", "attn_dropout", "resid_dropout", "hidden_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
