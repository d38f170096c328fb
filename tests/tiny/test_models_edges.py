"""The shapes of the tiny models, number by number: a result belongs to the model that it was measured on."""

import pytest
import torch

from rung.errors import ConfigError
from rung.tiny.models import blank, build, load_spec
from rung.tiny.tokenizers import BOS_ID, EOS_ID, PAD_ID, bpe, byte


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("llama", {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": False}),
        ("qwen3", {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}),
        ("gemma3", {"sliding_window": 8, "query_pre_attn_scalar": 8, "num_key_value_heads": 2, "head_dim": 8}),
        ("gpt2", {"n_inner": 64, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    ],
)
def test_a_family(family: str, expected: dict) -> None:
    model, tokenizer = build(family)
    config = model.config
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": 0.15,
        "vocab_size": 263,
        "pad_token_id": PAD_ID,
        "eos_token_id": EOS_ID,
        "bos_token_id": BOS_ID,
    }
    found = shape | expected | ({} if family == "gpt2" else {"intermediate_size": 64})
    assert {name: getattr(config, name) for name in found} == found
    if family == "gemma3":
        assert config.layer_types == ["sliding_attention", "full_attention"]  # type: ignore[attr-defined]
    assert (len(tokenizer), model.training, model.dtype) == (263, False, torch.float32)


def test_the_shape_of_the_base() -> None:
    model, tokenizer = blank(seed=3)
    expected = {
        "hidden_size": 128,
        "intermediate_size": 400,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention", "full_attention", "full_attention"],
        "sliding_window": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "initializer_range": 0.03,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "vocab_size": 1000,
    }
    assert {name: getattr(model.config, name) for name in expected} == expected
    assert model.config.use_sliding_window is True  # type: ignore[attr-defined]
    assert len(tokenizer) == 1000
    base, shipped = load_spec("base")
    assert {name: getattr(base.config, name) for name in expected} == expected
    assert shipped.get_vocab() == tokenizer.get_vocab()
    assert (base.dtype, base.training) == (torch.float32, False)


def test_seeds_differ_and_names_are_known() -> None:
    one, other = (next(build("llama", seed=seed)[0].parameters()) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(next(load_spec("llama", seed=1)[0].parameters()), other)
    with pytest.raises(ConfigError, match="no random tiny model `base`"):
        build("base")
    with pytest.raises(ConfigError, match="no model `tiny:x`"):
        load_spec("x")


def test_a_tokenizer_pads_on_the_left_and_knows_its_marks() -> None:
    tokenizer = byte()
    assert tokenizer.padding_side == "left"
    assert tokenizer.decode(tokenizer.encode("a . b , 's")) == "a . b , 's"
    assert tokenizer.convert_tokens_to_ids(["<|pad|>", "<|eos|>", "<|bos|>", "<|system|>", "<|tool|>"]) == [
        0,
        1,
        2,
        3,
        6,
    ]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, 2)
    assert len(bpe(["a"], size=263)) == 263
    with pytest.raises(ValueError, match="size is 262"):
        bpe(["a"], size=262)
    assert len(bpe(["abab cdcd"] * 9, size=265)) == 265
