"""The tokens that end what a model samples."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The sorted ids of the tokens that end a completion: EOS of the tokenizer and of the model's generation config."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return tuple(sorted({token for token in (tokenizer.eos_token_id, *several) if isinstance(token, int)}))
