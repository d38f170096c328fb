"""Muon by hand: decay comes before the update, momentum is Nesterov's, and the scale is that of the longer side."""

import pytest
import torch
from torch.nn import Parameter

from rung.training.muon import Muon, orthogonalized

pytestmark = pytest.mark.maths


def quintic(value: float) -> float:
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    return value


def test_decay_comes_before_the_update() -> None:
    """10 x (1 - .1 x 2) - .1 x .2 x 1 x q(1) = 8 - .02 q(1); decay afterwards would make it 8 - .016 q(1)."""
    weight = Parameter(torch.tensor([[10.0]], dtype=torch.float64))
    weight.grad = torch.tensor([[3.0]], dtype=torch.float64)
    Muon([{"params": [weight], "hidden": True, "weight_decay": 2.0}], lr=0.1).step()
    assert weight.item() == pytest.approx(8 - 0.02 * quintic(1.0), abs=1e-9)


def test_the_momentum_is_a_mean_and_looks_ahead() -> None:
    """Gradients 1, then -1: m1 = .05, m2 = .95 x .05 + .05 x -1 = -.0025; ahead: -1 + .95 (m2 + 1) = -.052375."""
    weight = Parameter(torch.zeros(1, 1, dtype=torch.float64))
    optimizer = Muon([{"params": [weight], "hidden": True}], lr=1.0)
    for gradient in (1.0, -1.0):
        weight.grad = torch.full((1, 1), gradient, dtype=torch.float64)
        optimizer.step()
    assert optimizer.state[weight]["momentum"].item() == pytest.approx(-0.0025)
    # a 1 x 1 update is its sign: -.2 q(1), then +.2 q(1)
    assert weight.item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("shape", "longer"), [((1, 4), 4), ((4, 1), 4), ((1, 1), 1)])
def test_the_step_grows_with_the_root_of_the_longer_side(shape: tuple[int, int], longer: int) -> None:
    weight = Parameter(torch.zeros(shape, dtype=torch.float64))
    weight.grad = torch.zeros(shape, dtype=torch.float64)
    weight.grad[0, 0] = 5.0
    Muon([{"params": [weight], "hidden": True}], lr=0.1).step()
    assert weight[0, 0].item() == pytest.approx(-0.1 * 0.2 * longer**0.5 * quintic(1.0), abs=1e-9)


def test_a_gradient_of_zeros_gives_no_step() -> None:
    assert orthogonalized(torch.zeros(3, 2)).tolist() == [[0, 0], [0, 0], [0, 0]]


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    still, moved = Parameter(torch.ones(2, 2)), Parameter(torch.ones(2, 2))
    moved.grad = torch.eye(2)
    optimizer = Muon([{"params": [still, moved], "hidden": True, "weight_decay": 0.5}], lr=0.1)
    optimizer.step()
    assert still.tolist() == [[1, 1], [1, 1]]
    assert moved.tolist() != [[1, 1], [1, 1]]
    assert still not in optimizer.state


@pytest.mark.oracle
def test_what_is_not_hidden_takes_the_steps_of_adamw() -> None:
    """A first step of AdamW is its rate by the sign of the gradient, but for eps: 1 / (1 + 1e-8)."""
    ours, theirs = Parameter(torch.tensor([1.0, -2.0])), Parameter(torch.tensor([1.0, -2.0]))
    mine = Muon([{"params": [ours], "weight_decay": 0.5}], lr=0.1)
    oracle = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.5, betas=(0.9, 0.95), eps=1e-8, fused=True)
    for gradient in ([3.0, -1e-8], [1.0, 2.0], [-4.0, 0.5]):
        ours.grad, theirs.grad = torch.tensor(gradient), torch.tensor(gradient)
        mine.step()
        oracle.step()
        assert torch.equal(ours, theirs)


def test_defaults_are_those_of_the_source() -> None:
    group = Muon([{"params": [Parameter(torch.ones(1, 1))]}], lr=0.3).param_groups[0]
    wanted = {"lr": 0.3, "weight_decay": 0.0, "momentum": 0.95, "betas": (0.9, 0.95), "hidden": False}
    assert {name: group[name] for name in wanted} == wanted
