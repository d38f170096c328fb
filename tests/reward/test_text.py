"""Special tokens in completions: seen by rewards that ask for them, and in logs."""

import json
from typing import Any

import pytest

import rung
from rung.batch import Completion
from rung.reward import RewardSet
from rung.reward.sample import answered_sample
from rung.rewards.tag_format import tag_format
from rung.tiny.models import load_spec


@pytest.fixture
def tokenizer():
    """The tokenizer of `tiny:llama` with `<think>` and `</think>` as special tokens."""
    made = load_spec("llama")[1]
    made.add_tokens(["<think>", "</think>"], special_tokens=True)
    return made


def sample(tokenizer: Any, text: str, reason: Any = "eos", **settings: Any):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    ids = [*ids, tokenizer.eos_token_id] if reason == "eos" else ids
    completion = Completion(tuple(ids), (0.0,) * len(ids), reason)
    return answered_sample("p", completion, tokenizer, prompt_ids=(1,), row_id="r", group=0, columns={}, **settings)


@pytest.mark.parametrize("reason", ["eos", "length"])
def test_special_tokens_are_in_the_raw_completion_alone(tokenizer, reason) -> None:
    made = sample(tokenizer, "<think>two</think> 4", reason)
    assert made.completion == "two 4"
    assert made.raw_completion == "<think>two</think> 4"
    assert made.has_hidden_tokens


def test_special_tokens_can_be_part_of_the_text(tokenizer) -> None:
    made = sample(tokenizer, "<think>two</think> 4", skip_special_tokens=False)
    assert made.completion == made.raw_completion == "<think>two</think> 4"


def test_a_completion_without_special_tokens_has_one_text(tokenizer) -> None:
    made = sample(tokenizer, "two 4")
    assert made.completion == made.raw_completion == "two 4"
    assert not made.has_hidden_tokens


def test_tag_format_counts_tags_that_are_special_tokens(tokenizer) -> None:
    rewards = RewardSet([{"name": "tag_format", "args": {"tags": ["think"]}}])
    samples = [sample(tokenizer, text) for text in ("<think>two</think> 4", "two 4", "<think>two")]
    assert [outcome.value for outcome in rewards.score(samples).by_reward["tag_format"]] == [1.0, 0.0, 0.0]
    assert tag_format("<think>a</think> <answer>b</answer>") == 1.0


def test_hidden_tokens_are_logged_and_the_setting_shows_them_to_every_reward(tokenizer) -> None:
    model, _ = load_spec("llama")
    model.resize_token_embeddings(len(tokenizer))
    seen: dict[bool, list[str]] = {True: [], False: []}
    rows: dict[bool, list[dict[str, Any]]] = {}
    for skip in (True, False):

        def reward(completions: list[str], skip: bool = skip, **kwargs: Any) -> list[float]:
            seen[skip].extend(completions)
            return [float(len(text)) for text in completions]

        stage = rung.train(
            "grpo",
            model=(model, tokenizer),
            data=[{"prompt": "1+1"}],
            rewards=[reward],
            max_steps=1,
            rollout={"batch_size": 1, "max_completion_length": 64, "skip_special_tokens": skip},
        )
        next(iter(stage))
        rows[skip] = json.loads(json.dumps(stage.source.pop_report()[1]))
    hidden = [row for row in rows[True] if "raw_completion" in row]
    assert hidden
    assert all(row["raw_completion"] != row["completion"] for row in hidden)
    assert not any("raw_completion" in row for row in rows[False])
    assert not any("think>" in text for text in seen[True])
