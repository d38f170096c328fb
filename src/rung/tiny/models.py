"""The models `tiny:<name>`: random ones of four families, the pretrained `base`, and `blank`, its untrained start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.errors import ConfigError
from rung.tiny import tokenizers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

FAMILIES = ("llama", "qwen3", "gpt2", "gemma3")
NAMES = (*FAMILIES, "base", "blank")


def build(name: str, *, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Builds a random fp32 model of a family in `FAMILIES` (hidden 32, 2 layers, 512 positions) and the byte tokenizer.

    Equal seeds give equal weights; the global random state is unchanged. Raises ConfigError for another name.

    >>> model, tokenizer = build("llama")
    >>> model.config.num_key_value_heads, model.config.vocab_size == len(tokenizer), model.training
    (2, True, False)
    """
    if name not in FAMILIES:
        raise ConfigError(f"there is no random tiny model `{name}`", f"choose one of {', '.join(FAMILIES)}")
    tokenizer = tokenizers.byte()
    return _random(_family(name, len(tokenizer)), seed), tokenizer


def blank(*, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Builds the untrained model, and its tokenizer, from which `configs/tiny/base.yaml` trains `tiny:base`."""
    from transformers import Qwen3Config

    from rung.tiny import corpus

    tokenizer = tokenizers.bpe(corpus.texts(count=4000), size=1000)
    config = Qwen3Config(
        **_tokens(len(tokenizer)),
        hidden_size=128,
        intermediate_size=400,
        num_hidden_layers=4,
        # A first layer that attends one token back is half of an induction head: the model learns copying in a fraction
        # of the steps that four full-attention layers need.
        layer_types=["sliding_attention", *["full_attention"] * 3],
        use_sliding_window=True,
        sliding_window=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.03,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    return _random(config, seed), tokenizer


def open_base() -> Path:
    """The folder of `tiny:base`: bf16 weights, config and tokenizer. Raises ConfigError if the weights are missing."""
    folder = Path(__file__).parent / "base"
    if not (folder / "model.safetensors").is_file():
        raise ConfigError(
            f"the weights of `tiny:base` are missing in {folder}", "train them: rung run configs/tiny/base.yaml"
        )
    return folder


def load_spec(name: str, *, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Loads the model `tiny:<name>` in fp32 and eval mode, and its tokenizer.

    `name` has no prefix; `seed` initialises the random models. Raises ConfigError for a name that is not in `NAMES`.
    """
    if name in FAMILIES:
        return build(name, seed=seed)
    if name == "blank":
        return blank(seed=seed)
    if name == "base":
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = open_base()
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    raise ConfigError(f"there is no model `tiny:{name}`", f"choose one of {', '.join(f'tiny:{n}' for n in NAMES)}")


def _tokens(size: int) -> dict[str, Any]:
    return {
        "vocab_size": size,
        "pad_token_id": tokenizers.PAD_ID,
        "eos_token_id": tokenizers.EOS_ID,
        "bos_token_id": tokenizers.BOS_ID,
    }


def _family(name: str, vocab_size: int) -> PretrainedConfig:
    """The config of a family: grouped-query attention except in GPT-2; one Gemma-3 layer has a sliding window of 8."""
    from transformers import Gemma3TextConfig, GPT2Config, LlamaConfig, Qwen3Config

    # The usual initializer range of 0.02 makes the distributions of such a narrow model nearly uniform, so that tests
    # of equality would detect little.
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "initializer_range": 0.15,
    }
    tokens = _tokens(vocab_size)
    if name == "llama":
        return LlamaConfig(**tokens, **shape, tie_word_embeddings=False)
    if name == "qwen3":
        return Qwen3Config(**tokens, **shape, tie_word_embeddings=True)
    if name == "gemma3":
        layers = ["sliding_attention", "full_attention"]
        return Gemma3TextConfig(**tokens, **shape, sliding_window=8, layer_types=layers, query_pre_attn_scalar=8)
    return GPT2Config(
        **tokens,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_inner=64,
        n_positions=512,
        initializer_range=0.15,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )


def _random(config: PretrainedConfig, seed: int) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
