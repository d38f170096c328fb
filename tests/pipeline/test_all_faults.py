"""All mistakes of a config and its data are told at once, each in two lines."""

import json
from pathlib import Path

import pytest
import yaml

from rung.config import StageConfig, load_config
from rung.data.spec import KEYS_OF_STAGE
from rung.errors import ConfigError, DataError, Faults, SeveralErrors, UserError, error_context
from rung.pipeline.check import check


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "1+1?", "completion": "2"}) + "\n")
    return tmp_path


def write(folder: Path, **config: object) -> Path:
    file = folder / "a.yaml"
    file.write_text(yaml.safe_dump({"name": "a", "model": "tiny:llama", **config}))
    return file


def told(file: Path) -> list[str]:
    with pytest.raises(UserError) as caught:
        check(load_config(file))
    return [error.what for error in getattr(caught.value, "errors", (caught.value,))]


def test_every_wrong_key_of_a_config_is_named(work) -> None:
    stage = {"name": "sft", "algorithm": "sft", "data": "rows.jsonl", "lr": 1, "batch_size": 0, "max_steps": -1}
    found = told(write(work, stages=[stage], sead=3))
    assert len(found) == 4
    for key in ("`sft.lr`", "`sead`", "`sft.batch_size`", "`sft.max_steps`"):
        assert any(key in what for what in found), key


def test_every_mistake_that_a_check_can_find_is_told(work, command, capsys) -> None:
    stages = [
        {"name": "sft", "algorithm": "sft", "data": "missing.jsonl", "optimizer": "adm"},
        {"name": "dpo", "algorithm": "dpo", "data": "rows.jsonl", "gate": {"metric": "exakt"}},
    ]
    held = {"validation": "rows.jsonl", "metrics": [{"name": "exact_match", "columns": {"answer": "ground_truth"}}]}
    found = told(write(work, stages=stages, evaluate=held))
    assert len(found) == 4
    for part in ("missing.jsonl: there is no such file", "`adm`", "reads `exakt`", "learns from pairs"):
        assert any(part in what for what in found), part
    assert command("check", "a.yaml") == 2
    assert len(capsys.readouterr().err.splitlines()) == 8


def test_one_mistake_is_told_once_and_keeps_its_type(work) -> None:
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        check(load_config(write(work, stages=[{"name": "sft", "algorithm": "sft", "data": "missing.jsonl"}])))


def test_collected_errors_keep_their_order_and_are_told_once() -> None:
    faults = Faults()
    for what in ("a", "b", "a"):
        with faults.collect():
            raise ConfigError(what, "mend it")
    with faults.collect(), error_context("here"):
        raise SeveralErrors([ConfigError("c", "mend it"), DataError("d", "mend it")])
    with pytest.raises(SeveralErrors) as caught:
        faults.raise_found()
    assert [error.what for error in caught.value.errors] == ["a", "b", "here: c", "here: d"]
    assert [type(error) for error in caught.value.errors] == [ConfigError] * 3 + [DataError]
    assert (caught.value.what, caught.value.remedy) == ("a", "mend it")


def test_a_bad_row_that_is_trained_and_evaluated_on_is_told_once_with_a_remedy_that_helps_both(work) -> None:
    """`on_bad_row: skip` alone would not: an evaluation reads every row."""
    (work / "rows.csv").write_text("prompt,completion\n1+1?,2\n2+2?,\n3+3?,6\n")
    stage = {"name": "sft", "algorithm": "sft", "data": "rows.csv"}
    for more in ({}, {"on_bad_row": "skip", "max_bad_share": 0.5}):
        file = write(work, stages=[stage | more], evaluate={"validation": "rows.csv"})
        with pytest.raises(DataError, match="`completion` is empty") as caught:
            check(load_config(file))
        assert caught.value.remedy.startswith("fix or remove these rows: an evaluation reads every row")
    with pytest.raises(DataError) as caught:
        check(load_config(write(work, stages=[stage])))
    assert "`on_bad_row: skip`" in caught.value.remedy


def test_a_key_of_a_stage_in_data_is_told_its_place(work) -> None:
    for key in KEYS_OF_STAGE:
        assert key in StageConfig.model_fields
        stage = {"name": "sft", "algorithm": "sft", "data": {"path": "rows.jsonl", key: 1}}
        with pytest.raises(ConfigError, match=f"data: unknown key `{key}`") as caught:
            check(load_config(write(work, stages=[stage])))
        assert caught.value.remedy == "it is a key of a stage: write it beside `algorithm`"
