"""The KV cache for decoding: as in transformers, but full-attention layers use a growing buffer, not concatenation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from copy import copy
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from rung.errors import ConfigError


class GrowingLayer(DynamicLayer):
    """The cache of a full-attention layer; keys and values (rows, heads, length, size) are views of a larger buffer.

    The buffer is replaced by one of twice the needed length when it is full. For inference only: an update writes into
    memory that is shared with the views returned before, so no gradient may flow through them. A shallow copy shares
    the buffer as well; use `branch` to copy, which selects rows and so allocates new memory.
    """

    def __init__(self):
        super().__init__()
        self._buffers: tuple[Tensor, Tensor] | None = None
        self._view: Tensor | None = None

    def replace(self, keys: Tensor, values: Tensor) -> None:
        """Replaces keys and values by others, and releases the buffer."""
        self.keys, self.values, self._buffers, self._view = keys, values, None, None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends keys and values, each (rows, heads, new, size); returns views of all keys and values so far.

        Raises AssertionError if the keys require a gradient.
        """
        assert not (key_states.requires_grad and torch.is_grad_enabled()), "a growing cache is for inference only"
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        # If `keys` was replaced (by row selection or cropping), the buffer is stale, even if it is large enough.
        if self._buffers is None or self.keys is not self._view or self._buffers[0].shape[-2] < end:
            self._buffers = self._grown(self.keys, key_states, start), self._grown(self.values, value_states, start)
        keys, values = self._buffers
        keys[:, :, start:end], values[:, :, start:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        self._view = self.keys
        return self.keys, self.values

    @staticmethod
    def _grown(old: Tensor | None, new: Tensor, length: int) -> Tensor:
        rows, heads, count, size = new.shape
        buffer = new.new_empty(rows, heads, 2 * (length + count), size)
        if length and old is not None:
            buffer[:, :, :length] = old
        return buffer


def new_cache(config: PreTrainedConfig) -> Cache:
    """An empty KV cache for a model: `GrowingLayer` for full attention, transformers' own layer for sliding windows.

    Raises ConfigError if a layer of the model has another kind of state, such as a recurrent one.
    """
    cache = DynamicCache(config=config)
    foreign = {type(layer).__name__ for layer in cache.layers} - {"DynamicLayer", "DynamicSlidingWindowLayer"}
    if foreign:
        raise ConfigError(
            f"model `{config.model_type}` has layers whose state cannot be shared: {', '.join(sorted(foreign))}",
            "use a model with full or sliding-window attention in every layer",
        )
    return Cache([layer if isinstance(layer, DynamicSlidingWindowLayer) else GrowingLayer() for layer in cache.layers])


def branch(cache: Cache, rows: Tensor) -> Cache:
    """A new cache with rows of `cache`, selected by indices (n,), which may repeat; `cache` is unchanged.

    The layers are copied and then select rows. Filling new layers with `update` would be wrong: sliding-window layers
    would lose their count of positions.
    """
    part = copy(cache)
    part.layers = [copy(layer) for layer in cache.layers]
    part.batch_select_indices(rows)
    return part


def without_padding(cache: Cache, row: int, length: int) -> Cache:
    """A new cache with one row of `cache`, and of it only the last `length` positions; `cache` is unchanged."""
    part = branch(cache, torch.tensor([row]))
    for layer in _layers(part):
        keys, values = _states(layer)
        start = keys.shape[-2] - min(length, _most_columns(layer))
        _replace(layer, keys[:, :, start:].clone(), values[:, :, start:].clone(), length)
    return part


def join(caches: Sequence[Cache]) -> Cache:
    """A new cache with the rows of several, padded on the left to the length of the longest.

    The padding is zeros, which an attention mask has to hide.
    """
    length = max(cache.get_seq_length() for cache in caches)
    joined = copy(caches[0])
    joined.layers = [copy(layer) for layer in caches[0].layers]
    for layer, *parts in zip(_layers(joined), *map(_layers, caches), strict=True):
        width = min(length, _most_columns(layer))
        keys, values = zip(*map(_states, parts), strict=True)
        _replace(layer, _left_padded(keys, width), _left_padded(values, width), length)
    return joined


def _left_padded(parts: Sequence[Tensor], width: int) -> Tensor:
    return torch.cat([torch.nn.functional.pad(part, (0, 0, width - part.shape[-2], 0)) for part in parts])


def _layers(cache: Cache) -> list[GrowingLayer | DynamicSlidingWindowLayer]:
    """The layers of a cache that `new_cache` made."""
    return cast(list[GrowingLayer | DynamicSlidingWindowLayer], cache.layers)


def _states(layer: DynamicLayer) -> tuple[Tensor, Tensor]:
    assert layer.keys is not None, "the cache is filled"
    assert layer.values is not None, "the cache is filled"
    return layer.keys, layer.values


def _most_columns(layer: DynamicLayer) -> int:
    """The most positions that a layer stores: a sliding window includes the position that attends."""
    return layer.sliding_window - 1 if isinstance(layer, DynamicSlidingWindowLayer) else sys.maxsize


def _replace(layer: GrowingLayer | DynamicSlidingWindowLayer, keys: Tensor, values: Tensor, length: int) -> None:
    if isinstance(layer, GrowingLayer):
        layer.replace(keys, values)
    else:
        layer.keys, layer.values, layer.cumulative_length = keys, values, length
