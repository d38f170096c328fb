"""A stage: how many gradients without a number it bears, also over a restart, and what it counts."""

import pytest
import torch

import rung
from helpers.edges import TEXTS
from rung.errors import NonFiniteError
from rung.training.run_state import flatten, unflatten
from rung.training.skipped_steps import LIMIT
from rung.training.stage import Stage


def stage(**settings) -> Stage:
    return rung.train("sft", model="tiny:llama", data=TEXTS, **{"max_steps": 8, "batch_size": 2, **settings})


def spoil(stage: Stage, value: float = float("nan")) -> None:
    """One weight of the head becomes no number, or a number again."""
    with torch.no_grad():
        stage.policy.parameters[-1].view(-1)[0] = value


def test_the_third_bad_step_in_a_row_is_the_last() -> None:
    spoilt = stage()
    spoil(spoilt)
    steps = iter(spoilt)
    assert [next(steps).stepped for _ in range(LIMIT)] == [False, False, False]
    with pytest.raises(NonFiniteError, match=r"step 3: no finite loss and gradient in 3 consecutive steps"):
        next(steps)


def test_every_second_bad_step_is_too_many() -> None:
    """Three of six steps: each of them follows a good one, so that only their share is too large."""
    spoilt, seen = stage(), []
    steps = iter(spoilt)
    for number in range(6):
        seen.append(next(steps).stepped)
        spoil(spoilt, 0.0 if number % 2 else float("nan"))
    assert seen == [True, False] * 3
    with pytest.raises(NonFiniteError, match="step 6: the loss or gradient was not finite in 3 of 6 steps"):
        next(steps)


def test_bad_steps_are_counted_over_a_restart() -> None:
    spoilt = stage()
    spoil(spoilt)
    steps = iter(spoilt)
    for _ in range(2):
        next(steps)
    saved = spoilt.state()
    again = stage()
    again.load(saved)
    with pytest.raises(NonFiniteError, match="step 3"):
        list(again)


def test_a_bad_step_leaves_the_weights() -> None:
    spoilt = stage()
    spoil(spoilt)
    before = [parameter.detach().clone() for parameter in spoilt.policy.parameters]
    next(iter(spoilt))
    now = spoilt.policy.parameters
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, now, strict=True))


def test_steps_and_tokens_add_up_over_a_restart() -> None:
    whole = stage(max_steps=4)
    counts = [step.num_tokens for step in whole]
    assert (whole.step, whole.num_tokens) == (4, sum(counts))
    first = stage(max_steps=4)
    steps = iter(first)
    for _ in range(2):
        next(steps)
    tree = first.state()
    again = stage(max_steps=4)
    again.load(unflatten(*flatten(tree)))
    assert (again.step, again.num_tokens) == (2, sum(counts[:2]))
    assert [step.num_tokens for step in again] == counts[2:]
    assert again.num_tokens == sum(counts)


def test_a_restart_takes_the_learning_rate_of_the_schedule() -> None:
    """Linear over 8 steps from 0.8: 0.8, 0.7, 0.6 and so on."""
    settings = {"learning_rate": 0.8, "lr_scheduler_type": "linear", "optimizer": "sgd", "warmup_steps": 0}
    first = stage(**settings)
    steps = iter(first)
    rates = [next(steps).learning_rate for _ in range(3)]
    again = stage(**settings)
    again.load(first.state())
    rates += [step.learning_rate for step in again]
    assert rates == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
