"""The vocabulary of a model against that of its tokenizer: ids that are no tokens, and tokens without an embedding."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rung.errors import ConfigError
from rung.models.architecture import base_model

REMEDY = "call `model.resize_token_embeddings(len(tokenizer))` and save the model, or use the tokenizer it came with"
_NUM_TOKENS = "num_tokens"  # an attribute of an output head


def ignore_unused_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes `without_unused` leave out the logits of ids that are no tokens, which many models have as padding."""
    head = base_model(model).get_output_embeddings()
    if isinstance(head, nn.Module):
        setattr(head, _NUM_TOKENS, max(tokenizer.get_vocab().values()) + 1)


def without_unused(model: PreTrainedModel, logits: Tensor) -> Tensor:
    """The logits (..., V) without those of ids at the end that are no tokens, which are never drawn nor scored."""
    num = getattr(base_model(model).get_output_embeddings(), _NUM_TOKENS, None)
    return logits if num is None or num >= logits.shape[-1] else logits[..., :num]


def num_embeddings(model: PreTrainedModel) -> int:
    """The number of ids for which the model has an embedding."""
    embeddings = base_model(model).get_input_embeddings()
    return int(embeddings.weight.shape[0])  # type: ignore[union-attr,arg-type]


def check_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ConfigError if the padding or EOS token has no embedding in the model."""
    size = num_embeddings(model)
    for name in ("pad_token", "eos_token"):
        token_id = getattr(tokenizer, f"{name}_id")
        if token_id is not None and token_id >= size:
            token = getattr(tokenizer, name)
            raise ConfigError(f"`{name}` {token} has the id {token_id}, but the model has {size} embeddings", REMEDY)


def first_without_embedding(ids: Iterable[int], size: int) -> int | None:
    """The first id that is not below `size`, the number of embeddings of a model; None if there is none.

    >>> first_without_embedding([3, 9, 7], 8)
    9
    """
    return next((one for one in ids if one >= size), None)
