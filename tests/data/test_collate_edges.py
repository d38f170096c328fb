"""Rows become a batch: labels and margins come along, whatever they are."""

import pytest
import torch

from helpers.edges import encoded
from rung.data.collate import collate, padded


@pytest.mark.parametrize("labels", [[False, False], [True, False], [True, True]])
def test_labels_come_along_whatever_they_are(labels: list[bool]) -> None:
    batch = collate([encoded(f"x:{i}", [5], [7, 8], label=label) for i, label in enumerate(labels)], pad_id=0)
    assert batch.extras["label"].tolist() == labels
    assert batch.extras["label"].dtype == torch.bool


def test_labels_follow_their_rows_to_their_prompt() -> None:
    rows = [("a", [5], True), ("b", [6], False), ("c", [5], False)]
    batch = collate([encoded(name, prompt, [7], label=label) for name, prompt, label in rows], pad_id=0)
    assert batch.row_ids == ("a", "c", "b")
    assert batch.extras["label"].tolist() == [True, False, False]


def test_one_row_without_a_label_takes_them_all_away() -> None:
    batch = collate([encoded("a", [5], [7], label=True), encoded("b", [5], [7])], pad_id=0)
    assert "label" not in batch.extras


def test_a_margin_is_that_of_both_sides_and_0_where_there_is_none() -> None:
    batch = collate([encoded("a", [5], [7], [8], margin=0.5), encoded("b", [6], [7], [8])], pad_id=0)
    assert batch.extras["margin"].tolist() == [0.5, 0.5, 0, 0]
    assert "margin" not in collate([encoded("a", [5], [7], [8])], pad_id=0).extras


def test_what_is_padded_is_told_by_the_mask() -> None:
    ids, mask = padded([[5], [6, 7, 8], []], 9, left=False)
    assert ids.tolist() == [[5, 9, 9], [6, 7, 8], [9, 9, 9]]
    assert mask.tolist() == [[True, False, False], [True] * 3, [False] * 3]
    ids, mask = padded([[5], [6, 7, 8]], 9, left=True)
    assert ids.tolist() == [[9, 9, 5], [6, 7, 8]]
    assert mask.tolist() == [[False, False, True], [True] * 3]
    assert padded([], 9, left=True)[0].shape == (0, 0)


def test_nothing_and_prompts_without_answers_are_refused() -> None:
    with pytest.raises(AssertionError, match="at least one"):
        collate([], pad_id=0)
    with pytest.raises(AssertionError, match="prompts without completions are for sampling"):
        collate([encoded("a", [5], [7]), encoded("b", [5])], pad_id=0)
