"""A run goes on under the conditions under which it began, or is refused, or records what has changed."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from helpers.commands import Command, Refusal
from helpers.rows import write_rows
from rung.artifacts import conditions
from rung.artifacts.lineage import Lineage
from rung.distributed.ranks import Ranks
from rung.errors import CheckpointError
from rung.pipeline.begin import begin_run

PROMPTS = [{"prompt": f"{number}+1?", "answer": str(number + 1)} for number in range(8)]
REWARD = """
from scale import SIGN

def many(completion: str) -> float:
    return SIGN * len(completion)
"""
STAGE = {
    "name": "grpo",
    "algorithm": {"name": "grpo", "num_generations": 2, "beta": 0},
    "data": "prompts.jsonl",
    "rewards": ["./judge.py:many"],
    "rollout": {"batch_size": 2, "max_completion_length": 4},
    "save_steps": 1,
    "max_steps": 3,
}
CONFIG = {
    "name": "run",
    "model": "tiny:llama",
    "evaluate": {"validation": "items.jsonl", "metrics": ["exact_match"], "max_completion_length": 2},
    "stages": [STAGE],
}
RUN = Path("runs/run")


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> Path:
    """A run whose last stage and report are missing; its evaluation is there."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path, {"prompts": PROMPTS, "items": PROMPTS})
    (tmp_path / "judge.py").write_text(REWARD)
    (tmp_path / "scale.py").write_text("SIGN = 1.0\n")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(CONFIG))
    assert command("run", "run.yaml") == 0
    for name in ("DONE", "grpo/DONE"):
        (RUN / name).unlink()
    return tmp_path


def edit(file: str, old: str, new: str) -> None:
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new, 1))


def other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)


def other_version(monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(conditions.versions())
    monkeypatch.setattr(conditions, "versions", lambda: known | {"torch": "9.9"})


DRIFTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, str]] = {
    "reward code": (lambda _: edit("judge.py", "SIGN *", "-SIGN *"), "`code.judge.py` changed from", "code.judge.py"),
    "code beside it": (lambda _: edit("scale.py", "1.0", "-1.0"), "`code.scale.py` changed from", "code.scale.py"),
    "items": (
        lambda _: edit("items.jsonl", '"answer": "1"', '"answer": "2"'),
        "`items.validation` changed from 8 items",
        "items.validation",
    ),
    "rows": (
        lambda _: edit("prompts.jsonl", '"answer": "1"', '"answer": "2"'),
        "the rows are not those with which this stage began: 8 rows before, 8 rows",
        "grpo.data",
    ),
    "threads": (other_threads, "`threads` changed from 1 to 7", "threads"),
    "version": (other_version, "to 9.9", "versions.torch"),
    "config": (
        lambda _: (RUN / "config.yaml").unlink(),
        "config.yaml is missing, but stage `grpo` has begun",
        "config",
    ),
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift_is_refused_with_the_difference_or_recorded(
    begun: Path, drift: str, command: Command, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, said, key = DRIFTS[drift]
    change(monkeypatch)
    what, remedy = refusal("run", "run.yaml")
    assert said in what
    assert "--allow-drift" in remedy
    assert command("run", "run.yaml", "--allow-drift") == 0
    (recorded,) = Lineage.load(RUN / "lineage.json").changes
    assert recorded.key.startswith(key)
    assert (recorded.stage, recorded.step) in (("grpo", 2), ("grpo", 0))
    assert f"`{recorded.key}`" in (RUN / "report.md").read_text()


def test_an_edited_config_of_the_run_is_refused(begun: Path, command: Command, refusal: Refusal) -> None:
    """`max_empty_steps` may change in the config of the user, but not in the copy in the folder of the run."""
    edit("runs/run/config.yaml", "max_empty_steps: 20", "max_empty_steps: 21")
    assert "config.yaml is damaged, or was edited" in refusal("run", "run.yaml")[0]
    edit("runs/run/config.yaml", "max_empty_steps: 21", "max_empty_steps: 20")
    assert command("run", "run.yaml", "grpo.max_empty_steps=30") == 0
    (change,) = Lineage.load(RUN / "lineage.json").changes
    assert change.key == "grpo.max_empty_steps"


def test_nothing_is_drift_before_a_stage_has_begun(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path, {"prompts": PROMPTS, "items": PROMPTS})
    (tmp_path / "judge.py").write_text(REWARD)
    (tmp_path / "scale.py").write_text("SIGN = 1.0\n")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(CONFIG))
    RUN.mkdir(parents=True)
    conditions.write_conditions(
        RUN, conditions.Conditions(versions={}, device="none", threads=99, world=1, code={}, items={})
    )
    assert command("run", "run.yaml", "grpo.max_steps=1") == 0
    assert not Lineage.load(RUN / "lineage.json").changes


def test_another_number_of_processes_is_no_drift_and_neither_are_its_threads() -> None:
    before = conditions.Conditions(versions={"a": "1"}, device="cpu", threads=2, world=1, code={}, items={})
    assert conditions.drift(before, before.model_copy(update={"world": 2, "threads": 1})) == []
    changed = conditions.drift(before, before.model_copy(update={"threads": 1, "versions": {"a": "2", "b": "1"}}))
    assert {each.key: (each.before, each.after) for each in changed} == {
        "versions.a": ("1", "2"),
        "versions.b": (None, "1"),
        "threads": (2, 1),
    }


def test_a_file_of_another_run_is_no_drift() -> None:
    before = conditions.Conditions(versions={}, device="cpu", threads=1, world=1, code={"a.py": "1"}, items={})
    assert conditions.drift(before, before.model_copy(update={"code": {"a.py": "1", "b.py": "2"}})) == []


def test_of_several_missing_files_the_config_is_told(tmp_path: Path) -> None:
    (tmp_path / "grpo").mkdir()
    (tmp_path / "grpo" / "DONE").touch()
    checked: Any = SimpleNamespace(config=SimpleNamespace(stages=[SimpleNamespace(name="grpo")]))
    with pytest.raises(CheckpointError, match=r"config\.yaml is missing, but stage `grpo` has begun"):
        begin_run(checked, tmp_path, Ranks(), allow_drift=False)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(CheckpointError, match=r"conditions\.json is missing, but"):
        begin_run(checked, tmp_path, Ranks(), allow_drift=False)
