"""What became of the rows of a stage: on the terminal, in its folder, in the lineage and in the report."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import rung
from rung.artifacts.data_card import read_data_card
from rung.errors import DataError

LONG = {"prompt": "a" * 300, "completion": "b"}
SUMS = [{"prompt": f"{i}+1?", "completion": str(i + 1)} for i in range(8)]
TOO_LONG = "the prompt leaves no room for a completion within max_length 64"


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    """A config of one stage with a checkpoint after two of its three steps; the last two of ten rows are too long."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", [*SUMS, LONG, LONG])
    stage = {"name": "sft", "algorithm": "sft", "data": "rows.jsonl", "max_steps": 3, "save_steps": 2, "batch_size": 4}
    held = {"validation": {"path": "rows.jsonl", "limit": 2}, "max_completion_length": 2}
    content = {"name": "a", "model": "tiny:llama", "evaluate": held, "stages": [{**stage, "max_length": 64}]}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "a.yaml"


def test_dropped_and_noticed_rows_are_told_on_the_terminal_in_the_lineage_and_in_the_report(config, capsys) -> None:
    run = rung.run(config)
    told = capsys.readouterr().out
    dropped = f"dropped 2: {TOO_LONG} (rows.jsonl:9, rows.jsonl:10)"
    noticed = "noticed 1: an exact duplicate of an earlier row (rows.jsonl:10)"
    assert "sft: 10 rows, 10 examples, 8 encoded\n" in told
    for line in (dropped, noticed):
        assert f"sft: {line}\n" in told
        assert f"- sft: {line}\n" in (run.folder / "report.md").read_text()
    card = read_data_card(run.folder / "sft")
    assert card is not None
    record = run.lineage.stages[0].data
    assert record is not None
    assert (record.rows, record.encoded, record.dropped) == (10, 8, {TOO_LONG: 2})
    assert record.fingerprint == card["fingerprint"]
    assert (
        f"| sft | prompt-completion | {record.fingerprint[:12]} | 10 | 10 | 8 | 2 |"
        in (run.folder / "report.md").read_text()
    )


def interrupted(config: Path) -> Path:
    """The folder of a run that was killed in its third step."""
    folder = rung.run(config).folder
    for name in ("DONE", "report.html", "sft/DONE", "sft/evaluation.json"):
        (folder / name).unlink()
    return folder


@pytest.mark.parametrize(
    "rows", [[*SUMS[:5], LONG], [*SUMS[::-1], LONG, LONG], [*SUMS[:7], {**SUMS[7], "completion": "9"}]]
)
def test_a_stage_does_not_go_on_with_other_rows(config, rows) -> None:
    interrupted(config)
    write(config.parent / "rows.jsonl", rows)
    with pytest.raises(DataError, match=r"the rows are not those with which this stage began: 8 rows before"):
        rung.run(config)


def test_rows_that_are_the_same_after_encoding_are_no_change(config) -> None:
    folder = interrupted(config)
    write(config.parent / "rows.jsonl", [*SUMS, LONG, LONG, {"prompt": "c" * 300, "completion": "b"}])
    assert rung.run(config).finished
    card = read_data_card(folder / "sft")
    assert card is not None
    assert card["rows"] == 11


def test_a_stage_without_a_checkpoint_begins_with_the_rows_that_are_there(config) -> None:
    folder = interrupted(config)
    shutil.rmtree(folder / "sft" / "checkpoints")
    write(config.parent / "rows.jsonl", SUMS[:6])
    assert rung.run(config).finished
