"""Paths: stages, gates, hand-overs, one reading of the test set, and going on where a run stopped."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers.small_path import write_small_path
from rung.artifacts.lineage import Lineage, hash_weights
from rung.config import PathConfig, load_config
from rung.errors import ConfigError
from rung.pipeline.runner import Run, run_path


def config(folder: Path, overrides: Sequence[str] = ()) -> PathConfig:
    file = folder / "small.yaml"
    return load_config(file if file.exists() else write_small_path(folder), [f"output={folder / 'runs'}", *overrides])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("path")


@pytest.fixture(scope="module")
def done(home: Path) -> Run:
    """A whole path, run once for all tests that look at it."""
    return run_path(config(home))


def test_each_stage_starts_from_the_last_accepted_one(done: Run) -> None:
    told = [(record.stage, record.start, record.outcome) for record in done.lineage.stages]
    assert told == [
        ("prompting", "tiny:llama", "baseline"),
        ("sft", "prompting", "promoted"),
        ("dpo", "sft", "inconclusive"),
        ("grpo", "sft", told[3][2]),
    ]


def test_a_stage_hands_over_a_model_that_loads_and_its_weights_are_in_the_lineage(done: Run) -> None:
    from rung.models.load import load_model

    record = done.lineage.stage("sft")
    assert record is not None
    assert record.weights == hash_weights(done.folder / "sft" / "model")
    assert load_model(done.folder / "sft" / "model")[1].chat_template
    assert not (done.folder / "prompting" / "model").exists()


def test_gates_read_validation_and_the_test_set_is_read_once(done: Run) -> None:
    reads = {record.stage: record.reads for record in done.lineage.stages}
    assert reads["prompting"] == {"validation": 2, "test": 1}
    assert reads["sft"] == {"validation": 1, "test": 1}
    files = {file.name for file in (done.folder / "prompting").glob("*.json")}
    assert files == {"start.json", "evaluation.json", "evaluation-2-shot.json", "test.json", "test-2-shot.json"}
    validation, test = ((done.folder / "sft" / f"{name}.jsonl").read_text() for name in ("evaluation", "test"))
    assert not set(validation.splitlines()) & set(test.splitlines())


def test_the_report_shows_every_stage_side_by_side(done: Run) -> None:
    report = (done.folder / "report.md").read_text()
    assert all(name in report for name in ("prompting, 2 shots", "sft", "dpo", "grpo", "output_tokens"))


def test_strict_tells_by_the_exit_code_that_a_stage_was_not_promoted(done: Run) -> None:
    assert done.exit_code(strict=False) == 0
    assert done.exit_code(strict=True) in (3, 4)


def test_a_finished_run_trains_nothing_and_says_so(done: Run, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in done.folder.rglob("*") if file.is_file()}
    again = run_path(config(home))
    assert again.finished
    assert "finished" in capsys.readouterr().out
    assert before == {file: file.stat().st_mtime_ns for file in done.folder.rglob("*") if file.is_file()}


def test_another_config_is_refused_by_the_names_of_its_keys(done: Run, home: Path) -> None:
    with pytest.raises(ConfigError, match=r"changed: evaluate.temperature, seed, sft.learning_rate\n.*--new"):
        run_path(config(home, ["sft.learning_rate=0.5", "seed=1", "evaluate.temperature=1"]))


def test_a_run_that_lost_its_last_stage_makes_that_one_again_and_ends_alike(done: Run, home: Path) -> None:
    weights = hash_weights(done.folder / "grpo" / "model")
    kept = (done.folder / "sft" / "metrics.jsonl").stat().st_mtime_ns
    for name in ("grpo/DONE", "grpo/evaluation.json", "DONE"):
        (done.folder / name).unlink()
    again = run_path(config(home))
    assert again.lineage == done.lineage
    assert hash_weights(again.folder / "grpo" / "model") == weights
    assert (done.folder / "sft" / "metrics.jsonl").stat().st_mtime_ns == kept


def test_new_starts_beside_and_a_gate_may_stop_the_path(done: Run, home: Path) -> None:
    stops = ["gate={metric: digits, min_gain: 1, on_gate: stop}", "sft.max_steps=1"]
    beside = run_path(config(home, stops), new=True)
    assert beside.folder.name == "small-2"
    assert [record.stage for record in beside.lineage.stages] == ["prompting", "sft"]
    assert beside.exit_code(strict=True) in (3, 4)
    assert Lineage.load(done.folder / "lineage.json") == done.lineage


def test_a_stage_starts_from_a_stage_of_another_run(done: Run, home: Path) -> None:
    only = {"name": "more", "algorithm": "sft", "data": "train", "max_steps": 1, "from": "run:small/sft"}
    run = run_path(config(home, ["name=other", "evaluate=null", "gate=null", f"stages=[{only}]"]))
    record = run.lineage.stage("more")
    assert record is not None
    assert (record.start, record.outcome) == ("run:small/sft", "trained")


STOPPING = """
import os, pathlib, signal

def digits(completions, **columns):
    told = pathlib.Path("told")
    if not told.exists():
        told.touch()
        os.kill(os.getpid(), signal.SIGTERM)
    return [0.0] * len(completions)
"""


@pytest.mark.process
def test_a_signal_while_a_stage_is_judged_ends_the_run_at_once_and_leaves_the_test_set_unread(small_path: Path) -> None:
    only = {"name": "sft", "algorithm": "sft", "data": "train", "max_steps": 1}
    overrides = ["gate=null", f"stages=[{only}]", "reward_policy.timeout_s=null"]  # metrics in the process of the run
    (small_path / "reward.py").write_text(STOPPING)
    ended = subprocess.run(
        [sys.executable, "-m", "rung", "run", "small.yaml", *overrides], capture_output=True, text=True
    )
    assert ended.returncode == 75
    assert ended.stderr.strip() == "stopped; the same command resumes"
    stage = small_path / "runs" / "small" / "sft"
    assert (stage / "model").is_dir()
    assert not (stage / "DONE").exists()
    assert not (stage / "test.json").exists()
    assert run_path(config(small_path, overrides)).finished
    assert (stage / "test.json").exists()


@pytest.mark.process
def test_a_signal_stops_after_the_step_and_the_same_command_goes_on(small_path: Path) -> None:
    overrides = ["evaluate=null", "gate=null", "dpo.gate=null", "prompting.shots=null", "sft.max_steps=150"]
    command = [sys.executable, "-m", "rung", "run", "small.yaml", *overrides]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    metrics = small_path / "runs" / "small" / "sft" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") > 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "the same command resumes it" in told
    steps = metrics.read_text().count("\n")
    assert 2 < steps < 150
    assert (metrics.parent / "checkpoints" / f"step-{steps:06d}").is_dir()
    assert run_path(load_config("small.yaml", overrides)).finished
    assert metrics.read_text().count("\n") == 150
