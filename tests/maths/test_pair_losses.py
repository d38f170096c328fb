"""The functions that losses of pairs are made of: their examples hold, and they are finite everywhere."""

import doctest
import importlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rung.maths.preference_losses import alpha_divergence, discopop, log_odds


@pytest.mark.parametrize(
    "module", ["rung.maths.preference_losses", "rung.algorithms.shared.pairs", "rung.maths.tensors"]
)
def test_the_examples_in_the_docstrings_hold(module: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert attempted > 0
    assert failed == 0


@given(margin=st.floats(-1e4, 1e4), tau=st.floats(0.01, 0.9))
def test_discopop_is_finite_however_far_apart_the_sides_are(margin: float, tau: float) -> None:
    """TRL's product is infinity times 0 from -89 downwards in float32."""
    leaf = torch.tensor([margin], requires_grad=True)
    loss = discopop(leaf, tau)
    loss.sum().backward()
    assert leaf.grad is not None
    assert bool(loss.isfinite())
    assert bool(leaf.grad.isfinite())


@given(log_ratio=st.floats(-1e4, 1e4), alpha=st.sampled_from([0.0, 0.3, 0.9]))
def test_scores_are_finite_and_grow_with_the_log_ratio(log_ratio: float, alpha: float) -> None:
    leaf = torch.tensor([log_ratio], requires_grad=True)
    score = alpha_divergence(leaf, alpha)
    score.sum().backward()
    assert leaf.grad is not None
    assert bool(score.isfinite())
    assert float(leaf.grad) >= 0


@pytest.mark.maths
def test_the_odds_of_a_certain_answer_are_finite() -> None:
    leaf = torch.tensor([0.0, -1e-9, -1e-3, -200.0], requires_grad=True)
    odds = log_odds(leaf)
    odds.sum().backward()
    assert leaf.grad is not None
    assert bool(odds.isfinite().all())
    assert bool(leaf.grad.isfinite().all())
    assert odds.tolist() == pytest.approx([13.8155, 13.8155, 6.9073, -200.0], abs=1e-2)
