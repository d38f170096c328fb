"""A tree of tensors and JSON values, and the random generators, are the same after a checkpoint."""

import base64
import json
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.training import rng_state as rng
from rung.training.checkpoint import load, save
from rung.training.run_state import RunState, flatten, unflatten


def bits(tensor):
    return tensor.dtype, tensor.shape, tensor.detach().contiguous().view(-1).view(torch.uint8).tolist()


def test_tied_weights_are_kept_once_and_are_tied_again(tmp_path):
    embedding = torch.nn.Parameter(torch.randn(4, 2))
    tied = {"embed.weight": embedding, "lm_head.weight": embedding}
    tensors, values = flatten({"model": tied, "copy": embedding + 0})
    assert list(tensors) == ["model/embed.weight", "copy"]
    loaded = load(save(tmp_path, 1, RunState(tensors, values)))
    model = unflatten(loaded.tensors, loaded.values)["model"]
    assert model["embed.weight"] is model["lm_head.weight"]
    assert bits(model["lm_head.weight"]) == bits(embedding)


TEXTS = st.text(alphabet='a"$\\\u00e9\u2028', max_size=5)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
TENSORS = st.lists(st.integers(-5, 5), max_size=3).map(torch.tensor)
KEYS = st.text(alphabet="ab/~01.", max_size=4)
NODES = st.recursive(
    LEAVES | TENSORS, lambda node: st.lists(node, max_size=3) | st.dictionaries(KEYS, node, max_size=3)
)
TREES = st.dictionaries(KEYS, NODES)


def listed(node):
    if isinstance(node, torch.Tensor):
        return bits(node)
    if isinstance(node, dict):
        return {key: listed(child) for key, child in node.items()}
    return [listed(child) for child in node] if isinstance(node, list) else node


@settings(max_examples=200, deadline=None)
@given(TREES)
def test_any_tree_is_the_same_after_flatten_json_and_unflatten(tree):
    tensors, values = flatten(tree)
    again = unflatten(tensors, json.loads(json.dumps(values)))
    assert listed(again) == listed(tree)
    assert list(again) == list(tree)  # order too: parameters of an optimizer have one


@pytest.mark.parametrize("node", [{1: "a"}, {"$tensor": "a"}, {"a": {1, 2}}, {"a": [np.int64(3)]}, {"a": b"x"}])
def test_what_json_would_change_or_refuse_is_refused_by_place(node):
    with pytest.raises(TypeError, match="checkpoint"):
        flatten({"outer": node})


def test_an_optimizer_goes_on_bit_identically_from_its_saved_state(tmp_path):
    def trained(steps, model, optimizer):
        for _ in range(steps):
            optimizer.zero_grad()
            torch.nn.functional.dropout(model(torch.randn(8, 4))).square().sum().backward()
            optimizer.step()
        return model

    def fresh():
        model = torch.nn.Linear(4, 2)
        return model, torch.optim.AdamW(model.named_parameters(), lr=0.01)

    torch.manual_seed(7)
    model, optimizer = fresh()
    trained(3, model, optimizer)
    by_name = {str(index): entry for index, entry in optimizer.state_dict()["state"].items()}
    groups = optimizer.state_dict()["param_groups"]
    tree = {"model": model.state_dict(), "optimizer": by_name, "groups": groups, "rng": rng.capture()}
    path = save(tmp_path, 3, RunState(*flatten(tree)))
    expected = bits(trained(3, model, optimizer).weight)

    torch.manual_seed(8)
    model, optimizer = fresh()
    loaded = load(path)
    tree = unflatten(loaded.tensors, loaded.values)
    model.load_state_dict(tree["model"])
    entries = {int(index): entry for index, entry in tree["optimizer"].items()}
    optimizer.load_state_dict({"state": entries, "param_groups": tree["groups"]})
    rng.restore(tree["rng"])
    assert bits(trained(3, model, optimizer).weight) == expected


def test_random_generators_go_on_where_they_were_captured():
    def draws():
        return random.gauss(0, 1), random.random(), np.random.randn(3).tolist(), torch.randn(3).tolist()

    draws()  # an odd number of normal draws: Python and NumPy hold the second of a pair
    captured = json.loads(json.dumps(rng.capture()))
    expected = draws()
    draws()
    rng.restore(captured)
    assert draws() == expected


def test_a_state_without_that_of_a_gpu_is_restored_where_there_is_one_and_the_other_way_round(monkeypatch):
    restored = []
    captured = rng.capture() | {"cuda": None}
    monkeypatch.setattr(torch.cuda, "set_rng_state", restored.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    rng.restore(captured)
    assert not restored
    rng.restore(captured | {"cuda": base64.b64encode(b"\x01\x02").decode()})
    assert [state.tolist() for state in restored] == [[1, 2]]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rng.restore(captured | {"cuda": "AQI="})
    assert len(restored) == 1
