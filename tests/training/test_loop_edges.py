"""The loop: what a step counts, divides by and clips."""

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR, LambdaLR

from helpers.edges import batch_of, tiny_policy
from rung.algorithms.sft import SFT
from rung.batch import Batch
from rung.distributed.ranks import Ranks
from rung.errors import DataError
from rung.forward.policy import Policy
from rung.training.loop import Step, step_denominators, steps

ROWS = [([7, 8], [9, 10, 11]), ([5], [12, 13])]


def stepped(policy: Policy, *batches: Batch, norm: float = 1e9, rate: float = 0.1) -> list[Step]:
    optimizer = SGD(policy.parameters, lr=rate)
    return list(steps(policy, SFT(), batches, optimizer, ConstantLR(optimizer, 1.0), ranks=Ranks(), max_grad_norm=norm))


def test_tokens_that_are_not_trained_are_counted() -> None:
    """5 completion tokens, 3 of them trained."""
    batch = batch_of(ROWS, trained=[[True, False, True], [False, True]])
    (step,) = stepped(tiny_policy(), batch)
    assert step.num_tokens == 5


def test_the_loss_is_over_the_trained_tokens() -> None:
    policy, batch = tiny_policy(), batch_of(ROWS, trained=[[True, False, True], [False, True]])
    expected = -float(policy.logps(batch).sum()) / 3
    (step,) = stepped(policy, batch)
    assert step.loss == pytest.approx(expected, abs=1e-5)
    assert step.terms == {"nll": pytest.approx(step.loss)}
    assert step.stepped


def test_a_gradient_is_cut_to_its_largest_norm() -> None:
    """SGD at rate 1 moves the weights by the norm of the gradient, which is at most 0.01."""
    policy = tiny_policy()
    before = torch.cat([p.detach().flatten().clone() for p in policy.parameters])
    (step,) = stepped(policy, batch_of(ROWS), norm=0.01, rate=1.0)
    after = torch.cat([p.detach().flatten() for p in policy.parameters])
    assert step.grad_norm > 0.01
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_gradients_do_not_add_up_over_steps() -> None:
    policy, batch = tiny_policy(), batch_of(ROWS)
    first, second = stepped(policy, batch, batch, rate=0.0)
    assert first.grad_norm == pytest.approx(second.grad_norm, rel=1e-5)


def test_a_step_tells_the_rate_that_it_was_taken_with() -> None:
    policy = tiny_policy()
    optimizer = SGD(policy.parameters, lr=1.0)
    schedule = LambdaLR(optimizer, lambda step: 0.5**step)
    done = steps(policy, SFT(), [batch_of(ROWS)] * 3, optimizer, schedule, ranks=Ranks(), max_grad_norm=1.0)
    assert [step.learning_rate for step in done] == [1.0, 0.5, 0.25]


def test_a_step_without_a_trained_token_is_refused_by_its_first_three_rows() -> None:
    batch = batch_of([([7], [9])] * 4, trained=[[False]] * 4)
    with pytest.raises(
        DataError, match=r"the denominator of `nll` is 0 \(first rows: row 0, row 1, row 2\)\n"
    ) as caught:
        step_denominators(SFT(), batch, Ranks())
    assert "masked" in caught.value.remedy
