"""How a step is cut, padded or ordered changes neither its gradient nor the weights after it."""

from dataclasses import replace

import pytest
import torch

from helpers.certificate import Certify
from helpers.policies import gradient, relative_error, tiny_policy
from helpers.steps import ALGORITHMS, after_one_step, padded, permuted, step_batch
from rung.algorithms.dapo import DAPO
from rung.batch import Batch
from rung.distributed.ranks import Ranks
from rung.training.loop import steps

# float32 sums in another order: the largest error seen on the CPUs tried is 1.3e-6, that of a masked or summed ratio.
BOUND = 2e-6


@pytest.mark.parametrize("name", ALGORITHMS)
def test_cuts_order_and_padding_change_nothing(name: str, certify: Certify) -> None:
    algorithm = ALGORITHMS[name]
    batch = step_batch(algorithm)
    wanted, weights = after_one_step(algorithm, batch)
    longest = int(batch.prompt_mask.sum(1).max() + batch.lengths.max())
    for changed, budget in (
        (batch, 1),
        (batch, 3 * longest),
        (permuted(batch), 10_000),
        (permuted(batch), 3 * longest),
        (padded(batch), 10_000),
        (padded(batch), 1),
    ):
        found, after = after_one_step(algorithm, changed, token_budget=budget)
        assert relative_error(found, wanted) < BOUND
        assert relative_error(after, weights) < BOUND
        certify(
            algorithm.name, "invariance", max(relative_error(found, wanted), relative_error(after, weights)), of="cuts"
        )


@pytest.mark.parametrize("name", ["sft", "grpo", "dapo"])
def test_a_token_that_is_not_trained_changes_nothing(name: str) -> None:
    """The last token of a row, once it is not trained, can be any token: nothing that is trained comes after it."""
    algorithm = ALGORITHMS[name]
    batch = step_batch(algorithm)
    last = torch.zeros_like(batch.loss_mask).scatter(1, batch.lengths[:, None] - 1, True)
    batch = replace(batch, loss_mask=batch.loss_mask & ~last)
    other = replace(batch, completion_ids=torch.where(last, 99, batch.completion_ids))
    assert relative_error(after_one_step(algorithm, other)[0], after_one_step(algorithm, batch)[0]) < 1e-6


def test_rows_without_advantage_count_and_are_not_computed() -> None:
    """A dead group changes the denominator, so the gradient is the whole batch's, and its rows never meet the model."""
    batch = step_batch(ALGORITHMS["dapo"])
    assert batch.advantages is not None
    dead = batch.group_of == batch.group_of[0]
    batch = replace(batch, advantages=batch.advantages.masked_fill(dead[:, None], 0))
    policy = tiny_policy("llama")
    optimizer = torch.optim.SGD(policy.parameters, lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    next(steps(policy, ALGORITHMS["dapo"], [batch], optimizer, schedule, ranks=Ranks(), max_grad_norm=1e9))
    live = (batch.advantages != 0).any(1)
    assert policy.work.head_rows == int(batch.loss_mask[live].sum()) < int(batch.loss_mask.sum())
    found = gradient(policy)

    class Everything(DAPO):
        name = "everything"

        def active_rows(self, batch: Batch) -> torch.Tensor:
            return torch.ones(batch.num_rows, dtype=torch.bool)

    assert relative_error(found, after_one_step(Everything(), batch)[0]) < 1e-6
