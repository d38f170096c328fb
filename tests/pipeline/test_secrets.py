"""Keys in the environment and in a config reach the rewards, and nothing that is written or printed."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.rows import write_rows
from rung.config import load_config
from rung.errors import ConfigError, RewardError
from rung.pipeline.runner import run_path
from rung.reward import RewardSet
from rung.training.trackers.wandb import Wandb
from rung.utils.secrets import filled, is_secret_name, redacted, without_secrets

JUDGE = '''
def judged(completion: str, *, api_key: str, judge_password: str, eos_token: str, token_budget: int) -> float:
    """The share of small letters; the service refuses every second answer and shows the key."""
    if len(completion) % 2:
        raise PermissionError(f"401: {api_key} {judge_password} is no valid key")
    return sum("a" <= char <= "m" for char in completion) / 100
'''
CANARIES = {
    "HF_TOKEN": "hf_CANARYCANARY1",
    "WANDB_API_KEY": "c" * 20 + "CANARY2" + "d" * 13,
    "JUDGE_SECRET": 'canary3 "quoted" \\ value',
}
IN_CONFIG = "sk-canary4-0123456789"
PATH: dict[str, Any] = {
    "name": "secret",
    "model": "tiny:llama",
    "algorithm": {"name": "grpo", "num_generations": 4},
    "data": "rows.jsonl",
    "rewards": [
        {
            "name": "./judge.py:judged",
            "args": {
                "api_key": IN_CONFIG,
                "judge_password": "${ENV:JUDGE_SECRET}",
                "eos_token": "<eos>",
                "token_budget": 7,
            },
        }
    ],
    "reward_policy": {"max_error_rate": 1.0},
    "trackers": ["jsonl", "wandb"],
    "rollout": {"batch_size": 2, "max_completion_length": 6},
    "max_steps": 2,
    "save_steps": 1,
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    write_rows(tmp_path, {"rows": [{"prompt": f"{i}+1="} for i in range(8)]})
    (tmp_path / "judge.py").write_text(JUDGE)
    (tmp_path / "path.yaml").write_text(yaml.safe_dump(PATH))
    return tmp_path


def found_in(folder: Path) -> list[str]:
    """The files that contain a canary."""
    canaries = [value.encode() for value in (*CANARIES.values(), IN_CONFIG)] + [b"canary", b"CANARY"]
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return [str(file) for file in files if any(canary in file.read_bytes() for canary in canaries)]


def test_no_artifact_and_no_line_has_a_secret(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = run_path(load_config("path.yaml"))
    assert run.finished
    said = "".join(capfd.readouterr())
    assert "canary" not in said.lower()
    assert "PermissionError: 401: <redacted> <redacted>" in said
    assert found_in(run.folder) == []
    written = yaml.safe_load((run.folder / "config.yaml").read_text())["rewards"][0]["args"]
    assert written == PATH["rewards"][0]["args"] | {"api_key": "<redacted>"}
    assert run_path(load_config("path.yaml")).finished  # the same config, by what is written of it


def test_a_stopped_run_resumes_also_with_a_new_key(home: Path) -> None:
    run_path(load_config("path.yaml", ["max_steps=1", "trackers=[jsonl]"]))
    for file in ("DONE", "grpo/DONE"):
        (home / "runs/secret" / file).unlink()
    (home / "path.yaml").write_text(yaml.safe_dump(PATH).replace(IN_CONFIG, "sk-other-key"))
    assert run_path(load_config("path.yaml", ["max_steps=2", "trackers=[jsonl]"])).finished


def test_a_written_config_is_not_run_with_the_mark_in_place_of_the_key(home: Path) -> None:
    args = {**PATH["rewards"][0]["args"], "api_key": "<redacted>"}
    with pytest.raises(ConfigError, match="`api_key` is <redacted>") as caught:
        RewardSet([{"name": "./judge.py:judged", "args": args}], base=home)
    assert "${ENV:" in caught.value.remedy


def test_a_variable_that_is_not_set_is_named(home: Path) -> None:
    with pytest.raises(ConfigError, match="the environment variable `NONE_SUCH`"):
        filled({"api_key": "${ENV:NONE_SUCH}"}, "reward `judged`")


def test_a_wrong_setting_does_not_show_the_key(home: Path) -> None:
    args = {**PATH["rewards"][0]["args"], "api_key": ["sk-canary4-0123456789"]}
    with pytest.raises(RewardError) as caught:
        RewardSet([{"name": "./judge.py:judged", "args": args}], base=home)
    assert "canary" not in without_secrets(str(caught.value))


NAMES = {
    True: "api_key token key secret password Authorization OPENAI_API_KEY apiKey hf-token AWS_SECRET_ACCESS_KEY",
    False: "token_budget max_new_tokens eos_token keys pad_token_id tokens keyboard author monkey sort_key name",
}


@pytest.mark.parametrize(("secret", "name"), [(kind, name) for kind, names in NAMES.items() for name in names.split()])
def test_names_are_compared_by_whole_words(secret: bool, name: str) -> None:
    assert is_secret_name(name) is secret


def test_redaction_keeps_everything_else() -> None:
    plain = {"key": "answer", "token": 5, "api_key": None, "keys": ["a"], "eos_token": "<eos>", "n": [1, {"b": 2.5}]}
    assert redacted(plain) == plain
    assert redacted({"secrets": {"a": "x", "b": ["y"]}}) == {"secrets": {"a": "<redacted>", "b": ["<redacted>"]}}


@pytest.mark.parametrize("mode", ["offline", "disabled", "DRYRUN"])
def test_wandb_does_not_connect_in_an_offline_mode_even_with_a_key(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.setenv("WANDB_MODE", mode)
        tracker = Wandb(tmp_path, "project", "run")
        tracker.start({"api_key": "sk-canary4-0123456789"})
        tracker.log(1, {"loss": 1.0}, {})
        tracker.finish()
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
    assert found_in(tmp_path) == []
