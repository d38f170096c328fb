"""A config may name registered objects, code of the user's own project, and what the user allows; nothing else runs."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.commands import Command, Refusal
from helpers.repository import ROOT
from helpers.rows import write_rows
from rung.config import load_config
from rung.config.algorithms import make_algorithm
from rung.data.formats import FORMATS
from rung.errors import ConfigError
from rung.pipeline.check import check
from rung.reward.registry import reward_function
from rung.rollout.samplers import SAMPLERS
from rung.training.optimizers import find_optimizer
from rung.training.trackers import TRACKERS
from rung.utils.allowed_code import allowed_code, only_allowed
from rung.utils.user_files import loaded_files

SCORE = "from pathlib import Path\nPath('ran').touch()\ndef score(completion):\n    return len(completion)\n"
PATH: dict[str, Any] = {
    "name": "one",
    "model": "tiny:llama",
    "algorithm": {"name": "grpo", "num_generations": 2},
    "data": "rows.jsonl",
    "rollout": {"batch_size": 2, "max_completion_length": 4},
    "max_steps": 1,
}
KINDS = {
    "reward": reward_function,
    "algorithm": lambda name, base=None: make_algorithm({"name": name}, base),
    "format": FORMATS.find,
    "tracker": TRACKERS.find,
    "sampler": SAMPLERS.find,
    "optimizer": find_optimizer,
}


def write_config(folder: Path, **keys: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder, {"rows": [{"prompt": f"{i}+1="} for i in range(4)]})
    file = folder / "path.yaml"
    file.write_text(yaml.safe_dump({**PATH, **keys}))
    return file


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["os:system", "builtins:exec", "subprocess:run", "yaml:unsafe_load", "__main__:main"])
def test_no_kind_takes_an_object_of_python_or_of_a_package(kind: str, name: str, project: Path) -> None:
    with only_allowed(allowed_code((), [])), pytest.raises(ConfigError, match="which a config may not name") as caught:
        KINDS[kind](name, project)
    assert f"--allow-code {name.partition(':')[0]}" in caught.value.remedy


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_imports_a_file_from_elsewhere(kind: str, project: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(SCORE)
    (project / "linked.py").symlink_to(tmp_path / "evil.py")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "evil.py").write_text(SCORE)
    (project / "pkg").symlink_to(tmp_path / "pkg")
    for name in ("../evil.py:score", f"{tmp_path}/evil.py:score", "./linked.py:score", "pkg.evil:score"):
        with only_allowed(allowed_code((), [])), pytest.raises(ConfigError, match="not in the working folder"):
            KINDS[kind](name, project)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "name",
    [
        "rung.registry:load_object",
        "rung.training.trackers:make_trackers",
        "rung.rewards.reward_model:load_reward_model",
        "rung.rewards.tag_format:re",
        "trl.rewards.format_rewards:re",
    ],
)
def test_rungs_own_modules_do_not_lead_to_other_code(name: str, project: Path) -> None:
    with only_allowed(allowed_code((), [])), pytest.raises(ConfigError):
        reward_function(name, project)


def test_what_is_registered_or_recommended_needs_no_flag(project: Path) -> None:
    with only_allowed(allowed_code((), [])):
        for name in ("final_number", "rung.rewards.final_number:final_number", "trl:think_format_reward"):
            assert callable(reward_function(name, project))
        assert SAMPLERS.find("rung.rollout.samplers:LocalSampler").name == "local"


def test_a_package_of_the_same_name_beside_a_config_is_not_the_recommended_one(tmp_path: Path, project: Path) -> None:
    other = tmp_path / "other"
    (other / "trl").mkdir(parents=True)
    (other / "trl" / "rewards.py").write_text(SCORE)
    with only_allowed(allowed_code((), [])), pytest.raises(ConfigError, match="not in the working folder"):
        reward_function("trl:score", other)


def test_packages_installed_below_the_working_folder_are_not_the_users_own(project: Path) -> None:
    installed = project / ".venv/lib/python3/site-packages"
    installed.mkdir(parents=True)
    (installed / "evil.py").write_text(SCORE)
    with only_allowed(allowed_code((), [])), pytest.raises(ConfigError, match="may not name"):
        reward_function("./.venv/lib/python3/site-packages/evil.py:score", project)


def test_a_config_from_elsewhere_names_no_code_without_the_flag(
    project: Path, tmp_path: Path, command: Command, refusal: Refusal, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "downloads", rewards=["./evil.py:score"])
    (config.parent / "evil.py").write_text(SCORE)
    (project / "mine.py").write_text(SCORE)
    what, remedy = refusal("check", str(config))
    assert "the config is not in the working folder" in what
    assert f"--allow-code {config.parent / 'evil.py'}" in remedy
    refusal("check", str(config), f"rewards=[{project}/mine.py:score]")  # the config could choose any of the project
    refusal("check", str(config), "--allow-code", "mine.py")
    with pytest.raises(ConfigError, match="not in the working folder"):
        check(load_config(config, allow_code=()))
    assert not (project / "ran").exists()
    assert command("check", str(config), "--allow-code", str(config.parent)) == 0
    assert f"code: evil.py (sha256 {hashlib.sha256(SCORE.encode()).hexdigest()[:12]})" in capsys.readouterr().out
    assert (project / "ran").exists()


def test_a_config_that_extends_one_from_elsewhere_is_from_elsewhere(project: Path, tmp_path: Path) -> None:
    write_config(tmp_path / "downloads", rewards=["./mine.py:score"])
    (project / "mine.py").write_text(SCORE)
    (project / "path.yaml").write_text(f"extends: {tmp_path}/downloads/path.yaml\nname: two\n")
    assert load_config("path.yaml", allow_code=()).code == allowed_code((), [tmp_path / "downloads/path.yaml"])
    assert load_config("path.yaml", allow_code=()).code.project is None  # type: ignore[union-attr]
    assert load_config("grpo", allow_code=()).code.project == project  # type: ignore[union-attr]


def test_code_of_the_project_runs_and_is_told_with_its_hash(
    project: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    helper = "def count(text):\n    return len(text)\n"
    (project / "mine.py").write_text(
        "from counting import count\ndef score(completion):\n    return count(completion)\n"
    )
    (project / "counting.py").write_text(helper)
    write_config(project, rewards=["./mine.py:score"])
    assert command("check", "path.yaml") == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("code: ")]
    assert f"code: counting.py (sha256 {hashlib.sha256(helper.encode()).hexdigest()[:12]})" in told
    found = loaded_files(project)
    assert found["counting.py"] == hashlib.sha256(helper.encode()).hexdigest()
    assert "mine.py" in found


def test_the_flag_allows_files_folders_and_packages(project: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "fine.py").write_text(SCORE)
    for value in (f"{tmp_path}/other", "../other/fine.py"):
        with only_allowed(allowed_code((value,), [])):
            assert callable(reward_function(f"{tmp_path}/other/fine.py:score", project))
    with only_allowed(allowed_code(("os",), [])):
        assert reward_function("os.path:join", project) is os.path.join
        with pytest.raises(ConfigError):
            reward_function("subprocess:run", project)
    for value in ("absent.py", "./absent", "a b"):
        with pytest.raises(ConfigError, match="there is no such file, folder or package"):
            allowed_code((value,), [])


def test_the_root_of_the_file_system_is_no_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert allowed_code((), []).project is None


def test_a_program_names_what_it_likes(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def score(completion):\n    return 1.0\n")
    assert reward_function("./mine.py:score", tmp_path)("") == 1.0


def test_rung_is_no_code_of_the_user_in_its_own_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with only_allowed(allowed_code((), [])), pytest.raises(ConfigError, match="installed package `rung`"):
        reward_function("rung.registry:load_object", ROOT)
