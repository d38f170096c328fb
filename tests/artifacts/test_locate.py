"""What a model may be called: folders, runs, stages; and what is told where there is none, or it is not finished."""

import json
from pathlib import Path

import pytest
import yaml

from rung.artifacts.finished import finish_run, finish_stage
from rung.artifacts.lineage import StageRecord
from rung.artifacts.locate import locate, suggest_models
from rung.errors import CheckpointError, ConfigError
from rung.models.names import check_hub


def stage(run: Path, name: str, *, start: str = "tiny:base", model: bool = True, done: bool = True) -> None:
    """A stage of a run, as far as it has come."""
    folder = run / name
    folder.mkdir(parents=True)
    if model:
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")
    if done:
        record = StageRecord(stage=name, start=start, outcome="promoted", weights="ab" if model else None)
        finish_stage(folder, record)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """`whole` has finished; `half` stands in its second stage, whose model is partly written."""
    runs = tmp_path / "runs"
    for name, stages in (("whole", ("prompting", "sft", "again")), ("half", ("sft", "dpo", "grpo"))):
        (runs / name).mkdir(parents=True)
        config = {"name": name, "stages": [{"name": each, "algorithm": "sft"} for each in stages]}
        (runs / name / "config.yaml").write_text(yaml.safe_dump(config))
    stage(runs / "whole", "prompting", model=False)
    stage(runs / "whole", "sft", start="prompting")
    stage(runs / "whole", "again", start="sft", model=False)
    finish_run(runs / "whole", [])
    stage(runs / "half", "sft")
    stage(runs / "half", "dpo", start="sft", done=False)
    return runs


def located(spec: str, runs: Path) -> str:
    return locate(spec, base=runs.parent, runs=runs)


@pytest.mark.parametrize(
    "spec",
    [
        "run:whole/sft",
        "run:whole",
        "run:whole/again",
        "runs/whole",
        "./runs/whole/sft",
        "runs/whole/sft/model",
        "runs/whole/again",
    ],
)
def test_a_run_and_a_stage_have_many_names(runs: Path, spec: str):
    """The last promoted stage trains nothing, so that its model is that of `sft`."""
    assert located(spec, runs) == str((runs / "whole" / "sft" / "model").resolve())


def test_a_stage_that_trains_nothing_has_the_model_that_it_started_from(runs: Path):
    assert located("run:whole/prompting", runs) == "tiny:base"


@pytest.mark.parametrize("spec", ["gpt2", "org/name", "tiny:llama", "Qwen/Qwen2.5-0.5B"])
def test_what_is_no_folder_here_may_be_on_the_hub(runs: Path, spec: str):
    assert located(spec, runs) == spec


@pytest.mark.parametrize(
    ("spec", "what", "remedy"),
    [
        ("run:half", "the run in", "`run:half/sft`"),
        ("run:half/dpo", "stage `dpo`", "name a finished stage (`run:half/sft`)"),
        ("run:half/grpo", "stage `grpo`", "resume it by `rung run`"),
        ("runs/half", "has not finished", "resume it by `rung run`"),
        ("runs/half/dpo", "stage `dpo`", "resume it by `rung run`"),
        ("runs/half/dpo/model", "stage `dpo`", "resume it by `rung run`"),
        ("run:hole/sft", "no run", "`run:whole/sft`"),
        ("run:whole/stf", "no stage `stf`", "`run:whole/sft`"),
        ("run:whole/sft/model", "is not `run:NAME/stage`", "run:NAME/stage"),
        ("runs/hole", "no model", "`runs/whole`"),
        ("./runs/hole", "no model", "`./runs/whole`"),
        ("./runs", "no model", "config.json"),
        ("a/b/c", "no model", "config.json"),
    ],
)
def test_what_holds_no_model_is_told_with_names_that_come_near(runs: Path, spec: str, what: str, remedy: str):
    before = sorted(runs.rglob("*"))
    with pytest.raises(ConfigError) as caught:
        located(spec, runs)
    assert spec in caught.value.what
    assert what in caught.value.what
    assert remedy in caught.value.remedy
    assert sorted(runs.rglob("*")) == before


def test_a_run_that_promoted_nothing_has_no_final_policy(runs: Path):
    for name in ("prompting", "sft", "again"):
        finish_stage(runs / "whole" / name, StageRecord(stage=name, start="tiny:base", outcome="kept", weights="ab"))
    with pytest.raises(ConfigError, match="no stage of the run") as caught:
        located("run:whole", runs)
    assert "`run:whole/sft`" in caught.value.remedy


def test_a_model_that_was_removed_is_told(runs: Path):
    (runs / "whole" / "sft" / "model" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="sft/model is missing"):
        located("run:whole/sft", runs)


def test_a_stage_of_a_run_moved_elsewhere_is_found_by_its_folder(runs: Path, tmp_path: Path):
    moved = tmp_path / "elsewhere"
    (runs / "half").rename(moved)
    assert locate(str(moved / "sft"), base=Path(), runs=runs) == str((moved / "sft" / "model").resolve())


@pytest.mark.parametrize(
    ("spec", "name"), [("whole", "run:whole"), ("whole/stf", "run:whole/sft"), ("lama", "tiny:llama")]
)
def test_a_name_without_its_prefix_is_suggested(runs: Path, spec: str, name: str):
    assert f"`{name}`" in suggest_models(spec, runs)


def test_a_hub_that_cannot_be_asked_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="`org/none` is not a local folder"):
        check_hub("org/none")


def test_an_adapter_in_a_folder_is_found(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "adapter_config.json").write_text(json.dumps({}))
    assert locate("mine", base=tmp_path, runs=tmp_path / "runs") == str((tmp_path / "mine").resolve())
