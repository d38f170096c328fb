"""bf16 changes the arithmetic of a pass and nothing else: weights, losses and the sampler stay fp32."""

from typing import Any, cast

import pytest
import torch

import rung
from helpers.batches import random_batch
from helpers.policies import gradient, relative_error, tiny_policy
from helpers.steps import ALGORITHMS, policy_for, step_batch
from rung.algorithms.grpo import GRPO
from rung.batch import count_denominators
from rung.config import parse_config, resolve
from rung.config.defaults import native_precision
from rung.forward.planner import Layout
from rung.forward.policy import Policy


def passed(policy: Policy, name: str) -> torch.Tensor:
    """The gradient of one step on the recorded batch of an algorithm."""
    algorithm = ALGORITHMS[name]
    batch = algorithm.prepare(step_batch(algorithm), policy)
    denominators = count_denominators(algorithm.terms(), batch)
    for part, outputs in policy.parts(batch, algorithm):
        algorithm.loss(part, outputs).over(denominators).backward()
    return gradient(policy)


@pytest.mark.parametrize("name", ["sft", "dpo", "grpo", "gspo", "ppo", "reward_model", "distill"])
def test_a_gradient_in_bf16_is_near_that_in_fp32(name: str) -> None:
    """bf16 keeps 8 bits: a relative error of 1/256 an operation, some of them in a row."""
    fine, coarse = policy_for(ALGORITHMS[name]), policy_for(ALGORITHMS[name])
    coarse.precision = "bf16"
    apart = relative_error(passed(coarse, name), passed(fine, name))
    assert 1e-4 < apart < 3e-2
    tensors = [tensor for p in coarse.parameters for tensor in (p, p.grad) if tensor is not None]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("layout", ["plain", "shared", "masked"])
def test_log_probs_in_bf16_are_fp32_numbers_near_those_of_fp32(family: str, layout: Layout) -> None:
    batch = random_batch(torch.Generator().manual_seed(0), prompts=4)
    policy = tiny_policy(family)
    if layout not in policy.layouts():
        pytest.skip("this family has no such layout")
    policy.layouts = lambda: (layout,)
    wanted = policy.logps(batch)
    policy.precision = "bf16"
    found = policy.logps(batch)
    assert found.dtype == torch.float32
    assert 0 < float((found - wanted).abs().max()) < 0.1


def test_old_log_probs_are_those_of_the_passes_where_they_are_not_those_of_the_sampler() -> None:
    """The sampler draws in fp32; a ratio against its log-probs would be noise at the first step."""
    stage = rung.train(
        GRPO(num_generations=4, beta=0.04),
        model="tiny:llama",
        data=[{"prompt": f"number {i}"} for i in range(8)],
        rewards=lambda completion: float(len(completion) % 3),
        precision="bf16",
        rollout={"batch_size": 4, "max_completion_length": 8},
        max_steps=1,
    )
    batch = next(iter(stage.source))
    assert batch.old_logps is not None
    sampled = batch.extras["sampled_logps"]
    assert 0 < float((batch.old_logps - sampled).abs().max()) < 0.1
    torch.testing.assert_close(batch.old_logps, stage.policy.logps(batch), atol=0.05, rtol=0)
    step = next(iter(stage))
    assert step.metrics["clip_ratio/region_mean"].value() == 0
    kl = step.metrics["kl"].value()
    assert kl is not None
    assert abs(kl) < 1e-2


def test_a_tiny_model_learns_in_bf16() -> None:
    rows = [{"prompt": f"say {word}", "completion": word} for word in ("red", "blue", "green", "white")]
    losses: dict[str, list[float]] = {}
    for precision in ("fp32", "bf16"):
        settings: dict[str, Any] = {"batch_size": 4, "learning_rate": 3e-3, "max_steps": 30, "precision": precision}
        losses[precision] = [step.loss for step in rung.train("sft", model="tiny:llama", data=rows, **settings)]
    assert losses["bf16"][-1] < 0.5 * losses["bf16"][0]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.1, abs=0.05)


@pytest.mark.parametrize("size", ["tiny", "small", "large"])
@pytest.mark.parametrize("given", ["auto", "fp32", "bf16"])
def test_auto_is_what_the_machine_multiplies_in_and_fp32_for_tiny_models(size: str, given: str) -> None:
    stage = {"name": "sft", "algorithm": "sft", "data": "rows.jsonl", "precision": given}
    raw = {"name": "x", "model": "tiny:llama", "stages": [stage]}
    config = resolve(parse_config(raw, source="test", base=cast(Any, None)), size)
    automatic = "fp32" if size == "tiny" else native_precision()
    assert config.stages[0].precision == (automatic if given == "auto" else given)
