"""Models that do not fit each other or their stage, through the real command: two lines on stderr, exit code 2."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.commands import Refusal
from helpers.reward_models import save_random_reward_model
from rung.tiny.models import build

DPO = {"algorithm": "dpo", "data": "preferences", "max_steps": 1}
RM = {**DPO, "name": "rm", "algorithm": "reward_model"}
GRPO = {
    "name": "grpo",
    "algorithm": {"name": "grpo", "num_generations": 2},
    "data": "prompts",
    "rollout": {"batch_size": 2, "max_completion_length": 4},
    "max_steps": 1,
}
PPO = GRPO | {"name": "ppo", "algorithm": "ppo"}
DISTILL = GRPO | {"name": "distill", "algorithm": "distill", "teacher": "tiny:qwen3"}
TIED = {"name": "dpo", **DPO, "adapter": {"lora": {"target_modules": ["q_proj", "lm_head"]}}}

Refused = Callable[..., list[str]]


@pytest.fixture
def home(small_path: Path) -> Path:
    """A small path with its data, a reward model, and models that were trained on other tokens."""
    save_random_reward_model(small_path / "judge")
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    save_random_reward_model(small_path / "template", template=template)
    save_random_reward_model(small_path / "tokens", token="<new>")
    model, tokenizer = build("llama")
    tokenizer.add_tokens(["<new>"])
    model.save_pretrained(small_path / "stranger")
    tokenizer.save_pretrained(small_path / "stranger")
    return small_path


@pytest.fixture
def refused(home: Path, refusal: Refusal) -> Refused:
    """The two lines of `rung run` on the path with other stages."""

    def run(*stages: dict[str, Any], **config: str) -> list[str]:
        keys = ["evaluate=null", "gate=null", f"stages={json.dumps(stages)}"]
        return refusal("run", "small.yaml", *keys, *(f"{key}={value}" for key, value in config.items()))

    return run


def judged_by(model: str) -> dict[str, Any]:
    return PPO | {"rewards": [{"name": "reward_model", "args": {"model": model}}]}


@pytest.mark.parametrize(
    ("stages", "what", "remedy"),
    [
        pytest.param([judged_by("./template/model")], "another chat template", "chat_template.jinja", id="template"),
        pytest.param([judged_by("./tokens/model")], "another tokenizer", "from the policy's model", id="tokenizer"),
        pytest.param([PPO | {"rewards": []}], "no rewards", "set `rewards", id="PPO without reward"),
        pytest.param([RM, PPO | {"rewards": []}], "no rewards", "set `rewards", id="a reward model is no reward yet"),
        pytest.param([PPO | {"critic": "ppo"}], "critic `ppo`", "earlier stage", id="critic that is the stage itself"),
        pytest.param([PPO | {"critic": "rm"}, RM], "critic `rm`", "earlier stage", id="critic that comes later"),
        pytest.param([RM, PPO | {"reference": "rm"}], "reference `rm`", "name a policy", id="reference that judges"),
        pytest.param([RM, PPO | {"from": "rm"}], "starts from `rm`", "name a policy", id="start that judges"),
        pytest.param([PPO | {"from": "./judge/model"}], "is a reward model", "name a policy", id="folder that judges"),
        pytest.param(
            [DISTILL | {"teacher": None}],
            "algorithm `distill` needs a teacher",
            "set `teacher`",
            id="distill without a teacher",
        ),
        pytest.param(
            [GRPO | {"teacher": "tiny:qwen3"}],
            "has a `teacher`, but algorithm `grpo` uses none",
            "remove `teacher`",
            id="teacher for GRPO",
        ),
        pytest.param([DISTILL | {"teacher": "distill"}], "teacher `distill`", "earlier stage", id="its own teacher"),
        pytest.param([DISTILL | {"teacher": "rm"}, RM], "teacher `rm`", "earlier stage", id="teacher that comes later"),
        pytest.param([RM, DISTILL | {"teacher": "rm"}], "teacher `rm`", "name a policy", id="teacher that judges"),
        pytest.param(
            [DISTILL | {"teacher": "./judge/model"}],
            "is a reward model",
            "name a policy",
            id="folder of a judge to learn from",
        ),
        pytest.param(
            [DISTILL | {"teacher": "./stranger"}],
            "the teacher `",
            "policy's tokenizer",
            id="teacher of other tokens",
        ),
        pytest.param(
            [DISTILL | {"teacher": "./nowhere"}], "teacher: ", "run:NAME/stage", id="teacher that is not there"
        ),
        pytest.param(
            [DISTILL | {"algorithm": {"name": "distill", "beta": 1.5}}], "`beta` is 1.5", "1", id="no such divergence"
        ),
        pytest.param(
            [PPO | {"adapter": {"lora": {"alora_invocation_tokens": [3]}}}],
            "`adapter.lora.alora_invocation_tokens`",
            "leave it out",
            id="adapter that does not merge",
        ),
        pytest.param(
            [PPO | {"adapter": {"lora": {"init_lora_weights": "eva"}}}],
            "`init_lora_weights` is 'eva'",
            "pissa",
            id="adapter that begins with data",
        ),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_written(
    home: Path, refused: Refused, stages: list[dict[str, Any]], what: str, remedy: str
) -> None:
    lines = refused(*stages)
    assert what in lines[0]
    assert remedy in lines[1]
    assert not (home / "runs").exists()


def test_a_path_cannot_begin_with_a_reward_model_nor_adapt_one_of_two_tied_matrices(
    home: Path, refused: Refused
) -> None:
    lines = refused({"name": "dpo", **DPO}, model="./judge/model")
    assert "is a reward model" in lines[0]
    assert "critic" in lines[1]
    lines = refused(TIED, model="tiny:qwen3")
    assert "ties its embeddings and head" in lines[0]
    assert "target_modules" in lines[1]
    assert not (home / "runs").exists()


@pytest.mark.parametrize(("key", "algorithm"), [("critic", "reward_model"), ("reference", "dpo"), ("teacher", "dpo")])
def test_a_stage_of_another_tokenizer_is_refused_before_anything_is_written(
    home: Path, refused: Refused, key: str, algorithm: str
) -> None:
    first = {**DPO, "name": "first"}
    other = {**DPO, "name": "other", "algorithm": algorithm, "from": "./stranger"}
    last = {**DISTILL, "name": "ppo"} if key == "teacher" else PPO
    lines = refused(first, other, last | {"from": "first", key: "other"})
    assert f"the {key} `" in lines[0]
    assert "another tokenizer than the policy" in lines[0]
    assert "policy's tokenizer" in lines[1]
    assert not (home / "runs").exists()


def test_where_only_the_run_tells_what_a_stage_starts_from_it_is_refused_before_it_trains(
    home: Path, refused: Refused
) -> None:
    """Without a gate `other` is the last promoted policy; with one it might not have been."""
    first = {**DPO, "name": "first"}
    other = {**DPO, "name": "other", "from": "./stranger"}
    lines = refused(first, other, GRPO | {"reference": "first"})
    assert "the reference `" in lines[0]
    assert "another tokenizer than the policy" in lines[0]
    assert (home / "runs/small/other/DONE").exists()
    assert not (home / "runs/small/grpo/metrics.jsonl").exists()
