"""Heads and critics: where values come from, how they start, and that a critic leaves the policy alone."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import rung
from helpers.batches import random_batch, with_random_weights
from helpers.policies import WeightedSum, gradient, relative_error, tiny_policy
from rung.algorithm import Algorithm, DataKind, Need
from rung.errors import ConfigError, UserError
from rung.forward.policy import Policy
from rung.models.heads import fresh_head, load_critic, zero_head
from rung.models.load import load_model
from rung.models.reward_model import load_reward_model
from rung.pipeline.build_stage import add_heads
from rung.tiny.models import build


class Valued(WeightedSum):
    """Weighted log-probs and values, of an algorithm that says it needs them."""

    name: ClassVar = "valued"

    def data_kind(self) -> DataKind:
        return "text"

    def needs(self) -> frozenset[Need]:
        return frozenset({"values"})


def _batch():
    generator = torch.Generator().manual_seed(3)
    return with_random_weights(random_batch(generator), generator)


def _backward(policy: Policy, layout: str) -> torch.Tensor:
    policy.layouts = lambda: (layout,)  # type: ignore[method-assign]
    for parameter in policy.parameters:
        parameter.grad = None
    one = torch.tensor(1.0, dtype=torch.float64)
    for part, outputs in policy.parts(_batch(), WeightedSum()):
        WeightedSum().loss(part, outputs).over({"all": one}).backward()
    return gradient(policy)


def test_a_critic_with_the_policys_weights_gives_the_values_of_a_head_on_the_policy():
    headed = tiny_policy("qwen3", heads=True)
    apart = Policy(headed.model, value_head=headed.value_head, critic=deepcopy(headed.model))
    for one, other in zip(headed.values(_batch()), apart.values(_batch()), strict=True):
        assert (one - other).abs().max() < 1e-6
    assert headed.values(_batch())[0][~_batch().loss_mask].abs().max() == 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("layout", ["plain", "shared", "masked"])
def test_the_value_after_the_last_token_is_the_value_before_the_next_one(family, layout):
    """Each row is told once more with one more token, which is trained."""
    policy = tiny_policy(family, heads=True)
    policy.critic = tiny_policy(family).model
    policy.layouts = lambda: (layout,)  # type: ignore[method-assign]
    batch = _batch()
    end = batch.lengths[:, None]
    width = torch.arange(batch.completion_ids.shape[1] + 1)
    longer = replace(
        batch,
        completion_ids=torch.nn.functional.pad(batch.completion_ids, (0, 1)).scatter(1, end, 7),
        completion_mask=width <= end,
        loss_mask=torch.nn.functional.pad(batch.loss_mask, (0, 1)).scatter(1, end, True),
        extras={},
    )
    _, after = policy.values(batch)
    before, _ = policy.values(longer)
    assert after.abs().min() > 0
    torch.testing.assert_close(after, before.gather(1, end)[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_the_layouts_agree_on_values_and_gradients_of_a_critic(family):
    policy = tiny_policy(family, heads=True)
    policy.critic = tiny_policy(family).model
    with torch.no_grad():
        for parameter in policy.critic.parameters():
            parameter.mul_(1.1)
    expected = _backward(policy, "plain")
    assert float(expected.norm()) > 0
    for layout in ("shared", "masked"):
        assert relative_error(_backward(policy, layout), expected) < 1e-5


def test_the_values_of_a_critic_do_not_move_the_policy():
    policy = tiny_policy("llama", heads=True)
    policy.critic = deepcopy(policy.model)
    assert policy.value_head is not None
    for part, outputs in policy.parts(_batch(), WeightedSum()):
        assert outputs.values is not None
        (outputs.values * part.loss_mask).sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in policy.model.parameters())
    assert any(parameter.grad is not None for parameter in policy.critic.parameters())
    assert {name.split(".")[0] for name in policy.named_parameters()} > {"critic", "value_head"}


def test_values_start_at_zero_and_verdicts_start_small():
    causal_lm = tiny_policy("llama").causal_lm
    width = causal_lm.config.hidden_size
    assert not zero_head(causal_lm).weight.any()
    torch.manual_seed(0)
    drawn = torch.cat([fresh_head(causal_lm).weight.detach().flatten() for _ in range(20)])
    assert float(drawn.std()) == pytest.approx((width + 1) ** -0.5, rel=0.1)


def test_the_spread_of_verdicts_counts_the_width_and_one_more():
    """A width of 3 gives 1 / sqrt(4) = .5."""
    narrow = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=3, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1, head_dim=2, vocab_size=8
        )
    )
    torch.manual_seed(0)
    drawn = torch.cat([fresh_head(narrow).weight.detach().flatten() for _ in range(500)])
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.05)
    assert zero_head(narrow).weight.shape == (1, 3)


def test_a_head_is_trained_where_an_adapter_freezes_the_rest():
    policy = tiny_policy("llama", lora=True)
    add_heads(policy, Valued(), None, build("llama")[1])
    assert {"value_head.weight", "value_head.bias"} <= set(policy.named_parameters())


def test_a_critic_of_a_causal_model_starts_without_a_head():
    model, head = load_critic("tiny:llama")
    assert head is None
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_algorithm_without_values_refuses_a_critic():
    row = {"prompt": "a", "completion": " b"}
    with pytest.raises(ConfigError, match="`critic`"):
        rung.train("sft", model="tiny:llama", data=[row], max_steps=1, critic="start")


def test_a_stage_in_python_has_the_critic_that_it_names():
    def open_stage(model, critic):
        settings = {"rollout": {"batch_size": 2, "max_completion_length": 2}, "max_steps": 1, "critic": critic}
        return rung.train("ppo", model=model, data=[{"prompt": "a"}], rewards=lambda completion: 1.0, **settings)

    policy = open_stage("tiny:llama", "start").policy
    assert policy.critic is not None
    assert policy.critic is not policy.causal_lm
    assert open_stage("tiny:llama", "head").policy.critic is None
    with pytest.raises(
        ConfigError, match="`critic: start` loads the model a second time, but it was passed as an object"
    ):
        open_stage(build("llama"), "start")


def test_an_algorithm_that_needs_values_finds_them_in_its_batches():
    seen: list[tuple[torch.Tensor | None, torch.Tensor | None]] = []

    class Watching(Valued):
        def prepare(self, batch, policy):
            prepared = Algorithm.prepare(self, batch, policy)
            seen.append((prepared.values, prepared.end_values))
            return prepared

    batch = _batch()
    policy = tiny_policy("llama", heads=True)
    Watching().prepare(batch, policy)
    for found, expected in zip(seen[0], policy.values(batch), strict=True):
        assert found is not None
        assert torch.equal(found, expected)


def test_the_code_of_a_model_folder_is_never_run(tmp_path: Path) -> None:
    """A critic, a policy and a reward model whose config names a class of the folder itself."""
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "unheard_of", "auto_map": {"AutoConfig": "theirs.Config"}})
    )
    (tmp_path / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    for load in (load_critic, load_model, load_reward_model):
        with pytest.raises((UserError, ValueError)):
            load(str(tmp_path))
    assert not (tmp_path / "ran").exists()
