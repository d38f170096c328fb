"""The text of a sampled completion, with and without special tokens."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rung.batch import Completion


def visible_text(completion: Completion, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text without special tokens, as `decode(skip_special_tokens=True)` gives it."""
    return cast(str, tokenizer.decode(list(completion.ids), skip_special_tokens=True))


def raw_text(completion: Completion, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text with special tokens such as `<think>`, but without the stop token at its end."""
    ids = list(completion.ids)
    if completion.finish_reason == "eos":
        ids.pop()
    if _special_ids(tokenizer).isdisjoint(ids):
        return visible_text(completion, tokenizer)
    return cast(str, tokenizer.decode(ids, skip_special_tokens=False))


@lru_cache(maxsize=4)
def _special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    added = (token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset({*tokenizer.all_special_ids, *added})
