"""Which keys may change while a run is under way, and what is recorded of it."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from rung.artifacts.changes import PATH_KEYS, STAGE_KEYS, date_of, record_changes, refuse_changes
from rung.artifacts.folder import CONFIG, DONE, LINEAGE
from rung.artifacts.lineage import Change, Lineage
from rung.config import PathConfig, parse_config, resolve
from rung.errors import ConfigError
from rung.utils.files import write_text
from rung.utils.yaml_file import as_yaml

STAGE = {"algorithm": "dapo", "data": "x", "max_steps": 8, "rewards": ["exact_match"]}
OF_STAGE = {
    "max_steps": (8, 9),
    "max_empty_steps": (20, 3),
    "token_budget": (100, 50),
    "save_steps": (100, 1),
    "eval_steps": (None, 4),
    "algorithm.max_num_gen_batches": (None, 4),
}
OF_PATH = {
    "trackers": (["jsonl"], ["jsonl", "wandb"]),
    "reward_policy.max_error_rate": (0.02, 0.5),
    "reward_policy.timeout_s": (None, 3.0),
    "reward_policy.on_error": ("raise", "drop_row"),
}


def config(folder: Path, path: dict[str, Any] | None = None, **stage: Any) -> PathConfig:
    stages = [{"name": "first", **STAGE}, {"name": "second", **STAGE, **stage}]
    raw = {"name": "climb", "model": "tiny:llama", "output": str(folder), "stages": stages, **(path or {})}
    return resolve(parse_config(raw, source="test", base=folder), "tiny")


def nested(key: str, value: Any) -> dict[str, Any]:
    """{a: {b: value}} for `a.b`; the settings of an algorithm beside its name."""
    outer, dot, inner = key.partition(".")
    if not dot:
        return {outer: value}
    return {outer: {inner: value} | ({"name": "dapo"} if outer == "algorithm" else {})}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of which the first stage has finished, and the second has a checkpoint of its fifth step."""
    folder = tmp_path / "climb"
    write_text(folder / "first" / DONE, "trained\n")
    (folder / "second" / "checkpoints" / "step-000005").mkdir(parents=True)
    (folder / "second" / "checkpoints" / "step-000004").mkdir()
    return folder


def start(run: Path, asked: PathConfig) -> None:
    write_text(run / CONFIG, as_yaml(asked.dump()))


def changes(run: Path, asked: PathConfig) -> list[tuple[str, Any, Any]]:
    return [(each.key, each.before, each.after) for each in refuse_changes(asked, run)]


def refused(run: Path, asked: PathConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        refuse_changes(asked, run)
    return caught.value.what.partition("changed: ")[2]


@pytest.mark.parametrize("key", OF_STAGE)
def test_these_keys_of_a_stage_may_change_until_it_has_finished(run: Path, key: str) -> None:
    before, after = OF_STAGE[key]
    old = {} if before is None and "." in key else nested(key, before)
    start(run, config(run.parent, **old))
    asked = config(run.parent, **nested(key, after))
    assert changes(run, asked) == [(f"second.{key}", before, after)]
    write_text(run / "second" / DONE, "trained\n")
    assert refused(run, asked) == f"second.{key} (its stage has finished)"


@pytest.mark.parametrize("key", OF_PATH)
def test_these_keys_of_the_path_may_change_until_the_run_has_finished(run: Path, key: str) -> None:
    before, after = OF_PATH[key]
    start(run, config(run.parent, nested(key, before)))
    asked = config(run.parent, nested(key, after))
    assert changes(run, asked) == [(key, before, after)]
    write_text(run / DONE, "")
    assert refused(run, asked) == f"{key} (the run has finished)"


def test_no_other_key_is_in_the_list() -> None:
    assert {*STAGE_KEYS, "algorithm.max_num_gen_batches"} == {*OF_STAGE, "num_train_epochs"}
    assert PATH_KEYS.keys() == OF_PATH.keys()


def test_a_stage_can_only_get_longer(run: Path) -> None:
    start(run, config(run.parent))
    assert refused(run, config(run.parent, max_steps=7)) == "second.max_steps (it can only be raised)"
    assert "second.max_steps (it can only be raised)" in refused(run, config(run.parent, max_steps=None))


def test_failures_that_were_borne_cannot_be_refused_afterwards(run: Path) -> None:
    start(run, config(run.parent))
    asked = config(run.parent, {"reward_policy": {"on_error": "raise"}})
    assert refused(run, asked) == "reward_policy.on_error (it can only change from `raise`)"


@pytest.mark.parametrize(
    ("stage", "key"),
    [
        ({"learning_rate": 0.5}, "second.learning_rate"),
        ({"algorithm": {"name": "dapo", "epsilon": 0.1}}, "second.algorithm.epsilon"),
        ({"rollout": {"temperature": 0.5}}, "second.rollout.temperature"),
        ({"seed": 3}, "second.seed"),
    ],
)
def test_what_rewrites_what_was_trained_is_refused(run: Path, stage: dict, key: str) -> None:
    start(run, config(run.parent))
    assert refused(run, config(run.parent, save_steps=7, **stage)) == key


def test_the_lineage_says_what_changed_from_what_to_what_and_when(run: Path) -> None:
    start(run, config(run.parent))
    (run / "second" / "evaluation.json").write_text("of a model that is trained further")
    asked = config(run.parent, {"trackers": ["jsonl", "wandb"]}, max_steps=9)
    found = refuse_changes(asked, run)
    said = record_changes(found, asked, run)
    assert said == [
        "`second.max_steps` changed from 8 to 9 after step 5 of stage `second`",
        "`trackers` changed from ['jsonl'] to ['jsonl', 'wandb'] after step 5 of stage `second`",
    ]
    first, second = Lineage.load(run / LINEAGE).changes
    assert first == Change(key="second.max_steps", before=8, after=9, stage="second", step=5)
    assert (second.key, second.step) == ("trackers", 5)
    assert not (run / "second" / "evaluation.json").exists()
    record_changes(found, asked, run)  # killed before the config was written
    assert len(Lineage.load(run / LINEAGE).changes) == 2


def test_the_date_is_that_of_the_config_else_of_the_start_else_today(run: Path) -> None:
    asked = config(run.parent)
    assert date_of(asked, run) == date.today()
    for written, begun in (("", date.today()), ("date: today", date.today()), ("date: '2001-01-02'", date(2001, 1, 2))):
        write_text(run / CONFIG, f"name: climb\n{written}\n")
        assert date_of(asked, run) == begun
        assert date_of(config(run.parent, {"date": "2024-01-02"}), run) == date(2024, 1, 2)
