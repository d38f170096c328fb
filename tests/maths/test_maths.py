"""Numbers derived by hand (golden vectors of the papers) and properties of the pure functions."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.certificate import Certify
from rung.maths import advantages
from rung.maths import preference_losses as pair_losses
from rung.maths import tensors as maths

pytestmark = pytest.mark.maths

NAN = float("nan")


def one_group(*rewards: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(rewards, dtype=torch.float32), torch.zeros(len(rewards), dtype=torch.long)


def close(actual: torch.Tensor, expected: list[float], atol: float = 1e-5) -> tuple[torch.Tensor, list[float]]:
    """Both of them, which agree."""
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=actual.dtype), atol=atol, rtol=0)
    return actual, expected


def test_group_advantage_of_two_winners(certify: Certify) -> None:
    """R = [1,0,0,1]: mean .5, Bessel std sqrt(4 x .25 / 3) = .577350; .5 / (.577350 + 1e-4) = .865875."""
    both = close(advantages.standardise(*one_group(1, 0, 0, 1)), [0.865875, -0.865875, -0.865875, 0.865875])
    certify("grpo", "golden", *both)
    close(advantages.standardise(*one_group(1, 0, 0, 1), eps=1e-6), [0.866024, -0.866024, -0.866024, 0.866024])
    certify("dr_grpo", "golden", *close(advantages.centre(*one_group(1, 0, 0, 1)), [0.5, -0.5, -0.5, 0.5]))


def test_group_advantage_of_one_winner(certify: Certify) -> None:
    """R = [1,0,0,0]: centred .75 and -.25, std .5."""
    both = close(advantages.standardise(*one_group(1, 0, 0, 0)), [1.499700, -0.499900, -0.499900, -0.499900])
    certify("grpo", "golden", *both)


def test_unscored_row_leaves_its_group(certify: Certify) -> None:
    """R = [1,None,0,1]: over three rows mean 2/3, std .577350; the second row gets 0."""
    both = close(advantages.standardise(*one_group(1, NAN, 0, 1)), [0.577250, 0, -1.154501, 0.577250])
    certify("grpo", "golden", *both)


def test_batch_scaling_divides_by_the_std_of_all_rewards() -> None:
    """R = [1,0,0,1 | 1,1,1,0]: five ones of eight, Bessel std sqrt(8 x 5/8 x 3/8 / 7) = .517549."""
    rewards = torch.tensor([1.0, 0, 0, 1, 1, 1, 1, 0])
    groups = torch.tensor([0] * 4 + [1] * 4)
    expected = [0.965905, -0.965905, -0.965905, 0.965905, 0.482953, 0.482953, 0.482953, -1.448858]
    close(advantages.standardise_over_batch(rewards, groups), expected)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [(1.25, 1, -1.25), (1.5, 1, -1.28), (0.7, 1, -0.7), (0.7, -1, 0.8), (1.5, -1, 1.5), (20, -1, 20)],
)
def test_clip_higher(ratio: float, advantage: float, loss: float) -> None:
    """Bounds .8 and 1.28: a gain stops counting at the bound, a loss is never cut."""
    close(maths.clipped_objective(torch.tensor([ratio]), torch.tensor([float(advantage)]), 0.2, 0.28), [loss])


def test_symmetric_clip_and_dual_clip() -> None:
    """rho = 1.25, A = 1 under .2 / .2 gives -1.2; rho = 20, A = -1 is bounded by delta = 10 and 3."""
    close(maths.clipped_objective(torch.tensor([1.25]), torch.tensor([1.0]), 0.2, 0.2), [-1.2])
    loss, advantage = torch.tensor([20.0]), torch.tensor([-1.0])
    close(maths.dual_clip(loss, advantage, 10.0), [10.0])
    close(maths.dual_clip(loss, advantage, 3.0), [3.0])
    close(maths.dual_clip(torch.tensor([-1.28]), torch.tensor([1.0]), 3.0), [-1.28])


def test_kl_estimates() -> None:
    """x = .1 and -.2: k1 = x, k3 = exp(-x) - 1 + x = .004837 and .021403."""
    x, zero = torch.tensor([0.1, -0.2]), torch.zeros(2)
    close(maths.k1(x, zero), [0.1, -0.2])
    close(maths.k3(x, zero), [0.004837, 0.021403])


def test_k3_is_bounded_where_exp_would_overflow() -> None:
    """x = -300 is taken as -20: exp(20) - 1 - 20 = 485165174.4."""
    close(
        maths.k3(torch.tensor([-300.0], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)),
        [485165174.40979],
        1e-3,
    )


def test_soft_overlong_punishment(certify: Certify) -> None:
    """Limit 20, buffer 4: free up to 16 tokens, then a quarter a token, never below -1."""
    lengths = torch.tensor([10, 16, 17, 18, 20, 21])
    certify("dapo", "golden", *close(advantages.overlong_penalty(lengths, 20, 4), [0, 0, -0.25, -0.5, -1, -1]))


def test_pair_losses(certify: Certify) -> None:
    """u = .5, v = -.3, beta = .1: margin .08; lengths 4 and 2 make IPO's h = .125 + .15 = .275, (.275 - 5)^2."""
    margin = torch.tensor([0.08])
    close(pair_losses.sigmoid(margin), [0.653947])
    close(pair_losses.sigmoid(margin, 0.1), [0.661947])
    close(pair_losses.hinge(margin), [0.92])
    certify("dpo", "golden", *close(pair_losses.ipo(torch.tensor([0.275]), 0.1), [22.325625]))
    close(pair_losses.sigmoid(torch.zeros(1)), [0.693147])


def test_reductions_of_three_rows() -> None:
    """2 tokens of 1, 6 of 0, 2 of 3: sum 8 over 10 tokens = .8; row means 1, 0, 3 average 4/3; row sums 2, 0, 6."""
    losses = torch.tensor([[1.0] * 2 + [NAN] * 4, [0.0] * 6, [3.0] * 2 + [NAN] * 4])
    mask = ~losses.isnan()
    close(maths.masked_sum(losses, mask).sum() / mask.sum(), 0.8)  # type: ignore[arg-type]
    close(maths.masked_mean(losses, mask), [1, 0, 3])
    close(maths.masked_sum(losses, mask), [2, 0, 6])


def test_a_row_by_itself_gives_what_it_gives_among_others() -> None:
    """Reductions and readouts run over the last axis, tokens or vocabulary, whatever stands before it."""
    torch.manual_seed(0)
    rows, others, mask = torch.randn(3, 5), torch.randn(3, 5), torch.rand(3, 5) < 0.6
    for reduce in (maths.masked_sum, maths.masked_mean):
        assert torch.equal(torch.stack([reduce(*row) for row in zip(rows, mask, strict=True)]), reduce(rows, mask))
    for read in (maths.entropy, maths.entropy_detached, maths.top_logp, maths.log_sum_sq_probs):
        torch.testing.assert_close(torch.stack([read(row) for row in rows]), read(rows))
    for compare in (maths.forward_kl, maths.reverse_kl, partial(maths.jensen_shannon, beta=0.3)):
        apart = torch.stack([compare(*both) for both in zip(rows, others, strict=True)])
        torch.testing.assert_close(apart, compare(rows, others))


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(-3, 3))
def test_a_constant_added_to_a_group_changes_no_advantage(rewards: list[float], shift: float) -> None:
    values, groups = one_group(*rewards)
    values = values.double()
    torch.testing.assert_close(
        advantages.centre(values + shift, groups), advantages.centre(values, groups), atol=1e-3, rtol=0
    )


@given(st.floats(-5, 5), st.integers(2, 9))
def test_equal_rewards_give_exactly_no_advantage(reward: float, size: int) -> None:
    rewards, groups = one_group(*[reward] * size)
    assert not advantages.standardise(rewards, groups).any()


def test_rewards_equal_up_to_noise_give_almost_no_advantage() -> None:
    rewards, groups = one_group(1.0, 1.0 + 1e-7, 1.0, 1.0)
    assert advantages.standardise(rewards.double(), groups).abs().max() < 1e-2


@given(st.integers(2, 30), st.integers(0, 2**31))
def test_entropy_equals_torch(vocab: int, seed: int) -> None:
    logits = torch.randn(3, vocab, generator=torch.Generator().manual_seed(seed)) * 3
    expected = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(maths.entropy(logits), expected, atol=1e-5, rtol=1e-5)


def test_mixed_groups() -> None:
    rewards = torch.tensor([1.0, NAN, 1.0, 0.0, 1.0, NAN, NAN])
    groups = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    assert advantages.is_mixed(rewards, groups).tolist() == [False, True, False]


def exact_kl_gradient(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    logits = logits.clone().requires_grad_()
    policy = logits.log_softmax(-1)
    (policy.exp() * (policy - reference.log_softmax(-1))).sum().backward()
    assert logits.grad is not None
    return logits.grad


def test_gradient_of_ratio_times_k3_is_the_gradient_of_the_kl() -> None:
    """Every token weighted by its probability: the expected gradient, by enumeration; k1 as a loss gives 0."""
    torch.manual_seed(0)
    start, reference = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    ref_logps = reference.log_softmax(-1)
    old = start.log_softmax(-1)
    for estimate, expected in (
        (lambda logps: (logps - old).exp() * maths.k3(logps, ref_logps), exact_kl_gradient(start, reference)),
        (lambda logps: maths.k1(logps, ref_logps), torch.zeros(6, dtype=torch.float64)),
    ):
        logits = start.clone().requires_grad_()
        (old.exp() * estimate(logits.log_softmax(-1))).sum().backward()
        torch.testing.assert_close(logits.grad, expected, atol=1e-12, rtol=0)
