"""Sampled trajectories in training: log-probs and gradients of every layout, and what tokens of the world change."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from helpers.policies import WeightedSum, gradient, relative_error
from helpers.sampling import KEY, ending_often, prompts_of
from helpers.worlds import Numbers
from rung.algorithm import Algorithm
from rung.batch import Batch
from rung.data.collate import collate
from rung.data.records import Encoded, make_example
from rung.forward.policy import Policy
from rung.rollout.generate import pad_rows, with_answers
from rung.rollout.samplers import LocalSampler
from rung.sampling import Sampling
from rung.tiny.models import FAMILIES, build

LENGTHS, SAMPLES = (3, 21, 1, 13, 8), 10  # 50 trajectories of each family


def rollout(family: str) -> tuple[Policy, Batch, torch.Tensor]:
    """A policy, 50 trajectories of it with 1 to 6 turns, and the log-probs that the sampler gave."""
    model, tokenizer = build(family)
    sampler = LocalSampler(ending_often(model), tokenizer)
    prompts, sampling = prompts_of(LENGTHS), Sampling(max_completion_length=100)
    groups = sampler.sample_trajectories(
        prompts, SAMPLES, visits=range(len(prompts)), key=KEY, sampling=sampling, world=Numbers(turns=5, longest=20)
    )
    encoded = [
        Encoded(str(i), f"x:{i}", ids, (), make_example("prompt", f"x:{i}", {})) for i, ids in enumerate(prompts)
    ]
    batch = collate([with_answers(*one) for one in zip(encoded, groups, strict=True)], pad_id=0)
    logps = pad_rows([one.logps for group in groups for one in group], batch.completion_ids.shape[1])
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(batch.completion_ids.shape, generator=generator)
    return Policy(model), batch.replace_extras(weights=weights), logps


def found(policy: Policy, batch: Batch, layout: str, token_budget: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs (N, T), and the gradient of a loss that reads every output."""
    policy.model.zero_grad()
    policy.token_budget = token_budget
    policy.layouts = lambda: (layout,)  # type: ignore[method-assign, assignment, return-value]
    algorithm: Algorithm = WeightedSum()
    for part, outputs in policy.parts(batch, algorithm):
        algorithm.loss(part, outputs).over({"all": torch.tensor(1.0, dtype=torch.float64)}).backward()
    return policy.logps(batch), gradient(policy)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_samplers_log_probs_and_every_layout_equal_plain_rows(family: str) -> None:
    policy, batch, sampled = rollout(family)
    assert batch.num_rows == len(LENGTHS) * SAMPLES
    world = batch.completion_mask & ~batch.loss_mask
    assert world.any(1).float().mean() > 0.8, "most rows have an answer"
    expected, wanted = found(policy, batch, "plain", 1)
    torch.testing.assert_close(sampled, expected, atol=1e-5, rtol=0)
    for layout in ("plain", "shared", "masked"):
        logps, grads = found(policy, batch, layout, 600)
        torch.testing.assert_close(logps, expected, atol=1e-5, rtol=0)
        assert relative_error(grads, wanted) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_of_the_world_has_no_term_of_its_own(family: str) -> None:
    """Another token in its place changes what follows it, as a context does, and no column before or at it."""
    policy, batch, _ = rollout(family)
    world = batch.completion_mask & ~batch.loss_mask
    row = int(world.any(1).nonzero()[0])
    column = int(world[row].nonzero()[0])
    ids = batch.completion_ids.clone()
    ids[row, column] = 9 if ids[row, column] != 9 else 10
    before, after = policy.logps(batch), policy.logps(replace(batch, completion_ids=ids))
    torch.testing.assert_close(before[row, : column + 1], after[row, : column + 1], atol=1e-5, rtol=0)
    assert before[row, column] == after[row, column] == 0
    others = torch.arange(batch.num_rows) != row
    torch.testing.assert_close(before[others], after[others], atol=1e-5, rtol=0)
    assert (before[row] - after[row]).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo", "ppo", "rloo", "cispo", "dr_grpo"])
def test_columns_of_the_world_enter_no_loss_term_of_an_algorithm(name: str) -> None:
    """Garbage in the columns of the world, in every tensor of a rollout, changes neither loss nor advantages."""
    from rung.batch import Outputs, count_denominators
    from rung.config.algorithms import make_algorithm

    algorithm = make_algorithm({"name": name, "beta": 0.1}, None)
    policy, batch, sampled = rollout("llama")
    world = batch.completion_mask & ~batch.loss_mask
    generator = torch.Generator().manual_seed(1)
    rewards = torch.rand(batch.num_rows, generator=generator)
    plain = replace(
        batch,
        rewards=rewards,
        task_rewards=rewards,
        truncated=torch.zeros(batch.num_rows, dtype=torch.bool),
        max_completion_length=100,
        old_logps=sampled,
        ref_logps=sampled + 0.1,
        values=torch.rand(sampled.shape, generator=generator).masked_fill(~batch.loss_mask, 0.0),
        end_values=torch.zeros(batch.num_rows),
    )

    def garbage(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.masked_fill(world, 7.0)

    assert plain.old_logps is not None
    assert plain.ref_logps is not None
    assert plain.values is not None
    spoiled = replace(
        plain, old_logps=garbage(plain.old_logps), ref_logps=garbage(plain.ref_logps), values=garbage(plain.values)
    )

    def losses(rollout: Batch, spoil: Any) -> dict[str, float]:
        credited, _ = algorithm.credit(rollout, algorithm.initial_state())
        logps = policy.logps(batch) - 0.05
        readouts = {one: logps.abs() for one in algorithm.readouts()}
        outputs = Outputs(
            logps=spoil(logps),
            readouts={one: spoil(value) for one, value in readouts.items()},
            values=None if rollout.values is None else spoil(rollout.values + 0.1),
        )
        loss = algorithm.loss(credited, outputs)
        denominators = count_denominators(algorithm.terms(), credited)
        return {term: float(total / denominators[term]) for term, total in loss.terms.items()}

    expected = losses(plain, lambda tensor: tensor)
    assert expected == pytest.approx(losses(spoiled, garbage), rel=1e-6)
    assert expected != pytest.approx(losses(plain, lambda tensor: tensor.masked_fill(batch.loss_mask, 7.0)), rel=1e-6)
