"""Tiny models of many families with random weights, as transformers makes them from a config."""

from collections.abc import Callable
from typing import Any

import torch
import transformers

from rung.tiny.models import load_spec

VOCABULARY = 263  # of the tokenizer of `tiny:llama`
BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_hidden_layers": 4,
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_expand": 2}
# Class name without `ForCausalLM` -> settings beside BASE; families with other names of settings are in `OTHERS`.
DECODERS: dict[str, dict[str, Any]] = {
    **{name: {"head_dim": 8} for name in ("Llama", "Mistral", "Qwen3", "Gemma", "Gemma2", "Helium", "Glm", "Glm4")},
    **{name: {} for name in ("Qwen2", "Phi", "Phi3", "StableLm", "Cohere", "Granite", "Olmo", "Olmo2", "Starcoder2")},
    **{name: {} for name in ("SmolLM3", "Ernie4_5", "Arcee", "Apertus", "SeedOss")},
    **{name: {"sliding_window": 16} for name in ("Cohere2", "Olmo3", "Exaone4")},
    "Mixtral": EXPERTS,
    "Qwen3Moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "GptOss": {"head_dim": 8, "sliding_window": 16, **EXPERTS},
    "DeepseekV3": {
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    "Qwen3Next": {
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        **LINEAR,
    },
    "Lfm2": {"layer_types": ["conv", "full_attention"], "block_ff_dim": 64, "conv_L_cache": 3},
    "FalconH1": {
        "head_dim": 8,
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_expand": 1,
    },
    "Bamba": {"attn_layer_indices": [1], **MAMBA},
    "Jamba": {
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "mamba_d_state": 8,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "use_mamba_kernels": False,
    },
}
OTHERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Gemma3Text": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**BASE, "head_dim": 8, "sliding_window": 16}),
    "GPT2": ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "GPTNeoX": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {k: v for k, v in BASE.items() if k != "num_key_value_heads"}),
    "OPT": ("OPTForCausalLM", "OPTConfig", {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 128}),
    "Bloom": ("BloomForCausalLM", "BloomConfig", {"n_layer": 2, "n_head": 4}),
    "Falcon": ("FalconForCausalLM", "FalconConfig", {}),
    "Mpt": ("MptForCausalLM", "MptConfig", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128}),
    "Mamba": ("MambaForCausalLM", "MambaConfig", {"state_size": 8}),
    "Mamba2": (
        "Mamba2ForCausalLM",
        "Mamba2Config",
        {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "expand": 2},
    ),
    "Gemma3": (
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        {
            "text_config": {**BASE, "head_dim": 8, "sliding_window": 16},
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 16,
                "patch_size": 8,
            },
            "mm_tokens_per_image": 4,
        },
    ),
    "Qwen3_5Text": ("Qwen3_5ForCausalLM", "Qwen3_5TextConfig", {**BASE, "head_dim": 8, **LINEAR}),
}
COMMON = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES = (*DECODERS, *OTHERS)
RECURRENT = ("Mamba", "Mamba2", "Qwen3Next", "Lfm2", "FalconH1", "Bamba", "Jamba", "Qwen3_5Text")


def family(name: str) -> tuple[Any, Any]:
    """A tiny model of a family, in eval mode, and the tokenizer of `tiny:llama`."""
    torch.manual_seed(0)
    if name in DECODERS:
        config_name = f"{name}Config"
        model_name, settings = f"{name}ForCausalLM", {**BASE, **DECODERS[name]}
    else:
        model_name, config_name, settings = OTHERS[name]
        own = {"GPT2", "Mpt", "Gemma3"}
        settings = settings if "hidden_size" in settings or name in own else {**COMMON, **settings}
        settings = {"vocab_size": VOCABULARY, **settings} if name in own - {"Gemma3"} else settings
    make_config: Callable[..., Any] = getattr(transformers, config_name)
    model = getattr(transformers, model_name)(make_config(**settings))
    return model.eval(), load_spec("llama")[1]
