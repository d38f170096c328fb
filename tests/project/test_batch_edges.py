"""Batches cut, joined and counted, entry by entry."""

from dataclasses import replace

import pytest
import torch

from helpers.edges import batch_of
from rung.batch import Batch, Loss, concat, count_denominators, from_tree, placeholder, to_tree

ROWS = batch_of(
    [([1, 2, 3], [4]), ([5], [6, 7, 8]), ([9, 10], [11, 12])], trained=[[True], [True, False, True], [True, True]]
)


def full() -> Batch:
    """Two prompts: rows 0 and 1 a pair on the first, row 2 on the second; with everything that a row may carry."""
    batch = replace(
        ROWS,
        prompt_ids=ROWS.prompt_ids[[0, 2]],
        prompt_mask=ROWS.prompt_mask[[0, 2]],
        prompt_of=torch.tensor([0, 0, 1]),
        group_of=torch.tensor([0, 0, 1]),
        rewards=torch.tensor([1.0, 2.0, 3.0]),
        advantages=torch.arange(9.0).reshape(3, 3),
        prompt_inputs={"image": torch.tensor([7, 8])},
        max_completion_length=5,
    )
    return batch.replace_extras(row=torch.tensor([0, 1, 2]), token=torch.arange(9).reshape(3, 3))


def test_a_batch_counts_its_rows_prompts_groups_and_tokens() -> None:
    batch = full()
    assert (batch.num_rows, batch.num_prompts, batch.num_groups) == (3, 2, 2)
    assert batch.lengths.tolist() == [1, 3, 2]


@pytest.mark.parametrize("chosen", [torch.tensor([0, 2]), torch.tensor([True, False, True])])
def test_rows_that_are_chosen_are_numbered_anew_and_trimmed(chosen: torch.Tensor) -> None:
    part = full().select(chosen)
    assert part.prompt_ids.tolist() == [[1, 2, 3], [0, 9, 10]]
    assert part.completion_ids.tolist() == [[4, 0], [11, 12]]
    assert part.prompt_of.tolist() == part.group_of.tolist() == [0, 1]
    assert part.row_ids == ("row 0", "row 2")
    assert part.rewards is not None
    assert part.advantages is not None
    assert part.rewards.tolist() == [1, 3]
    assert part.advantages.tolist() == [[0, 1], [6, 7]]
    assert part.extras["row"].tolist() == [0, 2]
    assert part.extras["token"].tolist() == [[0, 1], [6, 7]]
    assert part.prompt_inputs["image"].tolist() == [7, 8]
    assert part.max_completion_length == 5


def test_prompts_that_no_row_answers_go_and_the_others_lose_their_padding() -> None:
    part = full().select(torch.tensor([2]))
    assert part.prompt_ids.tolist() == [[9, 10]]
    assert part.prompt_mask.tolist() == [[True, True]]
    assert (part.prompt_of.tolist(), part.group_of.tolist()) == ([0], [0])
    assert part.prompt_inputs["image"].tolist() == [8]
    none = full().select(torch.zeros(3, dtype=torch.bool))
    assert (none.num_rows, none.num_prompts, none.completion_ids.shape[1], none.row_ids) == (0, 0, 0, ())


def test_joined_batches_are_padded_to_the_widest_on_both_sides() -> None:
    one, other = full().select(torch.tensor([0, 1])), full().select(torch.tensor([2]))
    joined = concat([other, one])
    assert joined.prompt_ids.tolist() == [[0, 9, 10], [1, 2, 3]]
    assert joined.prompt_mask.tolist() == [[False, True, True], [True, True, True]]
    assert joined.completion_ids.tolist() == [[11, 12, 0], [4, 0, 0], [6, 7, 8]]
    assert joined.completion_mask.sum(1).tolist() == [2, 1, 3]
    assert joined.loss_mask.tolist() == [[True, True, False], [True, False, False], [True, False, True]]
    assert joined.prompt_of.tolist() == joined.group_of.tolist() == [0, 1, 1]
    assert joined.row_ids == ("row 2", "row 0", "row 1")
    assert joined.rewards is not None
    assert joined.rewards.tolist() == [3, 1, 2]
    assert joined.extras["token"].tolist() == [[6, 7, 0], [0, 1, 2], [3, 4, 5]]
    assert joined.prompt_inputs["image"].tolist() == [8, 7]
    three = concat([other, one, other])
    assert three.prompt_of.tolist() == [0, 1, 1, 2]
    with pytest.raises(AssertionError, match="different fields"):
        concat([one, replace(other, rewards=None)])


def test_what_a_loss_is_divided_by() -> None:
    units = {"t": "tokens", "r": "rows", "g": "groups", "c": 2.5, "f": lambda batch: batch.lengths.max()}
    counted = count_denominators(units, full())  # type: ignore[arg-type]
    assert {name: float(value) for name, value in counted.items()} == {"t": 5, "r": 3, "g": 2, "c": 2.5, "f": 3}
    assert all(value.dtype == torch.float64 for value in counted.values())


def test_a_loss_is_the_sum_of_its_shares() -> None:
    loss = Loss({"a": torch.tensor(6.0), "b": torch.tensor(1.0)})
    assert float(loss.over({"a": torch.tensor(4.0), "b": torch.tensor(2.0)})) == 2.0
    with pytest.raises(AssertionError, match="declares"):
        loss.over({"a": torch.tensor(4.0)})


def test_extras_are_added_and_replaced() -> None:
    batch = full().replace_extras(row=torch.tensor([5, 5, 5]), new=torch.zeros(3))
    assert set(batch.extras) == {"row", "token", "new"}
    assert batch.extras["row"].tolist() == [5, 5, 5]


def test_a_batch_comes_back_from_its_tree() -> None:
    batch = full()
    again = from_tree(to_tree(batch))
    tree, other = to_tree(again), to_tree(batch)
    assert tree.keys() == other.keys()
    for part in ("rows", "prompts", "prompt_inputs", "extras"):
        assert tree[part].keys() == other[part].keys()
        assert all(torch.equal(tree[part][name], other[part][name]) for name in tree[part])
    assert (again.row_ids, again.max_completion_length) == (batch.row_ids, 5)
    assert "values" not in other["rows"]


def test_a_placeholder_is_one_token_behind_another() -> None:
    one = placeholder(torch.device("cpu"))
    assert (one.num_rows, one.num_prompts, one.num_groups, one.lengths.tolist()) == (1, 1, 1, [1])
    assert one.loss_mask.all()
    assert one.prompt_mask.all()


def test_a_batch_moves_as_a_whole() -> None:
    moved = full().to("meta")
    tensors = [moved.prompt_ids, moved.prompt_mask, moved.completion_ids, moved.rewards, moved.prompt_of]
    tensors += [*moved.extras.values(), *moved.prompt_inputs.values()]
    assert all(tensor is not None and tensor.device.type == "meta" for tensor in tensors)
