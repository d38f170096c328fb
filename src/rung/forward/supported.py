"""The layouts that a model and its settings support."""

from __future__ import annotations

from transformers import PreTrainedModel

from rung.forward.planner import Layout

SHARES_CACHE = frozenset({"llama", "mistral", "qwen2", "qwen3", "gpt2", "gemma3_text"})
TAKES_MASKS = SHARES_CACHE - {"mistral"}  # Mistral with a sliding window builds one mask for all layers itself


def layouts(causal_lm: PreTrainedModel) -> tuple[Layout, ...]:
    """The layouts that a model and its settings support."""
    config = causal_lm.config.get_text_config()
    if config is not causal_lm.config:  # a text model inside a multimodal one, which builds the masks itself
        return ("plain",)
    recurrent = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if recurrent:
        return ("plain",)
    takes_masks = config.model_type in TAKES_MASKS and config._attn_implementation == "sdpa"
    shares_cache = config.model_type in SHARES_CACHE and not causal_lm.is_activation_checkpointing
    return ("plain", *(["shared"] if shares_cache else []), *(["masked"] if takes_masks else []))
