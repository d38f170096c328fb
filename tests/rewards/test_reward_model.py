"""The reward that asks a trained reward model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rung.models.heads import fresh_head
from rung.models.reward_model import save_reward_model
from rung.reward import RewardSet, Sample
from rung.rewards.reward_model import reward_model
from rung.tiny.models import build

MEAN, STD = 3.0, 2.0


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any]:
    """A random reward model whose chat template writes a line break after EOS: folder, model, tokenizer."""
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("judge")
    model, tokenizer = build("qwen3")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    torch.manual_seed(0)
    save_reward_model(model, fresh_head(model), tokenizer, folder, torch.tensor([1.0, 5.0]))
    loaded = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=1).eval()
    return str(folder / "model"), loaded, tokenizer


def scored(judge: tuple[str, Any, Any], text: str) -> float:
    """The normalised score of a text that is tokenised as it is, by transformers alone."""
    _, model, tokenizer = judge
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])).logits
    return (logits.item() - MEAN) / STD


def ids(judge: tuple[str, Any, Any], text: str) -> list[int]:
    return judge[2](text, add_special_tokens=False)["input_ids"]


@pytest.mark.oracle
def test_texts_and_conversations_are_judged_as_the_model_was_trained_to_read_them(judge) -> None:
    eos = judge[2].eos_token
    chat = [{"role": "user", "content": "Why?"}]
    prompts = ["ab", "ab", chat, chat]
    completions = [f"cd{eos}", "cd", f"So.{eos}", "So."]
    asked = f"user:Why?{eos}\nassistant:"
    prompt_ids = [ids(judge, text) for text in ("ab", "ab", asked, asked)]
    verdicts = reward_model(prompts, prompt_ids, [ids(judge, text) for text in completions], model=judge[0])
    texts = [f"abcd{eos}", "abcd", f"{asked}So.{eos}\n", f"{asked}So."]
    assert verdicts == pytest.approx([scored(judge, text) for text in texts], abs=1e-5)


def test_scores_do_not_depend_on_the_token_budget_or_on_the_other_rows(judge) -> None:
    answers = [ids(judge, "x" * n) for n in (1, 30, 4, 17, 2, 9, 30)]
    alone = [reward_model(["ab"], [ids(judge, "ab")], [answer], model=judge[0])[0] for answer in answers]
    for budget in (1, 70, 8192):
        together = reward_model(["ab"] * 7, [ids(judge, "ab")] * 7, answers, model=judge[0], token_budget=budget)
        assert together == pytest.approx(alone, abs=1e-5)


def test_a_row_beyond_the_models_positions_abstains_and_the_others_are_scored(judge) -> None:
    def sample(row: int, answer: list[int]) -> Sample:
        return Sample(
            prompt="ab", prompt_ids=ids(judge, "ab"), completion="", completion_ids=answer, finish_reason="length",
            n_tokens=len(answer),
            row_id=str(row), group=0,
        )  # fmt: skip

    rewards = RewardSet([{"name": "reward_model", "args": {"model": judge[0]}}])
    scores = rewards.score([sample(0, ids(judge, "x")), sample(1, ids(judge, "x" * 600))])
    outcomes = scores.by_reward["reward_model"]
    assert [outcome.kind for outcome in outcomes] == ["scored", "abstained"]
    assert "512 positions" in outcomes[1].note
