"""What a checkpoint holds comes back to the bit, and a save never loses what was there before."""

import json
import resource
from types import SimpleNamespace

import pytest
import torch

from rung.errors import CheckpointError
from rung.training import checkpoint
from rung.training.checkpoint import checkpoint_path, load_newest, save
from rung.training.run_state import RunState


def state(step):
    return RunState({"weights": torch.full((64,), float(step))}, {"step": step, "note": "n" * 64})


def bits(tensor):
    return tensor.dtype, tensor.shape, tensor.detach().contiguous().view(-1).view(torch.uint8).tolist()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def newest(folder):
    found = load_newest(folder)
    assert found is not None
    return found


def test_tensors_of_every_kind_round_trip_to_the_bit(tmp_path):
    nans_and_a_denormal = torch.tensor([0x7FC0DEAD, -1, 1], dtype=torch.int32).view(torch.float32)
    tensors = {
        "bf16": torch.randn(3, 4, dtype=torch.bfloat16),
        "f16": torch.randn(5).half(),
        "f64": torch.tensor([0.1, -0.0, float("inf")], dtype=torch.float64),
        "nan": nans_and_a_denormal,
        "int64": torch.tensor([2**63 - 1, -(2**63)]),
        "uint8": torch.arange(256, dtype=torch.uint8),
        "bool": torch.tensor([[True], [False]]),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "scalar_f": torch.tensor(0.1),
        "empty": torch.empty(0, 7),
        "transposed": torch.arange(6.0).view(2, 3).t(),
        "row": torch.arange(6.0).view(2, 3)[1],
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    save(tmp_path, 3, RunState(tensors, {}))
    _, loaded = newest(tmp_path)
    assert loaded.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert bits(loaded.tensors[name]) == bits(tensor), name


def test_values_round_trip_with_floats_to_the_bit(tmp_path):
    values = {"f": [0.1, 1e-323, -0.0, float("inf")], "i": 2**80, "t": "\u00e9\ud800\n", "n": None, "b": [True, {}, []]}
    save(tmp_path, 0, RunState({}, values))
    step, loaded = newest(tmp_path)
    assert (step, loaded.tensors) == (0, {})
    assert repr(loaded.values) == repr(values)


def test_tensors_that_share_memory_are_saved_each_whole(tmp_path):
    memory = torch.arange(6.0)
    last = memory[5:]
    tensors = {"all": memory, "end": memory[3:], "all_again": memory, "last": last, "last_again": last.view(1, 1)}
    save(tmp_path, 1, RunState(tensors, {}))
    loaded = newest(tmp_path)[1].tensors
    assert (loaded["last"].tolist(), loaded["last_again"].tolist()) == ([5], [[5]])
    assert loaded["all"].tolist() == loaded["all_again"].tolist() == [0, 1, 2, 3, 4, 5]
    assert loaded["end"].tolist() == [3, 4, 5]


def test_the_newest_keep_checkpoints_stay(tmp_path):
    for step in (5, 10, 15, 1_000_000):
        path = save(tmp_path, step, state(step), keep=2)
        assert path == checkpoint_path(tmp_path, step)
    assert names(tmp_path) == ["step-000015", "step-1000000"]
    assert newest(tmp_path)[0] == 1_000_000


def test_the_checkpoint_just_saved_stays_whatever_lies_there(tmp_path):
    for step in (20, 30):
        save(tmp_path, step, state(step), keep=5)
    save(tmp_path, 10, state(10), keep=1)
    assert names(tmp_path) == ["step-000010", "step-000030"]


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 5, state(1))
    save(tmp_path, 5, state(2))
    assert names(tmp_path) == ["step-000005"]
    assert newest(tmp_path)[1].values["step"] == 2


def test_the_manifest_tells_what_is_inside(tmp_path):
    path = save(tmp_path, 7, state(7))
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["schema"] == 1
    assert manifest["step"] == 7
    assert manifest["versions"]["torch"] == torch.__version__
    assert {name: entry["size"] for name, entry in manifest["files"].items()} == {
        name: (path / name).stat().st_size for name in ("state.safetensors", "state.json")
    }
    assert names(path) == ["manifest.json", "state.json", "state.safetensors"]


def test_without_any_checkpoint_there_is_nothing_to_load(tmp_path):
    assert load_newest(tmp_path / "none") is None
    assert load_newest(tmp_path) is None


def test_left_overs_of_a_killed_save_are_removed_and_a_replaced_checkpoint_comes_back(tmp_path):
    save(tmp_path, 5, state(5))
    (tmp_path / "step-000005").rename(tmp_path / "step-000005.old")  # killed between the two renames
    (tmp_path / ".tmp-5-abc").mkdir()
    (tmp_path / ".tmp-5-abc" / "state.json").write_text("{")
    assert newest(tmp_path)[0] == 5
    assert names(tmp_path) == ["step-000005"]


@pytest.mark.parametrize(
    "too_large", [RunState({"weights": torch.zeros(100_000)}, {}), RunState({}, {"text": "x" * 400_000})]
)
def test_a_save_that_the_disk_refuses_is_loud_and_loses_nothing(tmp_path, too_large):
    save(tmp_path, 5, state(5))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # a real refusal in the middle of a write
    try:
        for step in (5, 6):
            with pytest.raises(CheckpointError) as caught:
                save(tmp_path, step, too_large)
            assert "free space" in caught.value.remedy
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["step-000005"]
    assert newest(tmp_path)[1].values["step"] == 5


def test_a_file_where_the_folder_should_be_is_a_checkpoint_error(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match="checkpoints"):
        save(tmp_path / "checkpoints", 1, state(1))


def test_values_that_json_cannot_hold_leave_nothing_behind(tmp_path):
    with pytest.raises(TypeError):
        save(tmp_path, 6, RunState({}, {"set": {1}}))
    assert names(tmp_path) == []


def test_a_newer_schema_is_named_and_left_alone(tmp_path):
    path = save(tmp_path, 5, state(5))
    body = json.loads((path / "manifest.json").read_text())
    del body["sha256"]
    (path / "manifest.json").write_bytes(checkpoint._rendered(body | {"schema": 2}))
    with pytest.raises(CheckpointError, match="schema 2"):
        load_newest(tmp_path)
    assert names(tmp_path) == ["step-000005"]


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    """A checkpoint needs 1.2 times the size of its tensors, here 12 MiB."""
    tensors = {name: torch.zeros(5 * 2**20 // 4) for name in ("weights", "momentum")}
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: SimpleNamespace(free=12 * 2**20 - 1))
    with pytest.raises(CheckpointError) as caught:
        save(tmp_path, 5, RunState(tensors, {}))
    assert caught.value.what == f"{tmp_path}: a checkpoint needs 12 MiB, but 12 MiB are free"
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: SimpleNamespace(free=3 * 2**20))
    with pytest.raises(CheckpointError, match="needs 12 MiB, but 3 MiB are free"):
        save(tmp_path, 5, RunState(tensors, {}))
    assert names(tmp_path) == []
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: SimpleNamespace(free=12 * 2**20))
    save(tmp_path, 5, RunState(tensors, {}))
    assert names(tmp_path) == ["step-000005"]


def test_the_newest_step_is_told_whether_its_checkpoint_is_valid_or_not(tmp_path):
    assert checkpoint.newest_step(tmp_path / "none") == checkpoint.newest_step(tmp_path) == 0
    for step in (7, 12):
        save(tmp_path, step, state(step))
    (tmp_path / "step-000012" / "manifest.json").unlink()
    (tmp_path / "step-000099.bad").mkdir()
    (tmp_path / "step-000098").touch()
    assert checkpoint.newest_step(tmp_path) == 12


def test_a_checkpoint_that_cannot_be_read_back_is_set_aside_and_the_older_ones_stay(tmp_path, monkeypatch, caplog):
    save(tmp_path, 5, state(5))
    write = checkpoint._write

    def damages(final, step, values):
        aside = write(final, step, values)
        (aside / "state.json").write_text("{}")
        return aside

    monkeypatch.setattr(checkpoint, "_write", damages)
    with pytest.raises(CheckpointError, match=r"step-000006 cannot be read back: state\.json has 2 bytes, not"):
        save(tmp_path, 6, state(6), keep=1)
    assert names(tmp_path) == ["step-000005", "step-000006.bad"]
    assert "is not valid" in caplog.text
    with pytest.raises(CheckpointError, match="cannot be read back"):
        save(tmp_path, 5, state(6), keep=1)
    assert newest(tmp_path)[1].values["step"] == 5, "the replaced one comes back"


def test_a_checkpoint_that_is_loaded_by_its_folder_is_verified(tmp_path):
    path = save(tmp_path, 5, state(5))
    assert checkpoint.load(path).values["step"] == 5
    (path / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"step-000005: state\.json has 2 bytes, not") as caught:
        checkpoint.load(path)
    assert caught.value.remedy == "use another checkpoint of this run"
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing"):
        checkpoint.load(tmp_path / "step-000006")
