"""Paths of stages that are promoted or kept: what the next one starts from and is held against."""

import json
from pathlib import Path
from typing import Any

from rung.config import parse_config
from rung.pipeline.runner import Run, run_path

JUDGE = '''
def others(completion: str) -> float:
    """1 unless the answer begins with the letter that the spoilt stage learns."""
    return float(not completion.startswith("z"))
'''
SPOIL = {
    "name": "spoilt",
    "algorithm": "sft",
    "data": "bad.jsonl",
    "batch_size": 8,
    "max_steps": 12,
    "learning_rate": 0.02,
    "warmup_steps": 0,
}
STILL = {
    "name": "still",
    "algorithm": "sft",
    "data": "bad.jsonl",
    "batch_size": 8,
    "max_steps": 1,
    "learning_rate": 1e-12,
    "from": "auto",
}


def climbed(folder: Path, stages: list[dict[str, Any]], **settings: Any) -> Run:
    questions = [{"prompt": f"{i}?", "answer": "z"} for i in range(40)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    bad = [{"prompt": f"{i}?", "completion": "zz"} for i in range(8)]
    (folder / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad))
    (folder / "judge.py").write_text(JUDGE)
    raw = {
        "name": "edges",
        "model": "tiny:llama",
        "output": str(folder / "runs"),
        "evaluate": {
            "validation": "items.jsonl",
            "test": "items.jsonl",
            "metrics": ["./judge.py:others"],
            "max_completion_length": 2,
        },
        "gate": {"metric": "others"},
        "stages": [{key: value for key, value in stage.items() if value != "auto"} for stage in stages],
        **settings,
    }
    return run_path(parse_config(raw, source="test", base=folder))


def test_a_stage_that_is_kept_out_is_not_what_the_next_is_held_against(tmp_path: Path) -> None:
    """The model at the start scores 1, the spoilt one next to 0; the third is the model at the start again."""
    run = climbed(tmp_path, [{"name": "asked", "algorithm": "prompt"}, SPOIL, STILL])
    asked, spoilt, still = run.lineage.stages
    assert (asked.outcome, spoilt.outcome, still.outcome) == ("baseline", "kept", "inconclusive")
    assert spoilt.decision is not None
    assert still.decision is not None
    assert spoilt.decision.gain.gain is not None
    assert spoilt.decision.gain.gain < -0.8
    assert still.decision.gain.gain == 0.0
    assert (spoilt.start, still.start) == ("asked", "asked")
    for stage, trains in (("asked", False), ("spoilt", True), ("still", True)):
        assert (run.folder / stage / "test.json").is_file()
        assert (run.folder / stage / "config.yaml").is_file() is trains
        assert (run.folder / stage / "model").is_dir() is trains
    assert [record.reads for record in run.lineage.stages] == [{"validation": 1, "test": 1}] * 3
    assert "asked" in (run.folder / "config.yaml").read_text()
    assert run.exit_code(strict=False) == 0
    assert run.exit_code(strict=True) == 3


def test_before_anything_is_promoted_a_stage_is_held_against_the_first_model(tmp_path: Path) -> None:
    run = climbed(tmp_path, [SPOIL, STILL], name="other")
    spoilt, still = run.lineage.stages
    assert spoilt.decision is not None
    assert still.decision is not None
    assert spoilt.decision.outcome == "kept"
    assert still.decision.gain.gain == 0.0
    assert (spoilt.start, still.start) == ("tiny:llama", "tiny:llama")
    assert (run.folder / "start" / "evaluation.json").is_file()


def test_a_gate_that_stops_leaves_the_rest_undone(tmp_path: Path) -> None:
    run = climbed(tmp_path, [SPOIL, STILL], gate={"metric": "others", "on_gate": "stop"})
    assert [record.stage for record in run.lineage.stages] == ["spoilt"]
    assert run.finished
    assert not (run.folder / "still").exists()


def test_a_gate_compares_at_the_first_number_of_shots(tmp_path: Path) -> None:
    evaluate = {"validation": "items.jsonl", "metrics": ["./judge.py:others"], "max_completion_length": 2}
    run = climbed(tmp_path, [STILL], evaluate={**evaluate, "shots_from": "bad.jsonl", "shots": [0, 1]})
    (still,) = run.lineage.stages
    assert still.decision is not None
    assert (still.outcome, still.decision.gain.gain, still.reads) == ("inconclusive", 0.0, {"validation": 2})
    files = {
        name: sorted(each.name for each in (run.folder / name).glob("evaluation*.json")) for name in ("start", "still")
    }
    assert files == {"start": ["evaluation.json"], "still": ["evaluation-1-shot.json", "evaluation.json"]}
