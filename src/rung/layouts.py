"""Three ways to run prompts and completions through a causal decoder; all give the same hidden states.

Letters: P prompts, S prompt width, N rows, T completion width, H hidden size, n trained tokens of the part.
Each layout returns `States`: the hidden state that predicts each trained token, in row-major order, and the one of
each row's last attended token. No layout passes a position twice where another already holds it, except the plain one.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

from rung.batch import Batch

Backbone = Callable[..., object]


@dataclass(frozen=True, slots=True)
class States:
    """Hidden states of a part, and how many positions were computed for them."""

    predicting: Tensor  # (n, H) for the true entries of loss_mask, row by row
    last: Tensor  # (N, H) of the last attended token
    positions: int


def plain(backbone: Backbone, batch: Batch) -> States:
    """[prompt | completion] a row, padded on the right: every row on its own, the oracle of the other two.

    Right padding needs no mask under causal attention: no real token looks at what comes after it.
    """
    prompt_lengths = batch.prompt_mask.sum(1)[batch.prompt_of]
    ids = joined_rows(batch, prompt_lengths)
    hidden = run(backbone, ids)
    rows, columns = batch.loss_mask.nonzero(as_tuple=True)
    every = torch.arange(batch.num_rows, device=ids.device)
    return States(
        hidden[rows, prompt_lengths[rows] + columns - 1],
        hidden[every, prompt_lengths + batch.lengths - 1],
        ids.numel(),
    )


def joined_rows(batch: Batch, prompt_lengths: Tensor) -> Tensor:
    """(N, L) ids of each row's prompt, its completion, then its first token as padding; `prompt_lengths` is (N,)."""
    width = int((prompt_lengths + batch.lengths).max())
    place = torch.arange(width, device=prompt_lengths.device).expand(batch.num_rows, width)
    offset = place - prompt_lengths[:, None]
    prompts = batch.prompt_ids[batch.prompt_of].gather(
        1, (offset + batch.prompt_ids.shape[1]).clamp(0, batch.prompt_ids.shape[1] - 1)
    )
    completions = pad(batch.completion_ids, (0, 1))
    answers = completions.gather(1, offset.clamp(0, completions.shape[1] - 1))
    ids = torch.where(offset < 0, prompts, answers)
    return torch.where(offset < batch.lengths[:, None], ids, ids[:, :1])


class SharedPrompts:
    """Two passes: each prompt once with a cache, then completions on it in as many parts as wanted.

    With gradients on, the cache and the prompts' last hidden states are cut off into leaves: parts call backward on
    their own, the leaves collect, and `backward` sends what they collected through the prompts once. Memory holds one
    part's graph and the prompts' graph, however many completions there are.
    """

    def __init__(self, backbone: Backbone, config: PretrainedConfig, batch: Batch):
        self.backbone = backbone
        self.mask = batch.prompt_mask
        self.lengths = batch.prompt_mask.sum(1)
        self.cache = DynamicCache(config=config)
        hidden = run(
            backbone,
            batch.prompt_ids,
            attention_mask=None if bool(self.mask.all()) else self.mask,
            position_ids=(self.mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=self.cache,
            use_cache=True,
        )
        # Under gradient checkpointing in training mode the cache stays empty and completions would be scored without
        # their prompt, with no error.
        assert self.cache.get_seq_length() == batch.prompt_ids.shape[1], "the decoder did not fill the cache"
        self.positions = batch.prompt_ids.numel()
        self.graph: list[Tensor] = []
        self.leaves: list[Tensor] = []
        self.first = self._leaf(hidden[:, -1])
        for layer in self.cache.layers:
            assert isinstance(layer, DynamicLayer)
            assert layer.keys is not None
            assert layer.values is not None
            layer.keys, layer.values = self._leaf(layer.keys), self._leaf(layer.values)

    def states(self, batch: Batch, prompt_of: Tensor) -> States:
        """Completions of a part on the shared cache; `prompt_of` (N,) counts in the prompts given at the start."""
        if not batch.completion_ids.shape[1]:  # nothing was answered: the prompts' own states are all there is
            return States(self.first[:0], gathered(self.first, prompt_of), 0)
        cache = copy(self.cache)
        # Layers are copied and select rows by themselves: rebuilt by `update`, a sliding window would lose its count.
        cache.layers = [copy(layer) for layer in self.cache.layers]
        for layer in cache.layers:
            assert isinstance(layer, DynamicLayer)
            assert layer.keys is not None
            assert layer.values is not None
            layer.keys, layer.values = gathered(layer.keys, prompt_of), gathered(layer.values, prompt_of)
        hidden = run(
            self.backbone,
            batch.completion_ids.masked_fill(~batch.completion_mask, 0),
            attention_mask=torch.cat([self.mask[prompt_of], batch.completion_mask], 1),
            position_ids=self.lengths[prompt_of, None]
            + torch.arange(batch.completion_ids.shape[1], device=prompt_of.device),
            past_key_values=cache,
            use_cache=True,
        )
        shifted = torch.cat([gathered(self.first, prompt_of)[:, None], hidden], 1)
        every = torch.arange(batch.num_rows, device=prompt_of.device)
        return States(shifted[:, :-1][batch.loss_mask], shifted[every, batch.lengths], batch.completion_ids.numel())

    def backward(self) -> None:
        """The prompts' share of the gradient; call once, after the backward of every part."""
        touched = [
            (tensor, leaf.grad) for tensor, leaf in zip(self.graph, self.leaves, strict=True) if leaf.grad is not None
        ]
        if touched:
            torch.autograd.backward([tensor for tensor, _ in touched], [grad for _, grad in touched])

    def _leaf(self, tensor: Tensor) -> Tensor:
        if not tensor.requires_grad:
            return tensor
        leaf = tensor.detach().requires_grad_()
        self.graph.append(tensor)
        self.leaves.append(leaf)
        return leaf


def masked_rows(backbone: Backbone, config: PretrainedConfig, batch: Batch, packs: Tensor) -> States:
    """[prompt | completion | completion ...] a row, under a mask by which completions see their prompt and themselves.

    `packs` (N,) int64, non-decreasing: which packed row a completion goes to; a pack holds rows of one prompt. There is
    no cache, so it works with activation checkpointing; attention costs the square of the packed row.
    """
    device = packs.device
    count = int(packs[-1]) + 1
    first_row = torch.searchsorted(packs, torch.arange(count, device=device))
    prompt_of = batch.prompt_of[first_row]
    prompt_lengths = batch.prompt_mask.sum(1)[prompt_of]
    lengths = batch.lengths
    before = lengths.cumsum(0) - lengths
    start = prompt_lengths[packs] + before - before[first_row][packs]  # (N,) column where a completion starts
    width = int((start + lengths).max().clamp(min=int(prompt_lengths.max())))

    ids = torch.zeros(count, width, dtype=torch.long, device=device)
    positions = torch.zeros_like(ids)
    owner = torch.full_like(ids, -2)  # -1 the prompt, i >= 0 completion i, -2 padding
    pack, column = prompt_cells(batch.prompt_mask[prompt_of])
    ids[pack, column] = batch.prompt_ids[prompt_of][batch.prompt_mask[prompt_of]]
    positions[pack, column], owner[pack, column] = column, -1
    row, token = batch.completion_mask.nonzero(as_tuple=True)
    cell = packs[row], start[row] + token
    ids[cell] = batch.completion_ids[row, token]
    positions[cell] = prompt_lengths[packs[row]] + token
    owner[cell] = row

    hidden = run(backbone, ids, attention_mask=sight(config, positions, owner), position_ids=positions)
    row, token = batch.loss_mask.nonzero(as_tuple=True)
    column = torch.where(token > 0, start[row] + token, prompt_lengths[packs[row]]) - 1
    last = torch.where(lengths > 0, start + lengths, prompt_lengths[packs]) - 1
    flat = hidden.flatten(0, 1)
    return States(gathered(flat, packs[row] * width + column), gathered(flat, packs * width + last), ids.numel())


def gathered(tensor: Tensor, rows: Tensor) -> Tensor:
    """Rows of a tensor, some of them more than once, with a gradient that is the same in every run.

    The gradient of `tensor[rows]` is added up by several threads in whatever order they come.
    """
    return tensor.index_select(0, rows)


def prompt_cells(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each prompt token once left padding is taken away; (P, S) bool -> two (tokens,)."""
    row, _ = mask.nonzero(as_tuple=True)
    return row, (mask.cumsum(1) - 1)[mask]


def sight(config: PretrainedConfig, positions: Tensor, owner: Tensor) -> Tensor | dict[str, Tensor]:
    """Who sees whom: (B, 1, L, L) bool, or such a mask for each kind of layer where there are sliding windows.

    A query sees the keys of its prompt and of its own completion at positions up to its own; a sliding window counts in
    positions, not in columns. Padding sees itself, because a softmax over nothing is NaN.
    """
    query, key = owner[:, :, None], owner[:, None, :]
    back = positions[:, :, None] - positions[:, None, :]
    diagonal = torch.eye(owner.shape[1], dtype=torch.bool, device=owner.device)
    full = (((key == -1) | (key == query)) & (query != -2) & (key != -2) & (back >= 0)) | diagonal
    kinds = getattr(config, "layer_types", None)
    if kinds is None or set(kinds) == {"full_attention"}:
        return full[:, None]
    sliding = (full & (back < config.sliding_window)) | diagonal
    return {"full_attention": full[:, None], "sliding_attention": sliding[:, None]}


def run(backbone: Backbone, ids: Tensor, **inputs: object) -> Tensor:
    """The decoder's last hidden states, (B, L) -> (B, L, H)."""
    inputs.setdefault("use_cache", False)
    return backbone(input_ids=ids, **inputs).last_hidden_state  # type: ignore[attr-defined]
