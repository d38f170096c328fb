"""The loop: what a step counts, divides by and clips."""

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR, LambdaLR

from helpers.edges import batch_of, tiny_policy
from rung.algorithms.dpo import DPO
from rung.algorithms.sft import SFT
from rung.batch import Batch
from rung.distributed.ranks import Ranks
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


def test_a_step_without_a_trained_token_names_its_first_three_rows() -> None:
    batch = batch_of([([7], [9])] * 4, trained=[[False]] * 4)
    denominators, empty = step_denominators(SFT(), batch, Ranks())
    assert float(denominators["nll"]) == 0
    assert empty == "the denominator of `nll` is 0 (first rows: row 0, row 1, row 2)"


def test_rows_without_a_trained_token_are_nothing_to_train_also_where_the_denominator_counts_rows() -> None:
    batch = batch_of([([7], [9])] * 4, trained=[[False]] * 4)
    assert step_denominators(DPO(), batch, Ranks())[1] == "no row has a trained token (first rows: row 0, row 1, row 2)"


def test_a_batch_without_rows_is_nothing_to_train() -> None:
    batch = batch_of(ROWS).select(torch.zeros(2, dtype=torch.bool))
    assert step_denominators(SFT(), batch, Ranks())[1] == "the denominator of `nll` is 0"


def test_an_empty_step_leaves_weights_and_momentum_and_advances_the_schedule() -> None:
    """Momentum alone would move the weights by half of the last update; each step has the rate of its place."""
    policy = tiny_policy()
    full = batch_of(ROWS)
    optimizer = SGD(policy.parameters, lr=1.0, momentum=0.5)
    schedule = LambdaLR(optimizer, lambda step: 0.5**step)
    empty = batch_of(ROWS, trained=[[False] * 3, [False] * 2])
    done = steps(policy, SFT(), [full, empty, full], optimizer, schedule, ranks=Ranks(), max_grad_norm=1.0)
    first = next(done)
    before = [parameter.detach().clone() for parameter in policy.parameters]
    momentum = [optimizer.state[parameter]["momentum_buffer"].clone() for parameter in policy.parameters]
    second = next(done)
    assert (first.empty, first.stepped, second.stepped) == ("", True, False)
    assert (second.loss, second.terms, second.grad_norm, second.num_tokens) == (0.0, {"nll": 0.0}, 0.0, 5)
    assert all(map(torch.equal, policy.parameters, before))
    kept = [optimizer.state[parameter]["momentum_buffer"] for parameter in policy.parameters]
    assert all(map(torch.equal, kept, momentum))
    assert [first.learning_rate, second.learning_rate, next(done).learning_rate] == [1.0, 0.5, 0.25]
