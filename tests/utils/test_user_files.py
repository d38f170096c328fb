"""Files of a user import the files beside them, files of equal names are kept apart, and child processes find them."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from rung.errors import ConfigError
from rung.registry import load_object
from rung.utils import user_files

LAZY = "def score(text):\n    from own_helpers import factor\n    return factor * len(text)\n"
EAGER = "from own_helpers import factor\ndef score(text):\n    return factor * len(text)\n"


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        file = folder / (name.replace("__in__", "/") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def loaded(spec: str, base: Path) -> Callable[..., Any]:
    return cast("Callable[..., Any]", load_object(spec, base))


@pytest.mark.parametrize("text", [LAZY, EAGER], ids=["on first use", "at the top"])
def test_files_of_one_name_in_two_folders_are_two_modules(tmp_path, text) -> None:
    one = write(tmp_path / "one", judge=text, own_helpers="factor = 1")
    two = write(tmp_path / "two", judge=text, own_helpers="factor = 2")
    first, second = loaded("./judge.py:score", one), loaded("./judge.py:score", two)
    assert (first("abc"), second("abc"), first("abc")) == (3, 6, 3)
    assert "own_helpers" not in sys.modules


def test_a_package_beside_the_config_and_its_own_imports(tmp_path) -> None:
    base = write(
        tmp_path,
        grading__in____init__="",
        grading__in__fns="import grading.tools\nfrom grading import tools\nfrom . import tools as same\nimport common\n"
        "def score(text):\n    assert tools is same is grading.tools\n    return tools.count(text) + common.more",
        grading__in__tools="count = len",
        common="more = 10",
        below__in__judge="from common import more\nfrom near import less\ndef score(text): return more - less",
        below__in__near="less = 1",
    )
    assert loaded("grading.fns:score", base)("ab") == 12
    assert loaded("./below/judge.py:score", base)("ab") == 9
    assert loaded("json:loads", base)("1") == 1
    with pytest.raises(ConfigError, match=r"there is no module `grading\.none`") as caught:
        load_object("grading.none:score", base)
    assert caught.value.remedy == f"install it, put it into {base}, or correct the name"


def test_files_beside_neither_hide_the_standard_library_nor_are_written_to(tmp_path) -> None:
    base = write(tmp_path, random="raise AssertionError", judge="import random, os.path\nscore = random.Random")
    assert load_object("./judge.py:score", base) is __import__("random").Random
    assert sorted(file.name for file in tmp_path.iterdir()) == ["judge.py", "random.py"]


def test_a_file_may_import_by_the_function(tmp_path) -> None:
    base = write(tmp_path, judge='score = __import__("yaml").safe_load')
    assert loaded("./judge.py:score", base)("1") == 1


def test_a_missing_import_names_what_to_install_or_where_to_put_it(tmp_path) -> None:
    base = write(tmp_path, judge="import helprs.deep", half="import pkg.none", pkg__in____init__="")
    with pytest.raises(ConfigError, match="No module named 'helprs'") as caught:
        load_object("./judge.py:score", base)
    assert caught.value.remedy == f"install `helprs`, or put helprs.py into {base}"
    with pytest.raises(ConfigError, match=r"No module named 'pkg\.none'"):
        load_object("./half.py:score", base)


def test_a_file_is_run_once_and_again_after_a_file_that_it_imports_has_changed(tmp_path) -> None:
    base = write(tmp_path, judge=EAGER, own_helpers="factor = 1")
    first = loaded("./judge.py:score", base)
    assert loaded("./judge.py:score", base) is first
    write(base, own_helpers="factor = 3")
    assert loaded("./judge.py:score", base)("ab") == 6


def test_a_module_that_python_finds_in_the_folder_keeps_its_name(tmp_path, monkeypatch) -> None:
    base = write(tmp_path, own_rewards="def score(text): return 1")
    monkeypatch.syspath_prepend(base)
    assert loaded("own_rewards:score", base).__module__ == "own_rewards"
    del sys.modules["own_rewards"]


def test_a_file_whose_name_has_dots_or_dashes(tmp_path) -> None:
    (tmp_path / "v1.2-final.py").write_text("def score(text): return 7")
    assert loaded("./v1.2-final.py:score", tmp_path)("") == 7


@pytest.mark.process
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_function_of_a_file_runs_in_a_child_process(tmp_path, method) -> None:
    base = write(tmp_path, judge=LAZY, own_helpers="factor = 2")
    score = loaded("./judge.py:score", base)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map_async(score, ["a", "bcd"]).get(timeout=60) == [2, 6]


def test_other_modules_are_none_of_its_business() -> None:
    assert user_files.import_beside("json", Path("/")) is None


def test_the_nearest_file_is_imported_and_a_changed_one_of_the_config_is_run_again(tmp_path) -> None:
    """A file below the folder of the config looks beside itself first, then in that folder."""
    base = write(
        tmp_path,
        below__in__judge="from both import name\nfrom only import size\ndef score(text): return name, size",
        below__in__both="name = 'near'",
        both="name = 'far'",
        only="size = 1",
    )
    assert loaded("./below/judge.py:score", base)("") == ("near", 1)
    write(base, only="size = 2")
    assert loaded("./below/judge.py:score", base)("") == ("near", 2)
    write(base, below__in__both="name = 'nearer'")
    assert loaded("./below/judge.py:score", base)("") == ("nearer", 2)


def test_a_folder_without_an_init_file_is_the_last_choice(tmp_path) -> None:
    base = write(
        tmp_path,
        judge="import parts.deep, yaml\nfrom parts.deep import size\n"
        "def score(text): return parts.deep.size + size, yaml.safe_load(text)",
        parts__in__deep="size = 3",
        yaml__in__other="",
    )
    assert loaded("./judge.py:score", base)("[1]") == (6, [1])


def test_a_module_beside_is_taken_before_a_folder_of_its_name_further_away(tmp_path) -> None:
    base = write(
        tmp_path,
        below__in__judge="import parts\ndef score(text): return parts.size",
        below__in__parts__in__x="",
        parts="size = 4",
    )
    assert loaded("./below/judge.py:score", base)("") == 4


def test_the_file_is_told_from_which_a_module_would_be_imported(tmp_path, monkeypatch) -> None:
    base = write(tmp_path, own_one="", two__in____init__="", two="", two__in__three="", four__in__five="")
    assert user_files.place_of("own_one", base) == (base / "own_one.py", True)
    assert user_files.place_of("two", base) == (base / "two", True), "a package before a module"
    assert user_files.place_of("two.three", base) == (base / "two" / "three.py", True)
    assert user_files.place_of("own_one", None) == (None, False)
    for name in ("sys", "no_such_module", "__main__"):
        assert user_files.place_of(name, base) == (None, False)
    assert user_files.place_of("textwrap", base) == (Path(textwrap.__file__).resolve(), False)
    assert user_files.place_of("json.decoder", base) == (Path(json.__file__).parent.resolve() / "decoder", False)
    monkeypatch.syspath_prepend(base)
    assert user_files.place_of("own_one", None) == (base / "own_one.py", False)


def test_a_file_that_was_run_is_told_with_its_hash(tmp_path, monkeypatch) -> None:
    one = write(tmp_path / "one", judge=EAGER, own_helpers="factor = 1", unused="")
    two = write(tmp_path / "two", pkg__in____init__="", pkg__in__inner="def score(text): return 1", other="")
    loaded("./judge.py:score", one)
    loaded("../two/other.py:__doc__", one)
    digest = {name: hashlib.sha256((one / name).read_bytes()).hexdigest() for name in ("judge.py", "own_helpers.py")}
    digest["../two/other.py"] = hashlib.sha256(b"").hexdigest()
    assert user_files.loaded_files(one) == digest
    assert list(user_files.loaded_files(one)) == sorted(digest)
    assert f"code: judge.py (sha256 {digest['judge.py'][:12]})" in user_files.code_lines(one)
    assert user_files.loaded_files(two) == {}
    monkeypatch.syspath_prepend(two)
    assert loaded("pkg.inner:score", two).__module__ == "pkg.inner"
    assert list(user_files.loaded_files(two)) == ["pkg/__init__.py", "pkg/inner.py"]
    assert user_files.loaded_files(one) == digest
    monkeypatch.chdir(two)
    assert user_files.loaded_files() == user_files.loaded_files(two)
    assert user_files.file_digest(two / "none.py") == ""
    for name in ("pkg", "pkg.inner"):
        del sys.modules[name]


def test_only_the_names_that_a_file_may_import_come_from_beside_it(tmp_path) -> None:
    """A module that is not a user's, such as json.tool, does not look beside the file."""
    base = write(tmp_path, judge="from pkg import part, none", pkg__in____init__="", pkg__in__part="")
    with pytest.raises(ConfigError, match="cannot import name 'none'"):
        load_object("./judge.py:x", base)
    raises = write(tmp_path / "more", judge="import helper", helper="import no_such_thing_at_all")
    with pytest.raises(ConfigError, match="No module named 'no_such_thing_at_all'"):
        load_object("./judge.py:x", raises)


def test_a_file_of_the_name_of_the_program_is_one_of_the_user(tmp_path, monkeypatch) -> None:
    """Python has `__main__` without a spec, as in a script."""
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert user_files.place_of("__main__", tmp_path) == (None, False)
    base = tmp_path
    (base / "__main__.py").write_text("def score(text): return 5")
    assert loaded("__main__:score", base)("") == 5


def test_a_module_of_an_installed_package_is_taken_from_there_also_if_a_file_has_its_first_name(tmp_path) -> None:
    base = write(tmp_path, yaml="")
    assert user_files.import_beside("yaml.nodes", base) is None
    assert load_object("yaml.nodes:Node", base).__module__ == "yaml.nodes"
