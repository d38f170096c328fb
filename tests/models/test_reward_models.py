"""A reward model on disk gives the scores of its policy over their scale, and what cannot be one is refused."""

import pytest
import torch
from torch import nn

from helpers.batches import random_batch
from helpers.reward_models import random_reward_model
from rung.algorithms.reward_model import RewardModel
from rung.batch import Batch
from rung.errors import UserError
from rung.forward.policy import Policy
from rung.models.heads import fresh_head
from rung.models.lora import with_adapter
from rung.models.reward_model import check_can_be_reward_model, load_reward_model, save_reward_model, score_rows
from rung.pipeline.final_model import reference_scores
from rung.tiny.models import build


def rows_of(batch: Batch) -> list[list[int]]:
    prompts = [ids[mask].tolist() for ids, mask in zip(batch.prompt_ids, batch.prompt_mask, strict=True)]
    answers = [ids[mask].tolist() for ids, mask in zip(batch.completion_ids, batch.completion_mask, strict=True)]
    return [prompts[p] + answer for p, answer in zip(batch.prompt_of.tolist(), answers, strict=True)]


@pytest.mark.oracle
@pytest.mark.parametrize(("family", "lora"), [("llama", False), ("qwen3", True), ("gpt2", False), ("gemma3", True)])
def test_a_saved_reward_model_gives_the_scores_of_the_policy_over_their_scale(tmp_path, family, lora) -> None:
    from transformers import AutoModelForSequenceClassification

    policy, tokenizer = random_reward_model(family, lora=lora), build(family)[1]
    batch = random_batch(torch.Generator().manual_seed(1), group=2)
    expected = torch.zeros(batch.num_rows)
    for i in range(0, batch.num_rows, 2):
        expected[i : i + 2] = reference_scores(policy, RewardModel(), [batch.select(torch.tensor([i, i + 1]))])
    assert isinstance(policy.score_head, nn.Linear)
    save_reward_model(
        policy.model, policy.score_head, tokenizer, tmp_path, reference_scores(policy, RewardModel(), [batch])
    )
    assert (tmp_path / "adapter").exists() == lora

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=1)
    with torch.no_grad():
        raw = torch.stack([model(torch.tensor([row])).logits[0, 0] for row in rows_of(batch)])
    torch.testing.assert_close(raw, expected, atol=1e-5, rtol=0)

    scaled = torch.tensor(score_rows(load_reward_model(str(tmp_path / "model"))[0], rows_of(batch), token_budget=64))
    assert scaled.mean().item() == pytest.approx(0, abs=1e-5)
    assert scaled.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(scaled, (expected - expected.mean()) / expected.std(correction=0), atol=1e-4, rtol=0)


def test_scores_do_not_depend_on_the_parts(tmp_path) -> None:
    policy, tokenizer = random_reward_model("qwen3"), build("qwen3")[1]
    batch = random_batch(torch.Generator().manual_seed(2), group=2, prompts=6)
    assert isinstance(policy.score_head, nn.Linear)
    save_reward_model(policy.model, policy.score_head, tokenizer, tmp_path, torch.tensor([0.0, 2.0]))
    model, rows = load_reward_model(str(tmp_path / "model"))[0], rows_of(batch)
    alone = [score_rows(model, [row], token_budget=1)[0] for row in rows]
    for budget in (1, 60, 10_000):
        assert score_rows(model, rows, token_budget=budget) == pytest.approx(alone, abs=1e-5)


def test_a_tokenizer_that_pads_with_eos_and_an_unknown_family_are_refused() -> None:
    from transformers import CLIPConfig

    model, tokenizer = build("llama")
    check_can_be_reward_model(model.config, tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.raises(UserError, match=r"pads with EOS.*\n.*pad_token"):
        check_can_be_reward_model(model.config, tokenizer)
    with pytest.raises(UserError, match="no sequence classifier for a model of type `clip`"):
        check_can_be_reward_model(CLIPConfig(), build("llama")[1])


def test_a_lora_of_the_models_own_layers_leaves_the_head_alone() -> None:
    """The head is no part of the model that the adapter wraps: it is trained whole."""
    model = with_adapter(build("llama")[0], {"r": 2})
    policy = Policy(model, score_head=fresh_head(model))
    assert "final_head.weight" in policy.named_parameters()
