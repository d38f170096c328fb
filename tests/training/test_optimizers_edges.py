"""Optimizers by hand: which parameters decay, what a schedule does, and state that is found by name."""

import json
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn import Parameter

from rung.errors import CheckpointError, ConfigError
from rung.training.checkpoint import checkpoint_path, fault, load, load_newest, save, tidy
from rung.training.muon import Muon
from rung.training.optimizers import (
    check_schedule,
    find_optimizer,
    load_state_by_name,
    make_optimizer,
    make_schedule,
    restore_rates,
    state_by_name,
)
from rung.training.run_state import RunState


def parameters() -> dict[str, Parameter]:
    shapes = {"embed": (3, 2), "inner": (2, 2), "norm": (2,), "scale": (), "conv": (2, 2, 2)}
    return {name: Parameter(torch.ones(shape)) for name, shape in shapes.items()}


def test_matrices_decay_and_vectors_do_not() -> None:
    made = parameters()
    optimizer = make_optimizer(find_optimizer("adamw"), made, hidden={"inner"}, learning_rate=0.5, weight_decay=0.25)
    groups = [
        ([name for name, p in made.items() if any(p is q for q in group["params"])], group["weight_decay"])
        for group in optimizer.param_groups
    ]
    assert groups == [(["inner"], 0.25), (["embed", "conv"], 0.25), (["norm", "scale"], 0.0)]
    assert [group.get("hidden") for group in optimizer.param_groups] == [True, None, None]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5] * 3


def test_a_group_without_parameters_is_left_out() -> None:
    only = {"norm": Parameter(torch.ones(2))}
    (group,) = make_optimizer(find_optimizer("sgd"), only, learning_rate=1.0, weight_decay=0.1).param_groups
    assert group["weight_decay"] == 0.0


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD), ("muon", Muon)],
)
def test_a_word_is_an_optimizer(name: str, kind: type) -> None:
    assert type(make_optimizer(find_optimizer(name), parameters(), learning_rate=0.1, weight_decay=0.0)) is kind


def test_another_word_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no optimizer `adamv`") as caught:
        find_optimizer("adamv")
    assert "`adam" in caught.value.remedy
    (tmp_path / "mine.py").write_text("made = 3\ndef make(groups, lr):\n    return groups\n")
    assert find_optimizer("./mine.py:make", tmp_path)([1], 2) == [1]  # type: ignore[comparison-overlap]
    with pytest.raises(ConfigError, match=r"`./mine.py:made` is not a function"):
        find_optimizer("./mine.py:made", tmp_path)


@pytest.mark.parametrize(
    ("name", "warmup", "rates"),
    [
        ("linear", 0, [1.0, 0.75, 0.5, 0.25, 0.0]),
        ("linear", 2, [0.0, 0.5, 1.0, 0.5, 0.0]),
        ("constant", 0, [1.0] * 5),
        ("constant_with_warmup", 2, [0.0, 0.5, 1.0, 1.0, 1.0]),
    ],
)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_schedule_of_four_steps(name: str, warmup: int, rates: list[float]) -> None:
    optimizer = torch.optim.SGD([Parameter(torch.ones(1))], lr=1.0)
    schedule = make_schedule(name, optimizer, warmup_steps=warmup, total_steps=4)
    seen = []
    for _ in range(5):
        seen.append(optimizer.param_groups[0]["lr"])
        schedule.step()
    assert seen == pytest.approx(rates)


def test_a_rate_that_a_schedule_cannot_end_below_is_refused() -> None:
    check_schedule("polynomial", 1e-6)
    with pytest.raises(ConfigError, match="lr_scheduler_type: polynomial"):
        check_schedule("polynomial", 1e-8)


def test_state_goes_by_name_and_parameters_without_one_are_left_out() -> None:
    made = parameters()
    optimizer = torch.optim.AdamW(list(made.values()), lr=0.1)
    made["embed"].grad = torch.ones(3, 2)
    optimizer.step()
    state = state_by_name(optimizer, made)
    assert list(state) == ["embed"]
    others = parameters()
    other = torch.optim.AdamW(list(others.values())[::-1], lr=0.1)
    load_state_by_name(other, others, state)
    assert torch.equal(other.state[others["embed"]]["exp_avg"], torch.full((3, 2), 0.1))
    assert list(state_by_name(other, others)) == ["embed"]


def run_state(step: int) -> RunState:
    return RunState({"w": torch.tensor([float(step)])}, {"step": step})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_two_newest_are_kept_and_one_at_least(tmp_path: Path) -> None:
    for step in (3, 1, 2):
        save(tmp_path, step, run_state(step))
    assert names(tmp_path) == ["step-000002", "step-000003"]
    save(tmp_path, 4, run_state(4), keep=1)
    assert names(tmp_path) == ["step-000004"]
    save(tmp_path, 1, run_state(1), keep=1)  # the one just written stays, though it is older
    assert names(tmp_path) == ["step-000001", "step-000004"]
    with pytest.raises(AssertionError, match="`keep` must be at least 1"):
        save(tmp_path, 5, run_state(5), keep=0)


def test_tensors_that_share_memory_are_kept_each_by_itself(tmp_path: Path) -> None:
    whole = torch.arange(4.0)
    path = save(tmp_path, 1, RunState({"a": whole, "b": whole[2:], "c": whole.view(2, 2)}, {}))
    loaded = load(path).tensors
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {
        "a": [0, 1, 2, 3],
        "b": [2, 3],
        "c": [[0, 1], [2, 3]],
    }


def test_a_step_that_exists_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, 3, run_state(3))
    save(tmp_path, 3, run_state(9))
    found = load_newest(tmp_path)
    assert found is not None
    assert (found[0], found[1].values, found[1].tensors["w"].tolist()) == (3, {"step": 9}, [9.0])
    assert names(tmp_path) == ["step-000003"]
    assert load_newest(tmp_path / "none") is None


def test_a_damaged_one_is_set_aside_for_the_next_older(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        save(tmp_path, step, run_state(step))
    values = checkpoint_path(tmp_path, 2) / "state.json"
    values.write_text(values.read_text().replace("2", "3"))
    assert fault(checkpoint_path(tmp_path, 2)) == "state.json is damaged"
    found = load_newest(tmp_path)
    assert found is not None
    assert found[0] == 1
    assert names(tmp_path) == ["step-000001", "step-000002.bad"]
    assert "step-000002.bad" in caplog.text
    (checkpoint_path(tmp_path, 1) / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="none of its checkpoints is valid"):
        load_newest(tmp_path)


def test_what_is_wrong_with_a_checkpoint_is_told(tmp_path: Path) -> None:
    path = save(tmp_path, 7, run_state(7))
    assert fault(path) is None
    (path / "state.json").write_text('{"step": 77}')
    assert fault(path) == "state.json has 12 bytes, not 11"
    (path / "state.json").unlink()
    assert fault(path) == "state.json is missing"
    path.rename(tmp_path / "step-000008")
    assert fault(tmp_path / "step-000008") == "manifest.json belongs to step 7"
    manifest = tmp_path / "step-000008" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text())))
    assert fault(tmp_path / "step-000008") == "manifest.json is damaged"
    manifest.unlink()
    assert fault(tmp_path / "step-000008") == "manifest.json is missing"


def test_what_a_killed_save_left_goes_and_what_it_was_replacing_comes_back(tmp_path: Path) -> None:
    save(tmp_path, 1, run_state(1))
    (tmp_path / ".tmp-2-abc").mkdir()
    (tmp_path / "step-000001").rename(tmp_path / "step-000001.old")
    tidy(tmp_path)
    assert names(tmp_path) == ["step-000001"]
    (tmp_path / "step-000001.old").mkdir()
    tidy(tmp_path)
    assert names(tmp_path) == ["step-000001"]
    assert fault(tmp_path / "step-000001") is None


def test_state_of_a_shape_of_its_own_is_whole_on_every_rank(tmp_path: Path) -> None:
    """Such as the count of steps, and the rows of a factored moment; a moment of each weight is sharded."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        weight = Parameter(distribute_tensor(torch.ones(3, 2), mesh, [Shard(0)]))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        entries = {"step": torch.tensor(3.0), "rows": torch.ones(3), "moment": torch.ones(3, 2), "kind": "factored"}
        load_state_by_name(optimizer, {"weight": weight}, {"weight": entries})
        found = optimizer.state[weight]
        assert {name: type(entry) for name, entry in found.items()} == {
            "step": torch.Tensor,
            "rows": torch.Tensor,
            "moment": DTensor,
            "kind": str,
        }
    finally:
        dist.destroy_process_group()


def test_a_parameter_that_the_state_lacks_has_none_then() -> None:
    made = parameters()
    optimizer = torch.optim.AdamW(list(made.values()), lr=0.1)
    for parameter in made.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = {name: state for name, state in state_by_name(optimizer, made).items() if name == "norm"}
    load_state_by_name(optimizer, made, kept)
    assert list(state_by_name(optimizer, made)) == ["norm"]


def test_restored_rates_are_those_of_the_schedule_as_it_now_is() -> None:
    """Two of four steps were made, and the stage now has eight: .75 of the rate, not .5."""
    optimizer = torch.optim.SGD([{"params": [Parameter(torch.ones(1))], "lr": lr} for lr in (1.0, 0.1)], lr=1.0)
    schedule = make_schedule("linear", optimizer, warmup_steps=0, total_steps=8)
    schedule.last_epoch = 2
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    restore_rates(optimizer, schedule)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.75, 0.075])
