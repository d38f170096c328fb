"""`rung.train` with TRL's tools and environments, and chat templates by name or file, on a real model."""

from typing import Any

import pytest
import torch
from trl.chat_template_utils import get_training_chat_template

import rung
from helpers.trl_tools import multiply
from rung.errors import ConfigError
from rung.tiny.models import build

ROWS = [{"prompt": [{"role": "user", "content": f"What is {a} times 3?"}]} for a in range(4)]
SETTINGS: dict[str, Any] = {
    "model": "tiny:llama",
    "data": ROWS,
    "max_steps": 2,
    "rollout": {"batch_size": 4, "max_completion_length": 12},
}


class Game:
    """TRL's environment with a reward of its own."""

    def reset(self, **row: Any) -> str | None:
        self.guesses = 0
        return " Guess."

    def guess(self, number: int) -> str:
        """
        Guesses.

        Args:
            number: The guess.
        """
        self.guesses += 1
        return "no"

    def get_reward(self) -> float:
        return float(self.guesses)


@pytest.mark.parametrize("algorithm", ["grpo", "dapo", "gspo", "ppo", "rloo"])
def test_every_algorithm_that_samples_takes_tools(algorithm: str) -> None:
    def few(completion: str) -> float:
        return float(len(completion) % 3)

    stage = rung.train(algorithm, rewards=few, tools=[multiply], **SETTINGS)
    steps = list(stage)
    assert len(steps) == 2
    assert all(torch.isfinite(torch.tensor(step.loss)) for step in steps)
    metrics, table = stage.source.pop_report()
    assert metrics["tools/call_frequency"].value() == 0
    assert table[0]["messages"][0]["role"] == "assistant"


def test_an_environment_is_a_reward_called_like_its_class() -> None:
    stage = rung.train("grpo", environment_factory=Game, max_empty_steps=5, **SETTINGS)
    list(stage)
    metrics, table = stage.source.pop_report()
    assert metrics["rewards/Game/mean"].value() == 0
    assert table[0]["prompt"].endswith("times 3? Guess.")


def test_a_template_that_rewrites_turns_is_refused_and_trls_is_taken_by_name(tmp_path: Any) -> None:
    model, tokenizer = build("llama")
    import trl.chat_template_utils as utils

    tokenizer.chat_template = utils.qwen3_chat_template
    model.config.max_position_embeddings = 4096  # one token is one byte
    model.save_pretrained(tmp_path / "qwen")
    tokenizer.save_pretrained(tmp_path / "qwen")
    settings = {
        **SETTINGS,
        "model": str(tmp_path / "qwen"),
        "tools": [multiply],
        "rewards": len_reward,
        "max_prompt_length": 4000,
        "max_length": 4090,
    }
    with pytest.raises(ConfigError, match="writes a turn of the assistant differently") as error:
        rung.train("grpo", **settings)
    assert "chat_template: trl" in error.value.remedy
    stage = rung.train("grpo", chat_template="trl", **settings)
    assert stage.tokenizer.chat_template == get_training_chat_template(processing_class=tokenizer)


def test_a_chat_template_is_read_from_a_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.jinja").write_text(
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
    )
    stage = rung.train("grpo", chat_template="own.jinja", rewards=len_reward, **SETTINGS)
    ids: Any = stage.tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    assert ids == "[user] a<|eos|>"
    for given, told in (("other.jinja", "cannot be read"), ("trl", "TRL has no training template")):
        with pytest.raises(ConfigError, match=told):
            rung.train("grpo", chat_template=given, rewards=len_reward, **SETTINGS)
    with pytest.raises(ConfigError, match="passed as an object"):
        rung.train("grpo", chat_template="trl", rewards=len_reward, **{**SETTINGS, "model": build("llama")})


def len_reward(completion: str) -> float:
    return float(len(completion))
