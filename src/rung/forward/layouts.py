"""Three ways to run prompts and completions through a causal decoder; all give the same hidden states.

A part is a set of rows that run through the model together. Letters: P prompts, S prompt width, N rows, T completion
width, H hidden size, n trained tokens of the part. Each layout returns `States`: the hidden state that predicts each
trained token, in row-major order, and that of each row's last attended token. Rows with the same prompt share its
computation in all layouts but the plain one.
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
    """Hidden states of a part, and the number of positions computed for them."""

    predicting: Tensor  # (n, H) for the true entries of loss_mask, row by row
    last: Tensor  # (N, H) of the last attended token
    positions: int


def plain(backbone: Backbone, batch: Batch) -> States:
    """Runs one sequence [prompt | completion] per row, padded on the right; rows share nothing.

    Right padding needs no mask under causal attention: no real token attends to later positions. The tests compare the
    other two layouts with this one.
    """
    prompt_lengths = batch.prompt_mask.sum(1)[batch.prompt_of]
    ids = joined_rows(batch, prompt_lengths)
    hidden = run_decoder(backbone, ids)
    rows, columns = batch.loss_mask.nonzero(as_tuple=True)
    every = torch.arange(batch.num_rows, device=ids.device)
    return States(
        hidden[rows, prompt_lengths[rows] + columns - 1],
        hidden[every, prompt_lengths + batch.lengths - 1],
        ids.numel(),
    )


def joined_rows(batch: Batch, prompt_lengths: Tensor) -> Tensor:
    """(N, L) ids: each row's prompt and completion, padded with the row's first token; `prompt_lengths` is (N,)."""
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
    """Two passes: a prefill that computes each prompt once, then completions on its KV cache in any number of parts.

    With gradients enabled, the cache and the prompts' last hidden states are detached into leaf tensors: each part runs
    its own backward, the leaves accumulate the gradients, and `backward` propagates them through the prompts once.
    Memory holds the graph of one part and that of the prompts, regardless of the number of completions.
    """

    def __init__(self, backbone: Backbone, config: PretrainedConfig, batch: Batch):
        self.backbone = backbone
        self.mask = batch.prompt_mask
        self.lengths = batch.prompt_mask.sum(1)
        self.cache = DynamicCache(config=config)
        hidden = run_decoder(
            backbone,
            batch.prompt_ids,
            attention_mask=None if bool(self.mask.all()) else self.mask,
            position_ids=(self.mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=self.cache,
            use_cache=True,
        )
        # Trap: with gradient checkpointing in training mode the cache stays empty, and log-probs would silently be
        # computed without the prompt.
        assert self.cache.get_seq_length() == batch.prompt_ids.shape[1], "the decoder did not fill the KV cache"
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
        """Hidden states of a part's completions on the shared cache; `prompt_of` (N,) indexes the shared prompts."""
        if not batch.completion_ids.shape[1]:  # all completions are empty: use the prompts' own states
            return States(self.first[:0], index_rows(self.first, prompt_of), 0)
        cache = copy(self.cache)
        # Trap: a sliding-window layer rebuilt with `update` would lose its position count; copy it and select rows.
        cache.layers = [copy(layer) for layer in self.cache.layers]
        for layer in cache.layers:
            assert isinstance(layer, DynamicLayer)
            assert layer.keys is not None
            assert layer.values is not None
            layer.keys, layer.values = index_rows(layer.keys, prompt_of), index_rows(layer.values, prompt_of)
        hidden = run_decoder(
            self.backbone,
            batch.completion_ids.masked_fill(~batch.completion_mask, 0),
            attention_mask=torch.cat([self.mask[prompt_of], batch.completion_mask], 1),
            position_ids=self.lengths[prompt_of, None]
            + torch.arange(batch.completion_ids.shape[1], device=prompt_of.device),
            past_key_values=cache,
            use_cache=True,
        )
        shifted = torch.cat([index_rows(self.first, prompt_of)[:, None], hidden], 1)
        every = torch.arange(batch.num_rows, device=prompt_of.device)
        return States(shifted[:, :-1][batch.loss_mask], shifted[every, batch.lengths], batch.completion_ids.numel())

    def backward(self) -> None:
        """Propagates the accumulated gradients through the prompts; call once, after the backward of every part."""
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
    """Runs packed rows [prompt | completion | completion ... | prompt | completion ...] with a block mask.

    `packs` (N,) int64 is the packed row, from 0, of each completion. Completions of one prompt in the same pack share a
    copy of the prompt; each attends only to its prompt and itself, with the position ids of an unpacked row. There is
    no KV cache, so activation checkpointing is possible; the cost of attention is quadratic in the packed row.
    """
    prompt_lengths, lengths = batch.prompt_mask.sum(1)[batch.prompt_of], batch.lengths
    first, start = pack_offsets(packs, batch.prompt_of, prompt_lengths, lengths)
    after = first + prompt_lengths  # the first column after a row's prompt
    shape = int(packs.max()) + 1, int((start + lengths).max())

    ids = torch.zeros(shape, dtype=torch.long, device=packs.device)
    positions, begin, end = torch.zeros_like(ids), torch.zeros_like(ids), torch.zeros_like(ids)
    own = torch.arange(shape[1], device=packs.device).repeat(shape[0], 1)  # padding attends to itself, to avoid NaN
    mask = batch.prompt_mask[batch.prompt_of]
    row, token = prompt_positions(mask)  # rows that share a prompt write equal values to the same cells
    cell = packs[row], first[row] + token
    ids[cell], positions[cell], own[cell] = batch.prompt_ids[batch.prompt_of][mask], token, first[row]
    row, token = batch.completion_mask.nonzero(as_tuple=True)
    cell = packs[row], start[row] + token
    ids[cell], positions[cell] = batch.completion_ids[row, token], prompt_lengths[row] + token
    begin[cell], end[cell], own[cell] = first[row], after[row], start[row]

    hidden = run_decoder(
        backbone, ids, attention_mask=attention_mask(config, positions, begin, end, own), position_ids=positions
    )
    row, token = batch.loss_mask.nonzero(as_tuple=True)
    column = torch.where(token > 0, start[row] + token, after[row]) - 1
    last = torch.where(lengths > 0, start + lengths, after) - 1
    flat = hidden.flatten(0, 1)
    return States(
        index_rows(flat, packs[row] * shape[1] + column), index_rows(flat, packs * shape[1] + last), ids.numel()
    )


def pack_offsets(packs: Tensor, prompt_of: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Start columns of each row's prompt and completion in its pack; all (N,) int64, lengths in tokens.

    Rows of a pack keep their order. A row with the same prompt as the row before it in the pack shares that prompt.

    >>> packs, prompt_of = torch.tensor([0, 1, 0, 0]), torch.tensor([0, 0, 0, 1])
    >>> first, start = pack_offsets(packs, prompt_of, torch.tensor([2, 2, 2, 3]), torch.tensor([4, 5, 6, 7]))
    >>> first.tolist(), start.tolist()
    ([0, 0, 0, 12], [2, 2, 6, 15])
    """
    order = packs.argsort(stable=True)
    pack, prompt, prompt_length, length = packs[order], prompt_of[order], prompt_lengths[order], lengths[order]
    opens_pack = torch.ones_like(pack, dtype=torch.bool)
    opens_pack[1:] = pack[1:] != pack[:-1]
    opens_prompt = opens_pack.clone()
    opens_prompt[1:] |= prompt[1:] != prompt[:-1]
    size = length + opens_prompt * prompt_length
    before = size.cumsum(0) - size
    start = before + size - length - before[opens_pack][opens_pack.cumsum(0) - 1]
    first = (start - prompt_length)[opens_prompt][opens_prompt.cumsum(0) - 1]
    back = order.argsort()
    return first[back], start[back]


def index_rows(tensor: Tensor, rows: Tensor) -> Tensor:
    """Selects rows of a tensor, repeats allowed, with a deterministic gradient.

    The gradient of `tensor[rows]` is accumulated by several threads in nondeterministic order.
    """
    return tensor.index_select(0, rows)


def prompt_positions(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Row and position of each prompt token, not counting left padding; (P, S) bool -> two (tokens,)."""
    row, _ = mask.nonzero(as_tuple=True)
    return row, (mask.cumsum(1) - 1)[mask]


def attention_mask(
    config: PretrainedConfig, positions: Tensor, begin: Tensor, end: Tensor, own: Tensor
) -> Tensor | dict[str, Tensor]:
    """Attention mask of packed rows, (B, 1, L, L) bool; for sliding windows a dict with one mask per layer type.

    All arguments are (B, L) int64. The query in column q attends to the columns from `begin` to before `end`, which
    hold its prompt, and from `own` to q. A sliding window is defined on positions, but may be applied to columns,
    because within both ranges columns and positions increase together.
    """
    query = torch.arange(own.shape[1], device=own.device)
    full = block_mask(begin, end, own)
    kinds = getattr(config, "layer_types", None)
    if kinds is None or set(kinds) == {"full_attention"}:
        return full
    oldest = positions - config.sliding_window + 1
    sliding = block_mask(begin + oldest.clamp(min=0), end, torch.maximum(own, query - config.sliding_window + 1))
    return {"full_attention": full, "sliding_attention": sliding}


def block_mask(begin: Tensor, end: Tensor, own: Tensor) -> Tensor:
    """(B, 1, L, L) bool: in row q, true in columns from `begin` to before `end` and from `own` to q; each (B, L)."""
    key = torch.arange(own.shape[1], device=own.device)
    prompt = (key >= begin[..., None]) & (key < end[..., None])
    return (prompt | ((key >= own[..., None]) & (key <= key[:, None])))[:, None]


def run_decoder(backbone: Backbone, ids: Tensor, **inputs: object) -> Tensor:
    """The decoder's last hidden states, (B, L) -> (B, L, H)."""
    inputs.setdefault("use_cache", False)
    return backbone(input_ids=ids, **inputs).last_hidden_state  # type: ignore[attr-defined]
