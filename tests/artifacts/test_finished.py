"""What a finished stage leaves is compared with its hashes when it is read again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rung.artifacts.finished import (
    check_files,
    finish_run,
    finish_stage,
    finished_stage,
    run_is_finished,
    verified,
)
from rung.artifacts.lineage import StageRecord
from rung.errors import CheckpointError


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    folder = tmp_path / "sft"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(b"0123456789")
    (folder / "model" / "config.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "timing.jsonl").write_text("{}\n")
    finish_stage(folder, StageRecord(stage="sft", start="tiny:llama", outcome="trained", weights="ab"))
    return folder


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[3] ^= 1
    file.write_bytes(raw)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda stage: flip(stage / "model/model.safetensors"), "model.safetensors is damaged, or was edited"),
        (lambda stage: (stage / "model/model.safetensors").write_bytes(b"01234"), "has 5 bytes, not the 10"),
        (lambda stage: (stage / "model/config.json").unlink(), "config.json is missing"),
        (lambda stage: (stage / "model/other.safetensors").write_bytes(b"0"), "other.safetensors was added"),
    ],
)
def test_a_damaged_model_is_named(stage: Path, damage: Callable[[Path], None], said: str) -> None:
    assert verified(str(stage / "model")) == str(stage / "model")
    damage(stage)
    with pytest.raises(CheckpointError, match=said):
        verified(str(stage / "model"))


def test_only_what_is_asked_for_is_compared(stage: Path) -> None:
    found = finished_stage(stage)
    assert found is not None
    (stage / "metrics.jsonl").write_text("{ }\n")
    (stage / "timing.jsonl").write_text("")
    check_files(stage, found, "model/")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl"):
        check_files(stage, found, "metrics.jsonl")


def test_a_damaged_or_misplaced_record_is_named(stage: Path) -> None:
    done = stage / "DONE"
    (stage.parent / "dpo").mkdir()
    (stage.parent / "dpo" / "DONE").write_bytes(done.read_bytes())
    with pytest.raises(CheckpointError, match="is not that of this stage"):
        finished_stage(stage.parent / "dpo")
    done.write_text(done.read_text().replace('"trained"', '"promoted"'))
    with pytest.raises(CheckpointError, match="DONE is damaged, or was edited"):
        finished_stage(stage)
    done.write_text("")
    with pytest.raises(CheckpointError):
        finished_stage(stage)
    done.unlink()
    assert finished_stage(stage) is None


def test_a_run_is_finished_while_its_report_is_whole(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("<html></html>")
    assert not run_is_finished(tmp_path)
    finish_run(tmp_path, [report])
    assert run_is_finished(tmp_path)
    report.write_text("")
    assert not run_is_finished(tmp_path)


def test_a_model_from_elsewhere_has_no_record_to_be_compared_with(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert verified(str(tmp_path / "model")) == str(tmp_path / "model")
    assert verified("org/name") == "org/name"
