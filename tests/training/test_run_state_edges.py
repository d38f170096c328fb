"""A checkpoint's tree: which tensors are one, and what may stand in it."""

import torch

from rung.training.checkpoint import load, save
from rung.training.run_state import RunState, flatten, unflatten


def test_views_of_one_storage_stay_apart() -> None:
    numbers = torch.arange(6.0)
    tensors, values = flatten({"head": numbers[:3], "tail": numbers[3:]})
    again = unflatten(tensors, values)
    assert again["head"].tolist() == [0, 1, 2]
    assert again["tail"].tolist() == [3, 4, 5]


def test_views_of_one_place_stay_apart_by_shape_stride_and_dtype() -> None:
    square = torch.tensor([[1, 2], [3, 4]], dtype=torch.int32)
    tree = {"all": square, "flat": square.view(4), "turned": square.t(), "float": square.view(torch.float32)}
    again = unflatten(*flatten(tree))
    assert len(flatten(tree)[0]) == 4
    assert again["turned"].tolist() == [[1, 3], [2, 4]]
    assert again["flat"].tolist() == [1, 2, 3, 4]
    assert again["float"].dtype == torch.float32


def test_views_come_back_from_a_checkpoint(tmp_path) -> None:
    numbers = torch.arange(4.0)
    path = save(tmp_path, 1, RunState(*flatten({"a": numbers[:2], "b": numbers[2:]})))
    state = load(path)
    again = unflatten(state.tensors, state.values)
    assert (again["a"].tolist(), again["b"].tolist()) == ([0, 1], [2, 3])
