"""What a stage starts from is decided once; finished stages are not repeated, and damaged ones are not used."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from helpers.commands import Command, Refusal
from helpers.rows import write_rows
from rung.artifacts.lineage import Lineage, hash_weights
from rung.artifacts.start import read_start

ROWS = [{"prompt": f"{number}+1?", "completion": str(number + 1), "answer": str(number + 1)} for number in range(12)]
PAIRS = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": "no"} for row in ROWS]
STAGE = {"max_steps": 3, "batch_size": 2, "learning_rate": 0.01, "save_steps": 1}
CONFIG = {
    "name": "path",
    "model": "tiny:llama",
    "data": {"rows": "rows.jsonl", "pairs": "pairs.jsonl"},
    "evaluate": {"validation": "rows.jsonl", "metrics": ["exact_match"], "max_completion_length": 2},
    "stages": [
        {"name": "sft", "algorithm": "sft", "data": "rows", **STAGE},
        {"name": "dpo", "algorithm": "dpo", "data": "pairs", **STAGE},
    ],
}
RUN = Path("runs/path")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path, {"rows": ROWS, "pairs": PAIRS})
    (tmp_path / "path.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


def files() -> dict[str, bytes]:
    found = (file for file in RUN.rglob("*") if file.is_file() and file.name != "timing.jsonl")
    return {str(file.relative_to(RUN)): file.read_bytes() for file in found}


def test_a_run_that_died_before_its_lineage_was_written_ends_alike(work: Path, command: Command) -> None:
    assert command("run", "path.yaml") == 0
    whole = files()
    assert not [name for name in whole if "tmp" in name or "lock" in name]
    (RUN / "DONE").unlink()
    lineage = Lineage.load(RUN / "lineage.json")
    lineage.model_copy(update={"stages": lineage.stages[:1]}).save(RUN / "lineage.json")
    (RUN / "dpo" / ".tmp-lineage.json-0").write_text("left behind")
    assert command("run", "path.yaml") == 0
    assert files() == whole


def test_a_stage_that_lost_its_end_starts_from_the_stage_before_and_not_from_itself(
    work: Path, command: Command
) -> None:
    assert command("run", "path.yaml") == 0
    whole = files()
    for name in ("DONE", "dpo/DONE", "dpo/evaluation.json"):
        (RUN / name).unlink()  # the record of `dpo` is still in the lineage
    assert command("run", "path.yaml") == 0
    begun = read_start(RUN / "dpo")
    assert begun is not None
    assert begun.start == "sft"
    assert files() == whole


def test_an_earlier_stage_without_its_record_is_refused(work: Path, command: Command, refusal: Refusal) -> None:
    """Trained again, it would be judged against the stage after it."""
    assert command("run", "path.yaml") == 0
    (RUN / "DONE").unlink()
    (RUN / "sft" / "DONE").unlink()
    what, remedy = refusal("run", "path.yaml")
    assert "sft/DONE is missing, but stage `dpo`, which comes after it, has begun" in what
    assert "--new" in remedy


@pytest.mark.parametrize("damage", ["flipped", "removed"])
def test_the_damaged_model_of_a_finished_stage_is_refused(
    work: Path, command: Command, refusal: Refusal, damage: str
) -> None:
    assert command("run", "path.yaml") == 0
    (RUN / "DONE").unlink()
    (RUN / "dpo" / "DONE").unlink()
    weights = RUN / "sft" / "model" / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-5] ^= 4
    weights.unlink() if damage == "removed" else weights.write_bytes(raw)
    what, remedy = refusal("run", "path.yaml")
    assert str(weights) in what
    assert "backup" in remedy
    if damage == "flipped":
        assert "model.safetensors" in refusal("generate", "run:path/sft", "1+1?")[0]


def test_an_edited_evaluation_is_made_again_and_an_edited_lineage_is_refused(
    work: Path, command: Command, refusal: Refusal, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run", "path.yaml") == 0
    whole = files()
    (RUN / "DONE").unlink()
    for name in ("evaluation.json", "evaluation.jsonl"):
        file = RUN / "sft" / name
        file.write_text(file.read_text().replace("0.0", "1.0"))
    assert command("run", "path.yaml") == 0
    assert "the model is evaluated again" in capsys.readouterr().out
    assert files() == whole
    (RUN / "DONE").unlink()
    swapped = (RUN / "sft" / "evaluation.json").read_bytes()
    (RUN / "dpo" / "evaluation.json").write_bytes(swapped)
    (RUN / "dpo" / "evaluation.jsonl").write_bytes((RUN / "sft" / "evaluation.jsonl").read_bytes())
    assert command("run", "path.yaml") == 0
    assert "belongs to another model or other items" in capsys.readouterr().out
    assert files() == whole
    (RUN / "DONE").unlink()
    lineage = RUN / "lineage.json"
    lineage.write_text(lineage.read_text().replace('"outcome": "trained"', '"outcome": "promoted"'))
    assert lineage.read_bytes() != whole["lineage.json"]
    assert "lineage.json is damaged, or was edited" in refusal("run", "path.yaml")[0]


def test_an_empty_report_is_written_again(work: Path, command: Command) -> None:
    assert command("run", "path.yaml") == 0
    whole = files()
    (RUN / "report.html").write_text("")
    assert command("run", "path.yaml") == 0
    assert files() == whole


def test_the_lock_of_a_process_that_was_killed_at_its_end_is_removed(work: Path, command: Command) -> None:
    assert command("run", "path.yaml") == 0
    whole = files()
    (RUN / ".lock").write_text('{"pid": 1, "host": "here"}')
    assert command("run", "path.yaml") == 0
    assert files() == whole


def test_a_log_that_was_edited_before_a_resume_is_refused(work: Path, command: Command, refusal: Refusal) -> None:
    assert command("run", "path.yaml") == 0
    for name in ("DONE", "dpo/DONE"):
        (RUN / name).unlink()
    file = RUN / "dpo" / "metrics.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"step": 1', b'"step": 7', 1))
    assert "metrics.jsonl is damaged, or was edited since the checkpoint was saved" in refusal("run", "path.yaml")[0]


@pytest.mark.process
def test_of_two_processes_in_one_folder_one_trains_and_the_other_is_told_in_two_lines(work: Path) -> None:
    command = [sys.executable, "-m", "rung", "run", "path.yaml", "sft.max_steps=400", "dpo.max_steps=1"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    metrics = RUN / "sft" / "metrics.jsonl"
    while first.poll() is None and not metrics.exists():
        time.sleep(0.05)
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 2
    what, remedy = second.stderr.splitlines()
    assert f"runs/path is in use by process {first.pid}" in what
    assert "--new" in remedy
    beside = subprocess.run([*command, "--new", "sft.max_steps=1"], capture_output=True, text=True)
    assert beside.returncode == 0, beside.stderr
    assert hash_weights(Path("runs/path-2/sft/model"))
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    third = subprocess.run(command, capture_output=True, text=True)
    assert third.returncode == 0, third.stderr
    steps = [line.split(b",")[0] for line in metrics.read_bytes().splitlines()]
    assert steps == [f'{{"step": {number}'.encode() for number in range(1, 401)]
