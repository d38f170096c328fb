"""Tokenises text to token ids and their character spans, in the same way for all kinds of fast tokenizers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]  # characters [start, end)

ANCHORS = ("\n", "|", ".")  # texts to try in `continuation_tokens`; one must stay a token of its own before the text


def tokens(text: str, tokenizer: "PreTrainedTokenizerBase", *, special: bool) -> tuple[list[int], list[Span]]:
    """The token ids of a text and their character spans; `special` is the tokenizer's `add_special_tokens`."""
    out = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
    return cast(list[int], out["input_ids"]), cast(list[Span], out["offset_mapping"])


def continuation_tokens(text: str, tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[Span]]:
    """The token ids and character spans of a text that continues another text.

    SentencePiece and similar tokenizers add a space before every text, which is wrong for a continuation. With such a
    tokenizer, the text is tokenised with a short text (an anchor) before it, whose ids are then removed.
    """
    if not _adds_space(tokenizer):
        return tokens(text, tokenizer, special=False)
    for anchor in ANCHORS:
        anchor_ids, _ = tokens(anchor, tokenizer, special=False)
        ids, spans = tokens(anchor + text, tokenizer, special=False)
        size, n = len(anchor), len(anchor_ids)
        if n and ids[:n] == anchor_ids and spans[n - 1][1] == size:
            return ids[n:], [(start - size, end - size) for start, end in spans[n:]]
    return tokens(text, tokenizer, special=False)


def with_eos(ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The ids with EOS at the end; unchanged if they end with EOS already or the tokenizer has no EOS token."""
    eos = stop_id(tokenizer)
    return [*ids, eos] if eos is not None and ids[-1:] != [eos] else ids


def stop_id(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The id of the token that ends a completion (EOS); None if the tokenizer has none."""
    return cast("int | None", tokenizer.eos_token_id)


def overlapping(spans: Sequence[Span], targets: Sequence[Span]) -> list[bool]:
    """For each span, whether it has a character in common with one of `targets`.

    >>> overlapping([(0, 2), (2, 3), (3, 5)], [(1, 3)])
    [True, True, False]
    """
    # after `cumsum`, until[i] is the number of target characters before position i
    until = np.zeros(max((end for _, end in (*spans, *targets)), default=0) + 1, dtype=int)
    for start, end in targets:
        until[start + 1 : end + 1] = 1
    until = until.cumsum()
    edges = np.asarray(spans, dtype=int).reshape(-1, 2)
    return (until[edges[:, 1]] > until[edges[:, 0]]).tolist()


def num_shared(a: str, b: str) -> int:
    """The number of characters at the start that two texts have in common.

    >>> num_shared("turn", "tune")
    2
    """
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _adds_space(tokenizer: "PreTrainedTokenizerBase") -> bool:
    return "".join(tokenizer.tokenize("a")) != "a"
