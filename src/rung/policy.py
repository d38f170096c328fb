"""A causal LM with its heads, adapters and reference: the one place where a model meets a batch in training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from rung.algorithm import Algorithm, Readout
from rung.batch import Batch, Outputs
from rung.errors import ConfigError
from rung.layouts import SharedPrompts, States, masked_rows, plain
from rung.planner import Block, Cost, Layout, Part, plan

SHARES_CACHE = frozenset({"llama", "mistral", "qwen2", "qwen3", "gpt2", "gemma3_text"})
TAKES_MASKS = SHARES_CACHE - {"mistral"}  # a sliding Mistral builds one mask for all its layers by itself
FIRST_STEP_TOLERANCE = 1e-3  # nats; another checkpoint is off by far more
LOGITS_BYTES = 256 * 2**20  # logits of more than this are made in chunks and made again in the backward pass


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
    `final_head` map (n, H) to (n, 1). `token_budget` bounds the padded positions of a part. With `reference_is_start`
    the first reference pass asserts that nothing was trained between the two. The model stays in eval
    mode, where dropout is off and gradients flow all the same; under activation checkpointing, which works in training
    mode alone, dropout is set to 0. Raises ConfigError for adapters that live in the prompt.
    """

    model: PreTrainedModel
    temperature: float = 1.0
    token_budget: int = 8192
    value_head: nn.Module | None = None
    final_head: nn.Module | None = None
    reference: PreTrainedModel | None = None
    reference_is_start: bool = False
    counted: Counted = field(default_factory=Counted)

    def __post_init__(self) -> None:
        adapters: Mapping[str, object] = getattr(self.model, "peft_config", {})
        if any(getattr(adapter, "is_prompt_learning", False) for adapter in adapters.values()):
            raise ConfigError(
                "the adapter adds tokens to the prompt", "use an adapter inside the layers, such as `lora`"
            )
        self.causal_lm: PreTrainedModel = self.model.get_base_model() if adapters else self.model  # type: ignore[operator]
        zero_dropout(self.model)
        self.model.train(self.causal_lm.is_activation_checkpointing)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained, in the model's order."""
        return list(self.named_parameters().values())

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name; heads come under `value_head.` and `final_head.`."""
        modules = {"": self.model, "value_head.": self.value_head, "final_head.": self.final_head}
        return {
            prefix + name: parameter
            for prefix, module in modules.items()
            if module is not None
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    def hidden_matrices(self) -> set[str]:
        """Names of the trained matrices that are neither an embedding nor a head."""
        outside = {
            id(p)
            for module in self.causal_lm.modules()
            if isinstance(module, nn.Embedding)
            for p in module.parameters()
        }
        head = self.causal_lm.get_output_embeddings()
        outside |= {id(p) for p in head.parameters()} if head is not None else set()
        named = self.model.named_parameters()
        return {name for name, p in named if p.requires_grad and p.dim() == 2 and id(p) not in outside}

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    def layouts(self) -> tuple[Layout, ...]:
        """The layouts that this model and its settings allow; `plain` always is one."""
        config = self.causal_lm.config
        recurrent = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
        if recurrent:
            return ("plain",)
        takes_masks = config.model_type in TAKES_MASKS and config._attn_implementation == "sdpa"
        shares_cache = config.model_type in SHARES_CACHE and not self.causal_lm.is_activation_checkpointing
        return ("plain", *(["shared"] if shares_cache else []), *(["masked"] if takes_masks else []))

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
        blocks = self.plan(batch, algorithm.unit)
        for _, part, outputs in self._run(self.model, batch, blocks, algorithm.readouts):
            yield part, outputs

    @torch.no_grad()
    def logps(self, batch: Batch) -> Tensor:
        """(N, T) log-probs under the live weights, without a gradient; 0 where nothing is trained."""
        return self._logps(self.model, batch)

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
        for rows, _, outputs in self._run(model, batch, self.plan(batch, "row"), {}):
            result[rows, : outputs.logps.shape[1]] = outputs.logps.cpu()
        return result

    def _run(
        self, model: PreTrainedModel, batch: Batch, blocks: tuple[Block, ...], readouts: Mapping[str, Readout]
    ) -> Iterator[tuple[Tensor, Batch, Outputs]]:
        causal_lm = base_model(model)
        for block in blocks:
            if block.layout == "shared":
                yield from self._run_shared(causal_lm, batch, block, readouts)
                continue
            for planned in block.parts:
                rows, part = self._pick(batch, planned)
                yield (
                    rows,
                    part,
                    self._read(causal_lm, part, self._states(causal_lm, part, planned, block.layout), readouts),
                )

    def _states(self, causal_lm: PreTrainedModel, part: Batch, planned: Part, layout: Layout) -> States:
        decoder = causal_lm.base_model
        if layout == "plain":
            return plain(decoder, part)
        return masked_rows(decoder, causal_lm.config, part, torch.tensor(planned.packs, device=part.prompt_of.device))

    def _run_shared(
        self, causal_lm: PreTrainedModel, batch: Batch, block: Block, readouts: Mapping[str, Readout]
    ) -> Iterator[tuple[Tensor, Batch, Outputs]]:
        everything = sorted(row for planned in block.parts for row in planned.rows)
        whole = batch.select(torch.tensor(everything)).to(self.device)
        shared = SharedPrompts(causal_lm.base_model, causal_lm.config, whole)
        self._count(shared.positions, 0)
        number_of = {
            prompt: number for number, prompt in enumerate(batch.prompt_of[everything].unique_consecutive().tolist())
        }
        for planned in block.parts:
            rows, part = self._pick(batch, planned)
            prompts = torch.tensor([number_of[p] for p in batch.prompt_of[rows].tolist()], device=self.device)
            yield rows, part, self._read(causal_lm, part, shared.states(part, prompts), readouts)
        shared.backward()

    def _read(
        self, causal_lm: PreTrainedModel, part: Batch, states: States, readouts: Mapping[str, Readout]
    ) -> Outputs:
        self._count(states.positions, len(states.predicting))
        mask = part.loss_mask

        def spread(flat: Tensor) -> Tensor:
            return flat.new_zeros(mask.shape).masked_scatter(mask, flat)

        logps, *read = score(
            causal_lm, states.predicting, part.completion_ids[mask], self.temperature, tuple(readouts.values())
        )
        return Outputs(
            logps=spread(logps),
            readouts={name: spread(values) for name, values in zip(readouts, read, strict=True)},
            values=spread(self.value_head(states.predicting)[:, 0].float()) if self.value_head is not None else None,
            final=self.final_head(states.last)[:, 0].float() if self.final_head is not None else None,
        )

    def _pick(self, batch: Batch, planned: Part) -> tuple[Tensor, Batch]:
        """Row numbers of a planned part, and those rows as a batch where the model lies."""
        rows = torch.tensor(planned.rows)
        return rows, batch.select(rows).to(self.device)

    def _count(self, positions: int, head_rows: int) -> None:
        self.counted.positions += positions
        self.counted.head_rows += head_rows
        self.counted.calls += 1


def base_model(model: PreTrainedModel) -> PreTrainedModel:
    """The causal LM inside an adapter's wrapper, or the model itself; adapters stay in its layers."""
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model  # type: ignore[operator]


def zero_dropout(model: nn.Module) -> None:
    """Turns dropout off for good: the modules, and the rates that attention layers read in training mode."""
    for module in model.modules():
        for name in ("p", "attention_dropout", "dropout", "attn_dropout", "resid_dropout", "hidden_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def score(
    causal_lm: PreTrainedModel, hidden: Tensor, targets: Tensor, temperature: float, readouts: tuple[Readout, ...]
) -> tuple[Tensor, ...]:
    """Log-probs of the targets, and the readouts of their logits, chunk by chunk; logits never leave this function.

    Shapes: (n, H), (n,) int64 -> (n,) and (n,) for each readout, float32.
    """

    def chunk(hidden: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        scaled = logits(causal_lm, hidden).float() / temperature
        logps = scaled.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
        return logps, *(readout(scaled) for readout in readouts)

    size = max(1, LOGITS_BYTES // (4 * causal_lm.config.vocab_size))
    if len(hidden) <= size:
        return chunk(hidden, targets)
    pieces = [
        checkpoint(chunk, h, t, use_reentrant=False)
        for h, t in zip(hidden.split(size), targets.split(size), strict=True)
    ]
    return tuple(torch.cat(same) for same in zip(*pieces, strict=True))


def logits(causal_lm: PreTrainedModel, hidden: Tensor) -> Tensor:
    """(n, H) -> (n, V): the LM head, with the scaling and soft cap that a few families put behind it."""
    config = causal_lm.config
    head = causal_lm.get_output_embeddings()
    assert head is not None, "a causal LM has a head"
    raw = head(hidden) / getattr(config, "logits_scaling", 1.0) * getattr(config, "logit_scale", 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return raw if cap is None else torch.tanh(raw / cap) * cap
