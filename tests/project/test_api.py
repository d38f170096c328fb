"""`rung.train`: a model as a name or as an object, one reward or several, and what is refused before anything runs."""

from __future__ import annotations

import pytest
import torch

import rung
from rung.errors import ConfigError
from rung.tiny.models import build

ROWS = [{"prompt": f"{i}", "completion": f" {i + 1}"} for i in range(4)]


def test_a_model_that_is_passed_is_trained_in_place_with_or_without_an_adapter() -> None:
    model, tokenizer = build("llama")
    before = [weight.clone() for weight in model.parameters()]
    stage = rung.train("sft", model=(model, tokenizer), data=ROWS, max_steps=1, batch_size=2)
    assert stage.policy.model is model
    assert len(list(stage)) == stage.step == 1
    assert any(not torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    adapted = rung.train("sft", model=build("llama"), data=ROWS, max_steps=1, batch_size=2, adapter={"lora": {"r": 2}})
    assert all("lora_" in name for name in adapted.policy.named_parameters())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"critic": "start", "algorithm": "ppo"}, "`critic: start` loads the model a second time"),
        ({"adapter": {"lora": {"r": 2}, "load_in_4bit": True}, "algorithm": "sft"}, "`load_in_4bit` loads the model"),
    ],
)
def test_what_loads_the_model_again_needs_its_name(settings: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        rung.train(model=build("llama"), data=ROWS, max_steps=1, rewards=(), **settings)


def one(completion: str) -> float:
    return 1.0


def two(completion: str) -> float:
    return 2.0


@pytest.mark.parametrize(
    ("rewards", "total"),
    [
        (one, 1.0),
        ([one], 1.0),
        ((one, two), 3.0),
        ("final_number", 0.0),
        ({"name": "final_number", "weight": 2.0}, 0.0),
        (["final_number", two], 2.0),
    ],
)
def test_one_reward_or_several_are_the_rewards_of_the_stage(rewards, total: float) -> None:
    """No answer of two random tokens is the number of the row."""
    rows = [{"prompt": "1", "answer": "123456"}] * 2
    settings = {"rollout": {"batch_size": 2, "max_completion_length": 2}, "max_steps": 1}
    stage = rung.train("reinforce_pp", model="tiny:llama", data=rows, rewards=rewards, **settings)
    batch = next(iter(stage.source))
    assert batch.rewards is not None
    assert batch.rewards.tolist() == [total] * 2


def test_an_algorithm_that_trains_nothing_is_told() -> None:
    with pytest.raises(ConfigError, match="algorithm `prompt` trains no weights"):
        rung.train("prompt", model="tiny:llama", data=ROWS)
