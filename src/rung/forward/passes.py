"""Runs the planned parts of a batch through the decoders, with whole or sharded weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rung.batch import Batch, placeholder
from rung.distributed.fsdp import Shards
from rung.distributed.ranks import Ranks
from rung.forward.layouts import SharedPrompts, States, masked_rows, plain
from rung.forward.planner import Block, Layout, Part

Compute = Callable[[Batch, list[States]], dict[str, Any]]  # named tensors, dicts of tensors, or None


@dataclass(slots=True)
class WorkCounter:
    """Work done so far: positions through the decoder, rows through the LM head, model calls."""

    positions: int = 0
    head_rows: int = 0
    calls: int = 0


@dataclass(frozen=True, slots=True)
class PartRunner:
    """Runs parts on one device, in one dtype, with whole or sharded weights; `work` counts what is computed."""

    device: torch.device
    dtype: torch.dtype
    shards: Shards | None
    ranks: Ranks
    work: WorkCounter

    def run(
        self, decoders: Sequence[PreTrainedModel], batch: Batch, blocks: tuple[Block, ...], compute: Compute
    ) -> Iterator[tuple[Tensor, Batch, dict[str, Any]]]:
        """Yields, for each part, its row numbers, its batch, and what `compute` returns for its hidden states.

        `compute` gets the part and its states under each decoder, in the order of `decoders`.
        """
        own = sum(len(block.parts) for block in blocks)
        max_parts = own if self.shards is None else int(self.ranks.max({"parts": torch.tensor(own)})["parts"])
        for block in blocks:
            if block.layout == "shared":
                yield from self._run_shared(decoders, batch, block, compute)
                continue
            for planned in block.parts:
                rows, part = self._pick(batch, planned)
                yield rows, part, self._run_part(decoders, part, planned, block.layout, compute)
        for _ in range(max_parts - own):
            self._run_placeholder(decoders, compute)
        if self.shards is not None:
            self.shards.reshard_root()

    def _run_part(
        self, decoders: Sequence[PreTrainedModel], part: Batch, planned: Part, layout: Layout, compute: Compute
    ) -> dict[str, Any]:
        """One forward pass of a part, with whole or sharded weights."""

        def forward() -> dict[str, Any]:
            with self._autocast():
                return compute(part, [self._states(decoder, part, planned, layout) for decoder in decoders])

        return forward() if self.shards is None else self.shards.run(forward)

    def _run_placeholder(self, decoders: Sequence[PreTrainedModel], compute: Compute) -> None:
        """Runs a placeholder part with zero gradient: each layer is a collective, and other ranks still have parts."""
        made = self._run_part(decoders, placeholder(self.device), Part((0,)), "plain", compute)
        read = [tensor for tensor in _tensors(made) if tensor.requires_grad]
        if read:
            torch.stack([tensor.sum() * 0 for tensor in read]).sum().backward()

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    def _states(self, decoder: PreTrainedModel, part: Batch, planned: Part, layout: Layout) -> States:
        if layout == "plain":
            return self._count_states(plain(decoder.base_model, part))
        packs = torch.tensor(planned.packs, device=part.prompt_of.device)
        return self._count_states(masked_rows(decoder.base_model, decoder.config, part, packs))

    def _run_shared(
        self, decoders: Sequence[PreTrainedModel], batch: Batch, block: Block, compute: Compute
    ) -> Iterator[tuple[Tensor, Batch, dict[str, Any]]]:
        everything = sorted(row for planned in block.parts for row in planned.rows)
        whole = batch.select(torch.tensor(everything)).to(self.device)
        with self._autocast():
            shared = [SharedPrompts(decoder.base_model, decoder.config, whole) for decoder in decoders]
        self._count(sum(prompts.positions for prompts in shared), len(decoders))
        number_of = {
            prompt: number for number, prompt in enumerate(batch.prompt_of[everything].unique_consecutive().tolist())
        }
        for planned in block.parts:
            rows, part = self._pick(batch, planned)
            prompts = torch.tensor([number_of[p] for p in batch.prompt_of[rows].tolist()], device=self.device)
            with self._autocast():
                made = compute(part, [self._count_states(each.states(part, prompts)) for each in shared])
            yield rows, part, made
        for prompts in shared:
            prompts.backward()

    def _pick(self, batch: Batch, planned: Part) -> tuple[Tensor, Batch]:
        """Row numbers of one part (micro-batch) of the plan, and these rows as a batch on the model's device."""
        rows = torch.tensor(planned.rows)
        return rows, batch.select(rows).to(self.device)

    def _count_states(self, states: States) -> States:
        self._count(states.positions, 1)
        return states

    def _count(self, positions: int, calls: int) -> None:
        self.work.positions += positions
        self.work.calls += calls


def _tensors(made: Mapping[str, Any]) -> Iterator[Tensor]:
    for value in made.values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            yield from _tensors(value)
