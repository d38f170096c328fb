"""The decode cache holds what transformers' own cache holds, after any order of growing, repeating and selecting."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3NextConfig
from transformers.cache_utils import Cache, DynamicCache

from rung.errors import ConfigError
from rung.rollout.cache import branch, new_cache

CONFIG = Qwen3Config(
    num_hidden_layers=2,
    layer_types=["full_attention", "sliding_attention"],
    use_sliding_window=True,
    sliding_window=5,
)


def states(rows: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, rows, 2, count, 4, generator=generator)
    return keys, values


def append(cache: Cache, rows: int, count: int, seed: int) -> list[torch.Tensor]:
    """The keys and values that each layer's attention sees."""
    keys, values = states(rows, count, seed)
    return [tensor.clone() for layer in range(2) for tensor in cache.update(keys, values, layer)]


def stored(cache: Cache) -> list[torch.Tensor]:
    """Copies of every layer's keys and values."""
    layers: list[Any] = cache.layers
    return [tensor.clone() for layer in layers for tensor in (layer.keys, layer.values)]


@pytest.mark.oracle
@given(st.lists(st.sampled_from(["grow", "repeat", "select"]), max_size=8), st.integers(1, 12), st.integers(0, 99))
def test_attention_sees_what_it_sees_with_the_stock_cache(steps: list[str], length: int, seed: int):
    ours, stock = new_cache(CONFIG), DynamicCache(config=CONFIG)
    rows = 2
    append(ours, rows, length, seed)
    append(stock, rows, length, seed)
    for i, step in enumerate(steps):
        if step == "repeat" and rows < 20:
            rows *= 3
            ours.batch_repeat_interleave(3)
            stock.batch_repeat_interleave(3)
        if step == "select":
            kept = torch.randint(rows, (max(1, rows - 1),), generator=torch.Generator().manual_seed(seed + i))
            rows = len(kept)
            ours.batch_select_indices(kept)
            stock.batch_select_indices(kept)
        seen = [append(cache, rows, 1, seed + i) for cache in (ours, stock)]
        assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
        assert ours.get_seq_length() == stock.get_seq_length()
        assert ours.get_mask_sizes(1, 1) == stock.get_mask_sizes(1, 1)


def test_branches_leave_their_origin_alone():
    """Two branches of one prompt cache grow apart, past the sliding window's position count."""
    cache = new_cache(CONFIG)
    append(cache, 2, 7, seed=0)
    before = stored(cache)
    first, second = branch(cache, torch.tensor([0, 0, 1])), branch(cache, torch.tensor([1]))
    seen = append(first, 3, 1, seed=1)
    append(second, 1, 1, seed=2)
    assert torch.equal(seen[0][:2, :, :7], before[0][[0, 0]])
    assert [c.get_seq_length(layer) for c in (cache, first, second) for layer in (0, 1)] == [7, 7, 8, 8, 8, 8]
    assert all(torch.equal(a, b) for a, b in zip(stored(cache), before, strict=True))


def test_most_appends_copy_nothing():
    cache = new_cache(CONFIG)
    layers: list[Any] = cache.layers
    places = set()
    for i in range(64):
        append(cache, 1, 1, seed=i)
        places.add(layers[0].keys.data_ptr())
    assert len(places) <= 7


def test_a_gradient_is_refused_rather_than_lost():
    keys, values = states(1, 2, seed=0)
    with pytest.raises(AssertionError, match="inference"):
        new_cache(CONFIG).update(keys.requires_grad_(), values, 0)


def test_layers_with_another_state_are_refused():
    config = Qwen3NextConfig(num_hidden_layers=2, layer_types=["linear_attention", "full_attention"])
    with pytest.raises(ConfigError, match="LinearAttentionLayer"):
        new_cache(config)
