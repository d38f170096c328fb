"""Margins of pairs, and prompts with answers ranked from best to worst."""

from typing import Any

import pytest
import torch

from rung.data.collate import collate
from rung.data.encode import encode
from rung.data.load import load_examples
from rung.data.report import DataReport
from rung.errors import DataError

CHAT = [{"role": "user", "content": "Why?"}]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def batch_of(rows, tokenizer, **limits):
    settings: dict[str, Any] = {"max_prompt_length": None, "max_length": None} | limits
    return collate(encode(load_examples(rows)[0], tokenizer, report=DataReport(), **settings), pad_id=0)


def test_a_ranking_is_one_group_with_the_best_row_first(plain) -> None:
    rows = [{"prompt": "ab", "completions": ["c", "dd", "eee"]}, {"prompt": "x", "completions": ["y", "z"]}]
    batch = batch_of(rows, plain)
    assert batch.group_of.tolist() == [0, 0, 0, 1, 1]
    assert batch.prompt_of.tolist() == [0, 0, 0, 1, 1]
    assert batch.lengths.tolist() == [2, 3, 4, 2, 2]  # letters and EOS


def test_a_ranking_of_conversations_may_repeat_the_prompt(chat) -> None:
    bare = batch_of([{"prompt": CHAT, "completions": [answer("a"), answer("b"), answer("c")]}], chat)
    whole = batch_of([{"prompt": CHAT, "completions": [CHAT + answer(text) for text in "abc"]}], chat)
    assert torch.equal(bare.completion_ids, whole.completion_ids)


def test_a_margin_reaches_every_row_of_its_group_and_is_0_where_a_row_has_none(plain) -> None:
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0.5},
        {"prompt": "d", "chosen": "e", "rejected": "f", "margin": None},
    ]
    assert batch_of(rows, plain).extras["margin"].tolist() == [0.5, 0.5, 0.0, 0.0]
    assert "margin" not in batch_of(rows[1:], plain).extras
    ranked = [{"prompt": "a", "completions": ["b", "c", "d"], "margin": "2"}]
    assert batch_of(ranked, plain).extras["margin"].tolist() == [2.0, 2.0, 2.0]


def test_over_long_answers_of_a_ranking_drop_or_cut_the_group(plain) -> None:
    rows = [{"prompt": "a", "completions": ["b", "cd", "cde"]}, {"prompt": "a", "completions": ["b", "c"]}]
    assert batch_of(rows, plain, max_length=4).num_groups == 1
    with pytest.raises(DataError, match="two of `completions` are equal after truncation"):
        batch_of(rows[:1], plain, max_length=3, on_overlong="truncate")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "completions": ["b"]}, "`completions` is not a list of at least two completions"),
        ({"prompt": "a", "completions": ["b", "c", "b"]}, r"two of `completions` are equal \(numbers 1 and 3\)"),
        ({"prompt": "a", "completions": ["b", " "]}, r"`completions\[2\]` is empty"),
        ({"prompt": "a", "completions": ["b", answer("c")]}, "texts and lists of messages are mixed"),
        ({"prompt": "a", "completions": ["b", None]}, r"`completions\[2\]` is not a string"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "wide"}, "`margin` is not a finite number"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": float("nan")}, "`margin` is not a finite number"),
        ({"prompt": "a", "completions": ["b", "c"], "margin": True}, "`margin` is not a finite number"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(row, message) -> None:
    with pytest.raises(DataError, match=f"row 1: {message}"):
        load_examples([row])
