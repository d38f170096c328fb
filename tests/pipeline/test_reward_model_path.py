"""Paths that train a reward model and use it, and what they refuse before anything is written."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.commands import Command, Refusal
from helpers.reward_models import save_random_reward_model
from helpers.rows import write_rows

PAIRS = [{"prompt": f"number {i}", "chosen": "yes" * (i % 3 + 1), "rejected": "no"} for i in range(8)]
RANKED = [{"prompt": "a", "completions": ["b", "c"]}, {"prompt": "a", "completions": ["b", "c", "d"]}]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path, {"pairs": PAIRS, "ranked": RANKED, "prompts": [{"prompt": f"{i}"} for i in range(4)]})
    return tmp_path


RM = {"name": "rm", "algorithm": "reward_model", "data": "pairs.jsonl", "max_steps": 2}


def grpo(model: str) -> dict[str, Any]:
    return {
        "name": "grpo",
        "algorithm": {"name": "grpo", "num_generations": 2},
        "data": "prompts.jsonl",
        "rewards": [{"name": "reward_model", "args": {"model": model}}],
        "rollout": {"batch_size": 2, "max_completion_length": 4},
        "max_steps": 1,
    }


def write(config: dict[str, Any]) -> str:
    Path("path.yaml").write_text(json.dumps({"name": "path", "model": "tiny:llama", **config}))
    return "path.yaml"


def test_a_path_trains_a_reward_model_and_a_later_stage_is_judged_by_it(home: Path, command: Command) -> None:
    assert command("run", write({"stages": [RM, grpo("stage:rm")]})) == 0
    from transformers import AutoModelForSequenceClassification

    config = AutoModelForSequenceClassification.from_pretrained("runs/path/rm/model", num_labels=1).config
    assert config.reward_std > 0
    logged = json.loads((home / "runs/path/grpo/metrics.jsonl").read_text().splitlines()[-1])
    assert logged["rewards/reward_model/errors"] == 0
    assert "rewards/reward_model/mean" in logged


@pytest.mark.parametrize("word", ["check", "run"])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param({"stages": [grpo("stage:rm"), RM]}, "`stage:rm`, which is not an earlier stage", id="later stage"),
        pytest.param(
            {"stages": [{**RM, "name": "dpo", "algorithm": "dpo"}, grpo("stage:dpo")]},
            "trains no reward model",
            id="a stage that makes a policy",
        ),
        pytest.param({"stages": [grpo("tiny:llama")]}, "`tiny:llama` is not a reward model", id="a policy"),
        pytest.param({"stages": [grpo("./nowhere")]}, "there is no model in", id="no such folder"),
        pytest.param(
            {"stages": [{**RM, "algorithm": "dpo", "data": "ranked.jsonl"}]},
            "ranked.jsonl, row 2: a prompt has 3 completions, but `dpo` needs 2",
            id="a ranking for DPO",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_two_lines_before_anything_is_written(
    home: Path, refusal: Refusal, word: str, config: dict[str, Any], message: str
) -> None:
    assert message in refusal(word, write(config))[0]
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("change", "message"), [({"template": "{{ 1 }}"}, "chat template"), ({"token": "new"}, "tokenizer")]
)
def test_a_reward_model_with_another_template_or_tokenizer_is_refused(
    home: Path,
    command: Command,
    refusal: Refusal,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    message: str,
) -> None:
    config = write({"stages": [grpo("./judge/model")]})
    save_random_reward_model(home / "judge")
    assert command("check", config) == 0
    capsys.readouterr()
    save_random_reward_model(home / "judge", **change)
    assert f"has another {message} than the policy" in refusal("check", config)[0]


def test_metrics_cannot_name_a_model_that_the_path_has_yet_to_train(
    home: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = [{"name": "reward_model", "args": {"model": "stage:rm"}}]
    evaluate = {"validation": "prompts.jsonl", "metrics": metrics}
    assert command("check", write({"stages": [RM], "evaluate": evaluate})) == 2
    assert "`evaluate.metrics`" in capsys.readouterr().err
