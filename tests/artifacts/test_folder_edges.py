"""The folder of a run: its name, its config, its lineage, and where its models are."""

from pathlib import Path
from typing import Any

import pytest

from rung.artifacts.changes import refuse_changes
from rung.artifacts.claim import claimed
from rung.artifacts.finished import finish_run, finish_stage
from rung.artifacts.folder import CONFIG
from rung.artifacts.lineage import Lineage, StageRecord, hash_weights
from rung.artifacts.locate import locate, suggest_models
from rung.config import PathConfig, parse_config, resolve
from rung.distributed.ranks import Ranks
from rung.errors import CheckpointError, ConfigError
from rung.utils.files import write_text
from rung.utils.yaml_file import as_yaml


def config(folder: Path, **more: Any) -> PathConfig:
    stages = [{"name": name, "algorithm": "sft", "data": "x", "max_steps": 3} for name in ("sft", "more")]
    raw = {"name": "climb", "model": "tiny:llama", "output": str(folder), "stages": stages, **more}
    return resolve(parse_config(raw, source="test", base=folder), "tiny")


def test_a_new_run_takes_the_first_free_number(tmp_path: Path) -> None:
    asked = config(tmp_path)

    def folder(new: bool) -> Path:
        with claimed(asked, new, Ranks()) as chosen:
            return chosen

    assert folder(True) == folder(False) == tmp_path / "climb"
    assert not (tmp_path / "climb").exists(), "an empty folder is not left behind"
    for taken in ("climb", "climb-2", "climb-4"):
        write_text(tmp_path / taken / "any", "")
    assert folder(False) == tmp_path / "climb"
    assert folder(True) == tmp_path / "climb-3"


def changed(folder: Path, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        refuse_changes(config(folder, **more), folder / "climb")
    return caught.value.what.partition("changed: ")[2]


def test_what_changed_is_named_and_where_runs_lie_is_no_matter(tmp_path: Path) -> None:
    refuse_changes(config(tmp_path), tmp_path / "climb")
    write_text(tmp_path / "climb" / CONFIG, as_yaml(config(tmp_path).dump()))
    refuse_changes(config(tmp_path), tmp_path / "climb")
    moved = config(tmp_path).model_copy(update={"output": "elsewhere"})
    refuse_changes(moved, tmp_path / "climb")
    assert changed(tmp_path, seed=1) == "seed"
    assert changed(tmp_path, rewards=["exact_match"]) == "rewards"
    assert changed(tmp_path, evaluate={"temperature": 1.0}) == "evaluate.temperature"
    two = [{"name": name, "algorithm": "sft", "data": "x", "max_steps": 3} for name in ("sft", "more")]
    assert changed(tmp_path, stages=[two[0], two[1] | {"max_steps": 2}]) == "more.max_steps (it can only be raised)"
    assert changed(tmp_path, stages=[two[0], two[1] | {"seed": 4}]) == "more.seed"
    assert changed(tmp_path, stages=two[:1]) == "stages"
    assert changed(tmp_path, stages=two[::-1]) == "stages"


def test_yaml_keeps_its_order_and_its_letters() -> None:
    assert as_yaml({"b": 1, "a": "ü"}) == "b: 1\na: ü\n"


def record(stage: str, outcome: str, **more: Any) -> StageRecord:
    return StageRecord.model_validate({"stage": stage, "start": "tiny:llama", "outcome": outcome, **more})


def test_a_lineage_knows_its_stages_and_how_often_sets_were_read() -> None:
    made = Lineage(
        stages=(
            record("a", "promoted", reads={"validation": 2}),
            record("b", "trained", makes_policy=False),
            record("c", "kept", reads={"validation": 1, "test": 1}),
        )
    )
    promoted = made.last_accepted()
    assert promoted is not None
    assert promoted.stage == "a"
    assert (made.reads("validation"), made.reads("test"), made.reads("other")) == (3, 1, 0)
    assert made.stage("c") == made.stages[2]
    assert made.stage("d") is None
    again = made.with_stage(record("b", "promoted")).with_stage(record("d", "kept"))
    assert [one.stage for one in again.stages] == ["a", "b", "c", "d"]
    assert again.last_accepted() == record("b", "promoted")
    assert Lineage(stages=(record("a", "kept"),)).last_accepted() is None


def test_weights_are_hashed_by_name_and_content(tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").write_bytes(b"2")
    (tmp_path / "a.safetensors").write_bytes(b"1")
    (tmp_path / "c.bin").write_bytes(b"3")
    import hashlib

    sums = {name: hashlib.sha256(raw).hexdigest() for name, raw in (("a", b"1"), ("b", b"2"))}
    lines = f"a.safetensors {sums['a']}\nb.safetensors {sums['b']}\n"
    assert hash_weights(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Stage `sft` is done and promoted; `more` is not done; a model of each is there."""
    folder = tmp_path / "climb"
    write_text(folder / CONFIG, as_yaml(config(tmp_path).dump()))
    for stage in ("sft", "more"):
        write_text(folder / stage / "model" / "config.json", "{}")
    finish_stage(folder / "sft", record("sft", "promoted", weights="x"))
    return folder


def found(spec: str, runs: Path) -> str:
    return locate(spec, base=runs, runs=runs)


def test_a_stage_of_a_run_is_found_by_name_and_by_folder(run: Path) -> None:
    model = str(run / "sft" / "model")
    for spec in ("run:climb/sft", "climb/sft", "climb/sft/model", str(run / "sft")):
        assert found(spec, run.parent) == model
    assert found("tiny:x", run.parent) == "tiny:x"
    assert locate("org/name", base=run.parent.parent / "here", runs=run.parent) == "org/name"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("run:climb/more", "stage `more` of the run in .* has not finished"),
        ("climb/more/model", "has not finished"),
        ("run:climb", "the run in .* has not finished"),
        ("climb", "the run in .* has not finished"),
        ("run:climb/dpo", "has no stage `dpo`"),
        ("run:clim", "there is no run in"),
        ("run:climb/sft/model", "is not `run:NAME/stage`"),
        ("climb/gone", "there is no model in"),
    ],
)
def test_what_is_not_there_or_not_done_is_told(run: Path, spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        found(spec, run.parent)


def test_a_finished_run_is_its_last_accepted_stage(run: Path) -> None:
    finish_run(run, [])
    assert found("run:climb", run.parent) == found("climb", run.parent) == str(run / "sft" / "model")
    finish_stage(run / "sft", record("sft", "kept", weights="x"))
    with pytest.raises(ConfigError, match=r"no stage of the run in .* was promoted") as caught:
        found("run:climb", run.parent)
    assert "`run:climb/sft`, `run:climb/more`" in caught.value.remedy


def test_a_stage_that_trained_nothing_is_what_it_started_from(run: Path) -> None:
    (run / "sft" / "model" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="sft/model is missing"):
        found("run:climb/sft", run.parent)
    finish_stage(run / "sft", record("sft", "promoted"))
    assert found("run:climb/sft", run.parent) == "tiny:llama"


def test_like_names_are_told(run: Path) -> None:
    assert "`run:climb`" in suggest_models("clim", run.parent)
    assert "`run:climb/sft`" in suggest_models("climb/sftt", run.parent)
    assert "`tiny:llama`" in suggest_models("lama", run.parent)
    assert "did you mean" not in suggest_models("zzzzzz", run.parent)
