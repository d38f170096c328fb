"""Texts as token ids with the characters that they stand for, whatever the family of the tokenizer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]  # characters [start, end)

ANCHORS = ("\n", "|", ".")  # one of them joins no token with the text behind it


def tokens(text: str, tokenizer: "PreTrainedTokenizerBase", *, special: bool) -> tuple[list[int], list[Span]]:
    """The ids of a text and their characters in it; `special` adds BOS or EOS where the tokenizer does so."""
    out = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
    return cast(list[int], out["input_ids"]), cast(list[Span], out["offset_mapping"])


def continued(text: str, tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[Span]]:
    """The ids of a text as it stands behind another one, and their characters in it.

    SentencePiece tokenizers and their like write a space before every text, which the middle of a text does not have.
    There the text is tokenised behind an anchor, whose ids are taken off.
    """
    if not _adds_space(tokenizer):
        return tokens(text, tokenizer, special=False)
    for anchor in ANCHORS:
        alone, _ = tokens(anchor, tokenizer, special=False)
        ids, spans = tokens(anchor + text, tokenizer, special=False)
        size, n = len(anchor), len(alone)
        if n and ids[:n] == alone and spans[n - 1][1] == size:
            return ids[n:], [(start - size, end - size) for start, end in spans[n:]]
    return tokens(text, tokenizer, special=False)


def ended(ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The ids with EOS as the last one, where the tokenizer has it."""
    eos = stop_id(tokenizer)
    return [*ids, eos] if eos is not None and ids[-1:] != [eos] else ids


def stop_id(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The token that ends an answer."""
    return cast("int | None", tokenizer.eos_token_id)


def overlapping(spans: Sequence[Span], said: Sequence[Span]) -> list[bool]:
    """Which spans hold a character of one of `said`.

    >>> overlapping([(0, 2), (2, 3), (3, 5)], [(1, 3)])
    [True, True, False]
    """
    until = np.zeros(max((end for _, end in (*spans, *said)), default=0) + 1, dtype=int)  # characters said so far
    for start, end in said:
        until[start + 1 : end + 1] = 1
    until = until.cumsum()
    edges = np.asarray(spans, dtype=int).reshape(-1, 2)
    return (until[edges[:, 1]] > until[edges[:, 0]]).tolist()


def _adds_space(tokenizer: "PreTrainedTokenizerBase") -> bool:
    return "".join(tokenizer.tokenize("a")) != "a"
