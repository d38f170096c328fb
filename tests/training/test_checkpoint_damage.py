"""A checkpoint is whole or absent: damage of every kind is found, and a kill at any instant loses nothing."""

import logging
import os
import random
import shutil
import subprocess
import sys

import pytest
import torch

from rung.errors import CheckpointError
from rung.training import checkpoint
from rung.training.checkpoint import load, load_newest, save
from rung.training.run_state import RunState

FILES = ("state.safetensors", "state.json", "manifest.json")


def state(step):
    return RunState({"weights": torch.full((64,), float(step))}, {"step": step, "note": "n" * 64})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def newest(folder):
    found = load_newest(folder)
    assert found is not None
    return found


def flip(file, rand):
    raw = bytearray(file.read_bytes())
    raw[rand.randrange(len(raw))] ^= 1 << rand.randrange(8)
    file.write_bytes(raw)


def cut(file, rand):
    os.truncate(file, rand.randrange(file.stat().st_size))


def zeros(file, rand):
    raw = bytearray(file.read_bytes())
    start = rand.randrange(len(raw) - 16)
    raw[start : start + 16] = bytes(16)
    file.write_bytes(raw)


def empty(file, rand):
    file.write_bytes(b"")


def delete(file, rand):
    file.unlink()


def stale(file, rand):
    """The same file of the older checkpoint, as a disk that lost a write would give back."""
    shutil.copy(file.parent.parent / "step-000001" / file.name, file)


@pytest.mark.parametrize("damage", [flip, cut, zeros, empty, delete, stale])
@pytest.mark.parametrize("name", FILES)
def test_damage_is_found_set_aside_and_the_older_checkpoint_taken(tmp_path, caplog, damage, name):
    rand = random.Random(f"{damage.__name__} {name}")
    for trial in range(8 if damage in (flip, cut, zeros) else 1):
        folder = tmp_path / str(trial)
        save(folder, 1, RunState({"weights": torch.randn(64)}, {"noise": [rand.random() for _ in range(9)]}))
        save(folder, 2, RunState({"weights": torch.randn(64)}, {"noise": [rand.random() for _ in range(9)]}))
        before = (folder / "step-000002" / name).read_bytes()
        damage(folder / "step-000002" / name, rand)
        file = folder / "step-000002" / name
        if file.exists() and file.read_bytes() == before:  # zeros upon zeros
            continue
        with pytest.raises(CheckpointError):
            load(folder / "step-000002")
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert newest(folder)[0] == 1
        assert names(folder) == ["step-000001", "step-000002.bad"]
        assert [record.message.count("\n") for record in caplog.records] == [0]
        assert "step-000002" in caplog.text
        assert name in caplog.text
        save(folder, 2, state(2))  # the run trains that step again
        assert newest(folder)[0] == 2


def test_one_bit_anywhere_in_a_manifest_is_found(tmp_path):
    path = save(tmp_path, 1, state(1))
    raw = (path / "manifest.json").read_bytes()
    for position in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[position // 8] ^= 1 << position % 8
        (path / "manifest.json").write_bytes(flipped)
        assert checkpoint.fault(path), position
    (path / "manifest.json").write_bytes(raw)
    assert checkpoint.fault(path) is None


@pytest.mark.parametrize("text", ["[]", "null", "3", '{"sha256": 1}', "{", "\xff"])
def test_a_manifest_of_another_form_is_a_fault(tmp_path, text):
    path = save(tmp_path, 1, state(1))
    (path / "manifest.json").write_text(text, encoding="latin-1")
    assert checkpoint.fault(path) == "manifest.json is damaged"


def test_a_checkpoint_under_another_steps_name_is_not_taken(tmp_path):
    save(tmp_path, 1, state(1))
    shutil.copytree(tmp_path / "step-000001", tmp_path / "step-000009")
    assert newest(tmp_path)[0] == 1
    (tmp_path / "later").mkdir()
    later = save(tmp_path / "later", 9, state(9))
    earlier = later.rename(later.with_name("step-000003"))
    with pytest.raises(CheckpointError, match="none of its checkpoints is valid"):
        load_newest(tmp_path / "later")
    assert checkpoint.fault(earlier.with_name("step-000003.bad")) is not None


def test_checkpoints_of_which_none_is_valid_are_an_error_each_time(tmp_path):
    for step in (1, 2):
        delete(save(tmp_path, step, state(step)) / "manifest.json", None)
    for _ in range(2):  # the second time all are set aside already
        with pytest.raises(CheckpointError, match=r"none of its checkpoints is valid .*step-000001\.bad") as caught:
            load_newest(tmp_path)
        assert "--new" in caught.value.remedy


# Each kill is that of a forked process, so that torch is imported once.
FORKED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from rung.training.checkpoint import load_newest, save
from rung.training.run_state import RunState

torch.set_num_threads(1)

def state(step):
    return RunState({"weights": torch.full((4096,), float(step))}, {"step": step})

def forked(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid

def newest(folder):
    step, loaded = load_newest(folder)
    assert loaded.values["step"] == step, (loaded.values, step)
    assert loaded.tensors["weights"].eq(step).all()
    leftover = [path.name for path in folder.iterdir() if not path.name[5:].isdigit()]
    assert not leftover, leftover
    return step
"""

AT_EVERY_BOUNDARY = """
def killed_at(boundary, work):
    def run():
        left = boundary
        def count(event, arguments):  # every open, mkdir, rename and remove is one boundary
            nonlocal left
            if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        work()
    return os.waitstatus_to_exitcode(os.waitpid(forked(run), 0)[1]) == -signal.SIGKILL

for saved in (3, 2):  # a new step that drops an old one; a step that exists
    for boundary in range(1, 200):
        folder = Path(sys.argv[1]) / f"{saved}-{boundary}"
        for step in (1, 2):
            save(folder, step, state(step))
        killed = killed_at(boundary, lambda: save(folder, saved, state(saved)))
        found = newest(folder)
        assert found in (2, saved) if killed else found == saved, (saved, boundary, found)
        save(folder, 4, state(4))
        assert newest(folder) == 4
        if not killed:
            break
    print(boundary)
"""

AT_ANY_INSTANT = """
def endless(folder, step):
    while True:
        save(folder, step, state(step))
        save(folder, step, state(step))  # a replacement too
        step += 1

rand = random.Random(5)
folder = Path(sys.argv[1]) / "instants"
save(folder, 0, state(0))
step = 0
for _ in range(10):
    pid = forked(lambda: endless(folder, step + 1))
    time.sleep(rand.uniform(0.02, 0.12))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert newest(folder) >= step
    step = newest(folder)
print(step)
"""


@pytest.fixture(scope="module")
def kills(tmp_path_factory):
    """What the killed processes left behind: the script asserts, and prints three numbers."""
    command = [sys.executable, "-c", FORKED + AT_EVERY_BOUNDARY + AT_ANY_INSTANT, str(tmp_path_factory.mktemp("kills"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


@pytest.mark.process
def test_a_kill_at_every_file_boundary_of_a_save_leaves_a_valid_checkpoint(kills):
    rotating, replacing, _ = kills
    assert rotating > 15
    assert replacing > 15


@pytest.mark.process
def test_a_kill_at_any_instant_leaves_a_valid_checkpoint_and_the_next_save_works(kills):
    assert kills[2] >= 10
