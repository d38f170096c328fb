"""Configs at their limits: what merges, what a number is, which value is just allowed, and how sizes are named."""

from pathlib import Path
from typing import Any

import pytest

from rung.config import load_config, parse_config, resolve
from rung.config.blocks import EarlyStopping, RolloutConfig
from rung.config.defaults import defaults_file, native_precision, size_of
from rung.config.load import find_config, merge
from rung.config.migration import method_advice, old_advice, setting_successor, successor
from rung.config.schema import PathConfig, StageConfig
from rung.errors import ConfigError
from rung.utils.yaml_file import read_yaml


def path(*stages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "p", "model": "tiny:llama", "stages": list(stages), **more}


def parsed(raw: dict[str, Any], base: Path = Path()) -> PathConfig:
    return parse_config(raw, source="test", base=base)


SFT = {"name": "sft", "algorithm": "sft", "data": "x.jsonl"}


def test_mappings_merge_and_everything_else_replaces() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 1, "e": {"f": 1}}
    assert merge(base, {"a": {"c": [3]}, "d": {"x": 1}, "e": None, "g": 2}, "x") == {
        "a": {"b": 1, "c": [3]},
        "d": {"x": 1},
        "e": None,
        "g": 2,
    }
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 1, "e": {"f": 1}}


def test_a_mapping_over_a_list_of_names_changes_the_named() -> None:
    base = {"stages": ["one", {"name": "two", "k": 1}]}
    assert merge(base, {"stages": {"two": {"k": 2}}}, "x") == {"stages": [{"name": "one"}, {"name": "two", "k": 2}]}
    assert merge(base, {"stages": ["three"]}, "x") == {"stages": ["three"]}
    assert merge({"stages": [1]}, {"stages": {"a": 1}}, "x") == {"stages": {"a": 1}}
    assert merge({"stages": []}, {"stages": {"a": 1}}, "x") == {"stages": {"a": 1}}
    with pytest.raises(ConfigError, match=r"x: `stages` has no `zwo`"):
        merge(base, {"stages": {"zwo": {}}}, "x")


def test_steps_and_epochs_put_each_other_out_unless_they_are_nothing() -> None:
    assert merge({"max_steps": 1}, {"num_train_epochs": 2}, "x") == {"num_train_epochs": 2}
    assert merge({"num_train_epochs": 1}, {"max_steps": 2}, "x") == {"max_steps": 2}
    assert merge({"max_steps": 1}, {"num_train_epochs": None}, "x") == {"max_steps": 1, "num_train_epochs": None}


def test_another_algorithm_forgets_the_settings_and_the_same_keeps_them() -> None:
    base = {"algorithm": {"name": "dpo", "beta": 1}}
    assert merge(base, {"algorithm": {"beta": 2}}, "x") == {"algorithm": {"name": "dpo", "beta": 2}}
    assert merge(base, {"algorithm": {"name": "dpo", "lr": 2}}, "x") == {
        "algorithm": {"name": "dpo", "beta": 1, "lr": 2}
    }
    assert merge(base, {"algorithm": "dpo"}, "x") == base
    assert merge(base, {"algorithm": "ipo"}, "x") == {"algorithm": {"name": "ipo"}}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1e-5", 1e-5),
        ("-2E3", -2000.0),
        ("1.e2", 100.0),
        ("+1.5e+2", 150.0),
        ("1e", "1e"),
        ("e5", "e5"),
        ("a1e5", "a1e5"),
    ],
)
def test_a_number_without_a_point_is_one(tmp_path: Path, written: str, read: object) -> None:
    (tmp_path / "a.yaml").write_text(f"a: {written}\nb: [{written}, {{c: {written}}}]\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": read, "b": [read, {"c": read}]}


def test_configs_are_found_by_name_folder_and_file(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("x: 1")
    assert find_config(tmp_path / "a.yml") == (tmp_path / "a.yml").resolve()
    assert find_config("base").parent.name == "tiny"
    assert find_config("tiny/base") == find_config("base")
    with pytest.raises(ConfigError, match=r"b.yaml: the file does not exist"):
        find_config(tmp_path / "b.yaml")
    with pytest.raises(ConfigError, match="there is no config `bsae`") as caught:
        find_config("bsae")
    assert "`base`" in caught.value.remedy


def test_extends_starts_from_the_files_folder_and_takes_one_name(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.yaml").write_text(
        "name: a\nmodel: tiny:llama\nseed: 1\nstages: [{name: s, algorithm: sft}]\n"
    )
    (tmp_path / "sub" / "b.yaml").write_text("extends: a.yaml\nseed: 2\n")
    config = load_config(tmp_path / "sub" / "b.yaml", ["seed=3"])
    assert (config.name, config.seed, config.base) == ("a", 3, tmp_path / "sub")
    (tmp_path / "sub" / "c.yaml").write_text("extends: [a.yaml]\n")
    with pytest.raises(ConfigError, match="`extends` is"):
        load_config(tmp_path / "sub" / "c.yaml")


@pytest.mark.parametrize(
    ("parameters", "name"),
    [(1, "tiny"), (49_999_999, "tiny"), (50_000_000, "small"), (999_999_999, "small"), (1_000_000_000, "large")],
)
def test_a_size_begins_with_its_bound(parameters: int, name: str) -> None:
    assert size_of(parameters) == name


@pytest.mark.parametrize(
    ("minibatches", "rollout", "batch", "prompts"),
    [(2, 8, "auto", 4), (3, 8, "auto", 2), (8, 8, "auto", 1), (2, "auto", 5, 5)],
)
def test_a_step_has_the_prompts_of_a_minibatch(minibatches: int, rollout: Any, batch: Any, prompts: int) -> None:
    stage = {
        "name": "g",
        "algorithm": "grpo",
        "data": "x",
        "rewards": ["exact_match"],
        "updates": {"minibatches": minibatches},
        "rollout": {"batch_size": rollout},
        "batch_size": batch,
    }
    (made,) = resolve(parsed(path(stage)), "tiny").stages
    assert made.batch_size == prompts
    assert made.rollout.batch_size == (prompts * minibatches if rollout == "auto" else rollout)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rollout": {"batch_size": 2}, "updates": {"minibatches": 3}}, "2 is too few prompts for 3 minibatches"),
        ({"rollout": {"batch_size": 8}, "updates": {"minibatches": 2}, "batch_size": 3}, "`batch_size` 3 is not"),
        ({"batch_size": {"tokens": 8}}, "`batch_size` is in tokens"),
    ],
)
def test_a_rollout_that_cannot_be_cut_is_refused(changes: dict[str, Any], said: str) -> None:
    stage = {"name": "g", "algorithm": "grpo", "data": "x", "rewards": ["exact_match"], **changes}
    with pytest.raises(ConfigError, match=said):
        resolve(parsed(path(stage)), "tiny")


@pytest.mark.parametrize(
    ("key", "allowed", "refused"),
    [
        ("learning_rate", 1e-12, 0),
        ("warmup_steps", 0, -1),
        ("weight_decay", 0, -0.1),
        ("max_grad_norm", 0.1, 0),
        ("batch_size", 1, 0),
        ("num_train_epochs", 0.1, 0),
        ("max_steps", 1, 0),
        ("save_steps", 1, 0),
        ("eval_steps", 1, 0),
        ("seed", 2**63 - 1, 2**63),
        ("seed", 0, -1),
        ("shots", [0], [-1]),
        ("shots", [0], []),
        ("ref_model_mixup_alpha", 0.999, 1),
        ("ref_model_mixup_alpha", 0.001, 0),
        ("ref_model_sync_steps", 1, 0),
        ("max_length", 1, 0),
        ("token_budget", 1, 0),
        ("early_stopping", {"patience": 1, "threshold": 0}, {"patience": 0}),
        ("early_stopping", {}, {"threshold": -0.1}),
    ],
)
def test_the_least_that_a_key_takes(key: str, allowed: Any, refused: Any) -> None:
    parsed(path({**SFT, key: allowed}))
    with pytest.raises(ConfigError, match=key):
        parsed(path({**SFT, key: refused}))


@pytest.mark.parametrize(
    ("key", "allowed", "refused"),
    [
        ("temperature", 0.01, 0),
        ("top_p", 1, 1.01),
        ("top_p", 0.01, 0),
        ("top_k", 0, -1),
        ("min_p", 0, 1),
        ("stop", ["a"], [""]),
    ],
)
def test_the_least_that_sampling_takes(key: str, allowed: Any, refused: Any) -> None:
    RolloutConfig.model_validate({key: allowed})
    with pytest.raises(ValueError, match=key):
        RolloutConfig.model_validate({key: refused})


def test_defaults_of_a_stage() -> None:
    stage = StageConfig.model_validate({"name": "s", "algorithm": "sft"})
    assert stage.algorithm == {"name": "sft"}
    expected = {
        "start": None,
        "reference": "start",
        "optimizer": "adamw",
        "learning_rate": "auto",
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "save_steps": 100,
        "on_overlong": "drop",
        "on_bad_row": "error",
        "max_bad_share": 0.02,
        "precision": "auto",
        "seed": None,
        "gate": None,
    }
    assert {name: getattr(stage, name) for name in expected} == expected
    assert (stage.rollout.temperature, stage.rollout.top_p, stage.rollout.top_k, stage.rollout.min_p) == (1, 1, 0, 0)
    assert (EarlyStopping().threshold, EarlyStopping().patience) == (0.0, 1)
    config = parsed(path(SFT))
    assert (config.seed, config.trackers, config.output) == (42, ("jsonl",), "runs")
    assert (config.evaluate.shots, config.evaluate.temperature, config.evaluate.metrics) == ((0,), 0.0, ())


@pytest.mark.parametrize("size", ["tiny", "small", "large"])
def test_the_precision_is_that_of_the_defaults_or_of_the_machine(size: str) -> None:
    told = read_yaml(defaults_file(size))["all"]["precision"]
    expected = native_precision() if told == "auto" else told
    (stage,) = resolve(parsed(path(SFT)), size).stages
    assert stage.precision == expected
    (given,) = resolve(parsed(path({**SFT, "precision": "bf16"})), size).stages
    assert given.precision == "bf16"


def test_what_a_stage_has_comes_before_what_the_path_has() -> None:
    own = {**SFT, "rewards": [], "gate": {"metric": "m"}, "shots": [2], "seed": 0}
    config = parsed(
        path(
            own, {**SFT, "name": "b"}, rewards=["exact_match"], gate={"metric": "n"}, seed=7, evaluate={"shots": [0, 4]}
        )
    )
    first, second = config.stages
    assert (config.rewards_of(first), config.shots_of(first), config.seed_of(first)) == ((), (2,), 0)
    assert [config.gate_of(stage).metric for stage in (first, second)] == ["m", "n"]  # type: ignore[union-attr]
    assert [spec.name for spec in config.rewards_of(second)] == ["exact_match"]
    assert (config.shots_of(second), config.seed_of(second)) == ((0, 4), 7)


def test_a_word_of_data_is_a_name_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    config = parsed(path(SFT, data={"train": {"path": "x"}}), tmp_path)
    assert config.data_of("train") == {"path": "x"}
    assert config.data_of("there") == "there"
    assert config.data_of("x.jsonl") == "x.jsonl"
    assert config.data_of({"path": "y"}) == {"path": "y"}
    with pytest.raises(ConfigError, match="`trian` is neither a name in `data` nor a file"):
        config.data_of("trian")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"from": "b"}, "starts from `b`"),
        ({"teacher": "a"}, "has the teacher `a`"),
        ({"reference": "b"}, "has the reference `b`"),
        ({"critic": "start2"}, "has the critic `start2`"),
    ],
)
def test_a_stage_looks_back_alone(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parsed(path({**SFT, "name": "a", **changes}, {**SFT, "name": "b"}))
    parsed(
        path({**SFT, "name": "a"}, {**SFT, "name": "b", "from": "a", "teacher": "a", "reference": "a", "critic": "a"})
    )
    for reference in ("start", "ema", "sync"):
        parsed(path({**SFT, "reference": reference}))


def test_old_words_have_their_successors() -> None:
    assert old_advice("num_iterations") == "write `updates.epochs`"
    assert old_advice("learning_rate") is None
    assert method_advice("learning_rate", 3) is None
    assert successor("zzz", ["abc"]).endswith("known: abc")
    assert setting_successor("batch_size", [], 1) == "it is a key of the stage: write `batch_size` beside `algorithm`"


@pytest.mark.parametrize(
    ("overrides", "evaluates"),
    [
        ((), True),
        (("max_steps=3",), True),
        (("data=mine.csv",), False),
        (("data=mine.csv", "evaluate.validation=mine.csv"), True),
        (("data=mine.csv", "evaluate=null"), False),
    ],
)
def test_own_data_are_not_judged_on_the_items_of_the_shipped_task(overrides, evaluates) -> None:
    assert (load_config("sft", overrides).evaluate.validation is not None) == evaluates


def test_the_evaluation_of_a_users_own_config_stays(tmp_path) -> None:
    (tmp_path / "own.yaml").write_text(
        "{name: a, model: m, algorithm: sft, data: x.csv, evaluate: {validation: y.csv}}"
    )
    assert load_config(tmp_path / "own.yaml", ["data=mine.csv"]).evaluate.validation == "y.csv"


@pytest.mark.parametrize(
    ("gpu", "of_gpu", "of_cpu", "found"),
    [
        (True, True, (False, False), "bf16"),
        (True, False, (True, True), "fp32"),
        (False, True, (False, False), "fp32"),
        (False, False, (True, False), "bf16"),
        (False, False, (False, True), "bf16"),
    ],
)
def test_the_precision_is_that_of_the_gpu_if_there_is_one(
    gpu: bool, of_gpu: bool, of_cpu: tuple[bool, bool], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: of_gpu and not including_emulation)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: of_cpu[0])
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: of_cpu[1])
    assert native_precision() == found
