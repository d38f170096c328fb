"""`rung run` checks a path and then trains it: the data of a stage are read and encoded once."""

import json
from pathlib import Path

import pytest
import yaml

from rung.config import load_config
from rung.pipeline.runner import run_path

COUNTING = """
from pathlib import Path

from rung.data.formats import Format
from rung.data.records import make_example


def convert(row, source):
    with (Path(__file__).parent / "converted").open("a") as file:
        file.write(source + "\\n")
    return [make_example("prompt-completion", source, {}, prompt=row["q"], completion=row["a"])]


COUNTING = Format("counting", "q, a", lambda row: "q" in row, convert)
"""


@pytest.mark.parametrize("stages", [1, 2])
def test_a_row_is_converted_once_for_the_check_and_the_training_together(
    stages: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "counting.py").write_text(COUNTING)
    rows = [{"q": f"{i} + 1 is", "a": f" {i + 1}"} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = {"algorithm": "sft", "data": "own", "max_steps": 1, "batch_size": 2}
    config = {
        "name": "once",
        "model": "tiny:llama",
        "data": {"own": {"path": "rows.jsonl", "format": "./counting.py:COUNTING"}},
        "stages": [{"name": f"s{number}", **stage} for number in range(stages)],
    }
    (tmp_path / "once.yaml").write_text(yaml.safe_dump(config))
    run_path(load_config("once.yaml"))
    assert len((tmp_path / "converted").read_text().splitlines()) == stages * len(rows)
