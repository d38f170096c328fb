"""Configs: merging, overrides, the one-stage form, `auto`, and errors that name the file, the key and the remedy."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rung.config import PathConfig, load_config, parse_config, resolve, shipped_configs
from rung.config.algorithms import algorithm_classes, make_algorithm
from rung.config.defaults import AUTO, SIZES, defaults_file
from rung.config.load import merge
from rung.config.migration import spelling
from rung.config.schema import StageConfig
from rung.errors import ConfigError
from rung.utils.yaml_file import read_yaml

PATH = {
    "name": "path",
    "model": "tiny:llama",
    "data": {"train": "train.jsonl"},
    "rewards": ["exact_match"],
    "stages": [
        {"name": "first", "algorithm": "sft", "data": "train", "max_steps": 5},
        {"name": "second", "algorithm": {"name": "dpo", "beta": 0.2}, "data": "pairs.jsonl", "num_train_epochs": 2},
    ],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "path.yaml"
    path.write_text(yaml.safe_dump(PATH))
    return path


def error(file: Path, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides)
    return caught.value


def stage(config: PathConfig, name: str) -> StageConfig:
    return next(stage for stage in config.stages if stage.name == name)


# merging


def test_extends_merges_deeply_replaces_lists_and_reaches_stages_by_name(file: Path) -> None:
    child = file.parent / "child.yaml"
    child.write_text(
        "extends: path.yaml\nname: child\nrewards: [token_f1]\n"
        "stages: {first: {rollout: {top_k: 5}}, second: {algorithm: {beta: 0.5}}}\n"
    )
    config = load_config(child)
    assert config.name == "child"
    assert config.model == "tiny:llama"
    assert [reward.name for reward in config.rewards] == ["token_f1"]
    assert stage(config, "first").rollout.top_k == 5
    assert stage(config, "first").max_steps == 5
    assert stage(config, "second").algorithm == {"name": "dpo", "beta": 0.5}


def test_another_algorithm_does_not_inherit_the_settings_of_the_first(file: Path) -> None:
    assert stage(load_config(file, ["second.algorithm=grpo"]), "second").algorithm == {"name": "grpo"}
    changed = load_config(file, ["second.algorithm={name: grpo, epsilon: 0.1}"])
    assert stage(changed, "second").algorithm == {"name": "grpo", "epsilon": 0.1}


def test_steps_take_the_place_of_epochs_and_epochs_of_steps(file: Path) -> None:
    config = load_config(file, ["second.max_steps=7", "first.num_train_epochs=0.5"])
    assert (stage(config, "second").max_steps, stage(config, "second").num_train_epochs) == (7, None)
    assert (stage(config, "first").max_steps, stage(config, "first").num_train_epochs) == (None, 0.5)


def test_a_config_that_extends_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    assert "extends itself" in error(tmp_path / "a.yaml").what


keys = st.sampled_from(["a", "b", "c"])
trees = st.recursive(st.integers() | st.lists(st.integers()), lambda inner: st.dictionaries(keys, inner), max_leaves=8)
mappings = st.dictionaries(keys, trees)


@given(mappings, mappings)
def test_what_is_laid_over_wins_and_the_rest_stays(base: dict[str, Any], over: dict[str, Any]) -> None:
    merged = merge(base, over, "test")
    assert merge(base, {}, "test") == base
    assert merge(merged, over, "test") == merged
    assert merged.keys() == base.keys() | over.keys()
    assert {key: merged[key] for key in base.keys() - over.keys()} == {
        key: base[key] for key in base.keys() - over.keys()
    }


# overrides


def test_overrides_reach_the_path_its_stages_and_named_entries(file: Path) -> None:
    overrides = ["seed=7", "first.learning_rate=1e-5", "second.rollout.stop=[a, b]", "rewards.exact_match.weight=0.5"]
    config = load_config(file, overrides)
    assert config.seed == 7
    assert stage(config, "first").learning_rate == 1e-5
    assert stage(config, "second").rollout.stop == ("a", "b")
    assert config.rewards[0].weight == 0.5


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "is not `key=value`"),
        ("=3", "is not `key=value`"),
        ("seed=[1", "is not YAML"),
        ("rewards.other.weight=1", "`rewards` has no `other`"),
    ],
)
def test_an_override_that_cannot_be_read_is_named(file: Path, override: str, said: str) -> None:
    caught = error(file, override)
    assert override in caught.what
    assert said in caught.what


# the form with one stage


def test_an_algorithm_at_the_top_is_a_path_of_one_stage(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text("name: one\nmodel: tiny:llama\nalgorithm: dpo\ndata: pairs.jsonl\nlearning_rate: 1e-5\nseed: 3\n")
    config = load_config(file, ["dpo.batch_size=4", "max_steps=2", "algorithm.beta=0.3"])
    (only,) = config.stages
    assert (only.name, only.data, only.learning_rate, only.batch_size, only.max_steps) == (
        "dpo",
        "pairs.jsonl",
        1e-5,
        4,
        2,
    )
    assert only.algorithm == {"name": "dpo", "beta": 0.3}
    assert config.seed == 3


def test_an_algorithm_of_ones_own_makes_a_stage_called_stage(tmp_path: Path) -> None:
    raw = {"name": "one", "model": "tiny:llama", "algorithm": "./mine.py:Mine", "data": "x.jsonl"}
    assert parse_config(raw, source="test", base=tmp_path).stages[0].name == "stage"


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("learning_rat", "did you mean `learning_rate`"),
        ("outptu", "did you mean `output`"),
        ("beta", "`algorithm: {name: ..., beta: ...}`"),
        ("num_iterations", "`updates.epochs`"),
        ("lr", "`learning_rate`"),
        ("batch", "`batch_size`"),
    ],
)
def test_an_unknown_key_of_a_path_of_one_may_be_the_paths_or_the_stages(tmp_path: Path, key: str, remedy: str) -> None:
    raw = {"name": "one", "model": "tiny:llama", "algorithm": "dpo", "data": "x.jsonl", key: 1}
    with pytest.raises(ConfigError) as caught:
        parse_config(raw, source="test", base=tmp_path)
    assert f"`{key}`" in caught.value.what
    assert remedy in caught.value.remedy


# errors


@pytest.mark.parametrize("old", [*sorted(spelling().keys), "vllm_max_model_length", "lora_r"])
def test_an_old_spelling_is_told_what_to_write_in_a_stage_and_in_its_algorithm(file: Path, old: str) -> None:
    caught = error(file, f"first.{old}=1")
    assert f"unknown key `first.{old}`" in caught.what
    assert caught.remedy.startswith(("write `", "leave it out"))
    with pytest.raises(ConfigError) as inside:
        resolve(load_config(file, [f"first.algorithm={{name: sft, {old}: 1}}"]), "tiny")
    assert inside.value.what == f"stage `first`: algorithm `sft`: unknown key `{old}`"
    assert inside.value.remedy == caught.remedy


def test_what_an_old_spelling_is_replaced_with_exists() -> None:
    known = {"weight", *PathConfig.model_fields, *StageConfig.model_fields}
    known = known.union(*(found.model_fields for found in algorithm_classes().values()))
    advice = [*spelling().keys.values(), *spelling().families.values(), *spelling().methods.values()]
    for written in advice:
        if "write `" in written:
            assert written.split("`")[1].split(":")[0].split(".")[0] in known
        for named in re.findall(r"`algorithm: (?:\{name: )?(\w+)", written):
            assert named in algorithm_classes()


@pytest.mark.parametrize(
    ("override", "key", "remedy"),
    [
        ("nam=x", "`nam`", "`name`"),
        ("first.lerning_rate=1", "`first.lerning_rate`", "`learning_rate`"),
        ("first.rollout.topk=1", "`first.rollout.topk`", "`top_k`"),
        ("first.gate={metric: m, guard: []}", "`first.gate.guard`", "`guards`"),
        ("rewards.exact_match.wait=2", "`rewards.exact_match.wait`", "`weight`"),
        ("learning_rate=1", "`learning_rate`", "<stage>.learning_rate"),
        ("first.precision=fp16", "`first.precision`", "'bf16'"),
        (f"first.seed={2**70}", "`first.seed`", "less than"),
        ("first.trackers=[]", "`first.trackers`", "at the top"),
        ("second.beta=0.1", "`second.beta`", "`algorithm: {name: ..., beta: ...}`"),
        ("first.batch_size=none", "`first.batch_size`", "integer"),
        ("first.max_steps=0", "`first.max_steps`", "greater than 0"),
        ("first.lr_scheduler_type=triangle", "`first.lr_scheduler_type`", "'linear'"),
        ("model=null", "`model`", "string"),
        ("stages=[]", "`stages`", "at least 1"),
        ("first.from=second", "not an earlier stage", "before this stage"),
        ("first.from=first", "not an earlier stage", "before this stage"),
        ("second.reference=third", "`third`", "`start`"),
        ("second.name=first", "two stages", "a different name"),
        ("second.name=model", "`model`", "choose another"),
        ("second.name=../up", "../up", "letters"),
        ("name=..", "..", "letters"),
        ("name=a/b", "a/b", "letters"),
        ("first.algorithm={beta: 1, name: null}", "`algorithm` has no name", "`algorithm: NAME`"),
    ],
)
def test_a_mistake_names_file_key_and_remedy(file: Path, override: str, key: str, remedy: str) -> None:
    caught = error(file, override)
    assert str(file) in caught.what
    assert key in caught.what
    assert remedy in caught.remedy


def test_steps_and_epochs_at_once_are_refused(file: Path) -> None:
    caught = error(file, "first={max_steps: 3, num_train_epochs: 2}")
    assert "`max_steps`" in caught.what


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name: \xff", "is not UTF-8"),
        (b"name: [1", "is not YAML"),
        (b"", "is not a mapping"),
        (b"- 1", "is not a mapping"),
        (b"1: 2", "the key `1` is not a text"),
        (b"!!python/object/apply:os.system [ls]", "the tag `!!python/object/apply:os.system` is not allowed"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    caught = error(file)
    assert str(file) in caught.what
    assert said in caught.what


def test_a_config_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    assert "pharmacy" in error(Path("pharmcy")).remedy
    assert "the file does not exist" in error(tmp_path / "nothing.yaml").what


# auto


def test_auto_is_filled_by_size_and_what_is_given_stays(file: Path) -> None:
    config = load_config(file, ["first.learning_rate=0.5"])
    tiny, large = resolve(config, "tiny"), resolve(config, "large")
    assert stage(tiny, "first").learning_rate == stage(large, "first").learning_rate == 0.5
    assert stage(tiny, "first").batch_size != stage(large, "first").batch_size
    assert "auto" not in str({key: value for key, value in tiny.dump().items() if key != "stages"})
    unread = {"precision": None, "rollout": None, "updates": None}
    assert all("auto" not in str(one | unread) for one in tiny.dump()["stages"])


def test_resolving_twice_changes_nothing_and_a_dump_is_read_back_equal(file: Path) -> None:
    once = resolve(load_config(file), "tiny")
    assert resolve(once, "tiny").dump() == once.dump()
    again = parse_config(yaml.safe_load(yaml.safe_dump(once.dump())), source="dump", base=file.parent)
    assert again.dump() == once.dump()


def test_a_variant_takes_the_defaults_of_what_it_varies_and_an_own_algorithm_those_of_its_kind(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from typing import ClassVar\nfrom rung.algorithm import Algorithm\nfrom rung.algorithms.dapo import DAPO\n"
        "class Pairs(Algorithm):\n    name: ClassVar = 'mine'\n    def data_kind(self): return 'pairs'\n"
        "    def terms(self): return {'odds': 'groups'}\n"
        "class Variant(DAPO):\n    name: ClassVar = 'variant'\n"
    )
    names = ("dapo", "./mine.py:Variant", "dpo", "./mine.py:Pairs")
    stages = [{"name": f"s{i}", "algorithm": name, "data": "x"} for i, name in enumerate(names)]
    raw = {"name": "n", "model": "tiny:llama", "rewards": ["exact_match"], "stages": stages}
    made = [
        one.model_copy(update={"name": "", "algorithm": {}})
        for one in resolve(parse_config(raw, source="", base=tmp_path), "tiny").stages
    ]
    assert made[0] == made[1]
    assert made[2] == made[3]
    assert made[0] != made[2]


def test_of_rollout_and_batch_size_one_follows_from_the_other(file: Path) -> None:
    sampled = ["second.algorithm=grpo", "second.updates.minibatches=2"]
    by_rollout = resolve(load_config(file, [*sampled, "second.rollout.batch_size=12"]), "tiny")
    by_batch = resolve(load_config(file, [*sampled, "second.batch_size=6"]), "tiny")
    assert stage(by_rollout, "second").batch_size == 6
    assert stage(by_batch, "second").rollout.batch_size == 12
    with pytest.raises(ConfigError, match="second"):
        resolve(load_config(file, [*sampled, "second.rollout.batch_size=12", "second.batch_size=4"]), "tiny")


@pytest.mark.parametrize("size", [*SIZES, "large"])
def test_defaults_hold_a_value_for_every_auto_and_nothing_else(size: str) -> None:
    defaults = read_yaml(defaults_file(size))
    allowed = {*AUTO, "num_train_epochs", "rollout", "updates"}
    assert set(defaults["all"]) == allowed
    assert all(set(section) <= allowed for section in defaults.values())


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_every_shipped_config_parses_and_resolves(name: str) -> None:
    config = resolve(load_config(name), "tiny")
    assert config.base == Path.cwd()
    trained = [one for one in config.stages if make_algorithm(one.algorithm).data_kind()]
    assert all(one.max_steps or one.num_train_epochs for one in trained)
