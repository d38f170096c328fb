"""Names in a config: registered, by entry point, by module and by file; what is wrong says what exists."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rung import registry
from rung.config import algorithms
from rung.errors import ConfigError, RewardError, UserError
from rung.reward import registry as rewards

MINE = '''
from typing import ClassVar, Literal
from pydantic import Field
from rung.algorithm import Algorithm

class Mine(Algorithm):
    """An algorithm of a user's own."""
    name: ClassVar = "mine"
    def data_kind(self):
        return "pairs"
    def terms(self):
        return {"pairs": "groups"}
    beta: float = Field(default=0.1, gt=0)
    kind: Literal["a", "b"] = "a"

class Nameless(Algorithm):
    pass

def helper():
    return 1

constant = 3
'''


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def test_an_algorithm_in_a_users_own_file_needs_no_registration(folder) -> None:
    made = algorithms.make_algorithm({"name": "./mine.py:Mine", "beta": 0.5}, folder)
    assert type(made).name == "mine"
    assert made.model_dump() == {"beta": 0.5, "kind": "a"}
    assert algorithms.make_algorithm(made) is made
    assert (made.samples_per_prompt(), made.generation_limit()) == (1, 0), "what an algorithm need not say"


def test_one_file_gives_one_class_however_often_it_is_named_and_another_after_an_edit(folder) -> None:
    first = algorithms.algorithm_class("./mine.py:Mine", folder)
    assert algorithms.algorithm_class(f"{folder}/mine.py:Mine") is first
    (folder / "mine.py").write_text(MINE.replace("0.1", "0.2"))
    assert algorithms.make_algorithm("./mine.py:Mine", folder).model_dump()["beta"] == 0.2


@pytest.mark.parametrize(
    ("spec", "what", "remedy"),
    [
        ({"name": "./mine.py:Mine", "betta": 1}, "unknown key `betta`", "did you mean `beta`"),
        ({"name": "./mine.py:Mine", "beta": -1}, "`beta` is -1", "greater than 0"),
        ({"name": "./mine.py:Mine", "kind": "c"}, "`kind` is 'c'", "'a' or 'b'"),
        ({"beta": 1}, "has no `name`", "set `name` to one of"),
        ("./mine.py:Mien", "no `Mien`", "did you mean `Mine`"),
        ("./mine.py:helper", "is not an algorithm", "subclass"),
        ("./mine.py:Nameless", "is not an algorithm", "`name`"),
        ("./mien.py:Mine", "no file", "did you mean `mine.py`"),
        ("no_such_package.x:Mine", "no module `no_such_package`", "install it"),
        ("no_such_algorithm", "unknown algorithm `no_such_algorithm`", "known"),
        ("./mine.py:", "is not the name of an object", "pkg.module:name"),
    ],
)
def test_a_wrong_algorithm_says_what_it_is_and_what_to_do(folder, spec, what, remedy) -> None:
    with pytest.raises(ConfigError) as caught:
        algorithms.make_algorithm(spec, folder)
    assert what in caught.value.what
    assert remedy in caught.value.remedy


DECLARED = """
from typing import ClassVar
from rung.algorithm import Algorithm

class Mine(Algorithm):
    name: ClassVar = "mine"
    keep_together: ClassVar = {unit!r}
    def data_kind(self):
        return {kind!r}
    def needs(self):
        return frozenset({needs!r})
    def terms(self):
        return {terms!r}
"""


@pytest.mark.parametrize(
    ("declared", "what", "remedy"),
    [
        ({"unit": "rows"}, "`keep_together` says `rows`", "known: group, row"),
        ({"kind": "pair"}, "`data_kind()` says `pair`", "known: pairs, prompts, text, unpaired"),
        ({"needs": ["standardised_rewards"]}, "`needs()` says `standardised_rewards`", "separate_rewards"),
        ({"terms": {"nll": "token"}}, "`terms()` says `token`", "known: groups, rows, tokens"),
        ({"kind": None}, "declares terms of a loss, but `data_kind()` is None", "implement `data_kind()`"),
        ({"terms": {}}, "declares no terms of its loss", "implement `terms()`"),
    ],
)
def test_a_hook_that_returns_an_unknown_word_is_refused(tmp_path, declared, what, remedy) -> None:
    valid = {"unit": "row", "kind": "text", "needs": ["reference"], "terms": {"nll": "tokens"}}
    (tmp_path / "mine.py").write_text(DECLARED.format(**valid))
    assert algorithms.make_algorithm("./mine.py:Mine", tmp_path).data_kind() == "text"
    (tmp_path / "mine.py").write_text(DECLARED.format(**valid | declared))
    with pytest.raises(ConfigError) as caught:
        algorithms.make_algorithm("./mine.py:Mine", tmp_path)
    assert what in caught.value.what
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("text", ["def broken(:\n", "import no_such_module\n", "raise OSError('no')\n"])
def test_a_file_that_fails_on_import_is_named_with_its_error(tmp_path, text) -> None:
    (tmp_path / "bad.py").write_text(text)
    for _ in range(2):  # a failed load leaves nothing behind
        with pytest.raises(ConfigError, match=r"bad\.py:f.* fails on import: \w+Error"):
            registry.load_object("./bad.py:f", tmp_path)


def test_rewards_are_found_by_name_module_and_file(tmp_path) -> None:
    assert "final_number" in rewards.reward_names()
    by_name = rewards.reward_function("final_number")
    assert rewards.reward_function("rung.rewards.final_number:final_number") is by_name
    (tmp_path / "r.py").write_text("def score(completion):\n    return 1.0\nlimit = 3\n")
    assert rewards.reward_function("./r.py:score", tmp_path)("x") == 1.0
    with pytest.raises(RewardError, match="is of type `int`, not a function"):
        rewards.reward_function("./r.py:limit", tmp_path)


def test_helpers_of_a_reward_module_are_no_rewards() -> None:
    assert "normalized" not in rewards.reward_names()
    with pytest.raises(RewardError) as caught:
        rewards.reward_function("normalised_match")
    assert "did you mean `normalized_match`" in caught.value.remedy


@pytest.mark.parametrize("value", ["plugged", "plugged:brand_new"])
def test_an_entry_point_adds_rewards_by_module_or_by_object(plugin, value) -> None:
    text = "from rung.reward import reward\n@reward()\ndef brand_new(completion: str) -> float:\n    return 1.0\n"
    plugin(text, f"[rung.rewards]\nany = {value}\n")
    assert "brand_new" in rewards.reward_names()
    assert rewards.reward_function("brand_new")("x") == 1.0


def test_an_entry_point_adds_algorithms(plugin) -> None:
    plugin(MINE, "[rung.algorithms]\nany = plugged:Mine\n")
    assert "mine" in algorithms.algorithm_names()
    assert algorithms.make_algorithm({"name": "mine", "kind": "b"}).model_dump()["kind"] == "b"


def test_two_objects_of_one_name_are_an_error_that_names_both(plugin) -> None:
    text = "from rung.reward import reward\n@reward()\ndef final_number(completion: str) -> float:\n    return 1.0\n"
    plugin(text, "[rung.rewards]\nany = plugged\n")
    with pytest.raises(UserError, match="two rewards are called `final_number`") as caught:
        rewards.reward_names()
    assert "plugged:final_number" in caught.value.what
    assert "rung.rewards.final_number:final_number" in caught.value.what


def test_every_shipped_algorithm_is_registered_under_its_own_name() -> None:
    for name, cls in algorithms.algorithm_classes().items():
        assert cls.name == name


def test_looking_up_a_reward_does_not_load_torch() -> None:
    program = "import sys; from rung.reward import registry; registry.reward_names(); sys.exit('torch' in sys.modules)"
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", program], env=path, check=False).returncode == 0
