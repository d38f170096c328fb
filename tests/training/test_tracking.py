"""Logs that equal runs write equally, and a real wandb client that needs no account."""

import json
import os
import subprocess
import sys

import pytest

from rung.errors import CheckpointError, ConfigError
from rung.training import rng_state as rng
from rung.training.trackers import JsonLines, make_trackers
from rung.training.trackers.wandb import Wandb

ROWS = [
    {"prompt": "1 tab po", "completion": "Take 1 tablet.", "reward": 1.0, "parts": {"dose": 1}},
    {"prompt": "2 tab po", "completion": "Take \u00bd tablet.\u2028", "reward": None, "parts": {}},
]


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]


def log_steps(tracker, steps, clock=0.0):
    for step in steps:
        tracker.log(step, {"loss": 1 / step, "reward": 0.5}, {"time/step": clock + step}, ROWS if step % 2 else ())


def test_each_step_is_a_line_and_clock_readings_are_kept_apart(tmp_path):
    tracker = JsonLines(tmp_path / "sft")
    tracker.start({"name": "x"})
    log_steps(tracker, [1, 2])
    tracker.finish()
    metrics = (tmp_path / "sft" / "metrics.jsonl").read_text()
    assert metrics == '{"step": 1, "loss": 1.0, "reward": 0.5}\n{"step": 2, "loss": 0.5, "reward": 0.5}\n'
    assert lines(tmp_path / "sft" / "timing.jsonl") == [{"step": 1, "time/step": 1.0}, {"step": 2, "time/step": 2.0}]
    assert lines(tmp_path / "sft" / "completions.jsonl") == [{"step": 1, **row} for row in ROWS]


def test_lines_are_on_the_file_as_soon_as_they_are_logged(tmp_path):
    tracker = JsonLines(tmp_path)
    tracker.start({})
    log_steps(tracker, [1])
    assert len(lines(tmp_path / "metrics.jsonl")) == 1  # before finish


def test_a_resumed_log_is_equal_to_that_of_an_uninterrupted_run(tmp_path):
    whole, killed = JsonLines(tmp_path / "whole"), JsonLines(tmp_path / "killed")
    whole.start({})
    log_steps(whole, range(1, 7))

    killed.start({})
    log_steps(killed, range(1, 4))
    offsets = json.loads(json.dumps(killed.offset()))  # step 3 is in the checkpoint
    log_steps(killed, range(4, 6))
    with (tmp_path / "killed" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 6, "lo')  # killed here
    resumed = JsonLines(tmp_path / "killed")
    resumed.truncate(offsets)
    resumed.start({})
    log_steps(resumed, range(4, 7), clock=100.0)
    for name in ("metrics.jsonl", "completions.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [line["step"] for line in lines(tmp_path / "killed" / "timing.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_a_run_killed_before_its_first_checkpoint_starts_its_logs_anew(tmp_path):
    tracker = JsonLines(tmp_path)
    tracker.truncate({})  # nothing there at all
    tracker.start({})
    log_steps(tracker, [1, 2])
    tracker.truncate({})
    assert {mark["size"] for mark in tracker.offset().values()} == {0}


def test_a_log_shorter_than_the_checkpoint_knows_is_refused(tmp_path):
    tracker = JsonLines(tmp_path)
    tracker.start({})
    log_steps(tracker, [1])
    with pytest.raises(CheckpointError, match=r"metrics.jsonl has \d+ bytes, but had 9999 when"):
        tracker.truncate({"metrics.jsonl": {"size": 9999}})
    assert len(lines(tmp_path / "metrics.jsonl")) == 1


def test_every_line_is_strict_json_whatever_the_numbers_and_texts(tmp_path):
    tracker = JsonLines(tmp_path)
    tracker.start({})
    row = {"completion": "\ud800\n\x00", "parts": [float("nan")]}
    tracker.log(1, {"loss": float("nan"), "kl": float("inf")}, {}, [row])

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    (metrics,) = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
    assert json.loads(metrics, parse_constant=refuse) == {"step": 1, "loss": None, "kl": None}
    (row,) = (tmp_path / "completions.jsonl").read_bytes().splitlines()
    assert json.loads(row, parse_constant=refuse) == {"step": 1, "completion": "\ud800\n\x00", "parts": [None]}


def test_trackers_are_made_by_name_each_once(tmp_path):
    made = make_trackers(["jsonl", "wandb", "jsonl"], tmp_path / "run", project="p", run_name="r")
    assert [type(tracker) for tracker in made] == [JsonLines, Wandb]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "remedy"), [("wanddb", "wandb"), ("json", "jsonl"), ("mlflow", "known: jsonl, wandb")]
)
def test_an_unknown_tracker_is_refused_with_the_nearest(tmp_path, name, remedy):
    with pytest.raises(ConfigError) as caught:
        make_trackers([name], tmp_path, project="p", run_name="r")
    assert name in caught.value.what
    assert remedy in caught.value.remedy


@pytest.fixture
def offline(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)


def test_wandb_without_a_key_runs_offline_in_the_run_folder_and_goes_on_under_its_id(tmp_path, offline):
    for steps in ([1, 2], [3]):
        tracker = Wandb(tmp_path, project="rung", run_name="demo")
        tracker.start({"algorithm": {"name": "sft"}})
        log_steps(tracker, steps)
        tracker.finish()
    run_id = (tmp_path / "wandb.id").read_text()
    logs = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert {log.name for log in logs} == {f"run-{run_id}.wandb"}
    assert any(b"time/step" in log.read_bytes() for log in logs)
    shown = next((tmp_path / "wandb").glob("offline-run-*/files/media/table/*.json"))
    assert json.loads(shown.read_text())["data"][0] == ["1 tab po", "Take 1 tablet.", 1.0, '{"dose": 1}']


def test_wandb_draws_from_no_generator_that_training_uses(tmp_path, offline):
    before = rng.capture()
    tracker = Wandb(tmp_path, project="rung", run_name="demo")
    tracker.start({})
    log_steps(tracker, [1])
    tracker.finish()
    assert rng.capture() == before


@pytest.mark.process
def test_wandb_prints_and_asks_nothing(tmp_path, offline):
    script = (
        "import sys; from pathlib import Path; from rung.training.trackers import Wandb\n"
        "assert 'wandb' not in sys.modules, 'loaded before it is needed'\n"
        "run = Wandb(Path(sys.argv[1]), 'rung', 'demo'); run.start({}); run.log(1, {'loss': 1.0}, {}); run.finish()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_a_malformed_key_is_refused_in_two_lines(tmp_path, offline, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short")  # refused by the client itself, before any network
    with pytest.raises(ConfigError, match="wandb does not start") as caught:
        Wandb(tmp_path, project="rung", run_name="demo").start({})
    assert "WANDB_API_KEY" in caught.value.remedy
    assert "short" not in str(caught.value)
