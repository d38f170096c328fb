"""REINFORCE++ with and without a baseline: numbers derived by hand, and what its credit is made of."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rung
from helpers.batches import random_batch
from helpers.certificate import Certify
from helpers.losses import batch_and_logps, ours
from rung.algorithms.grpo import GRPO
from rung.algorithms.reinforce_pp import ReinforcePP, ReinforcePPBaseline
from rung.batch import Batch, Outputs
from rung.maths import advantages
from rung.maths import tensors as maths
from rung.metrics import values

NAN = float("nan")


def rows(*kl: list[float], rewards: list[float]) -> Batch:
    """Rows of one width, a prompt each: k1 of each token against the reference, and a reward a row."""
    width = len(kl[0])
    batch = random_batch(torch.Generator().manual_seed(0), prompts=len(kl), rows=(1, 1), length=(width, width))
    old = torch.full((len(kl), width), -2.0, dtype=torch.float64)
    return replace(
        batch,
        loss_mask=batch.completion_mask,
        old_logps=old,
        ref_logps=old - torch.tensor(kl, dtype=torch.float64),
        rewards=torch.tensor(rewards, dtype=torch.float64),
    )


def advantages_of(algorithm: ReinforcePP | GRPO, batch: Batch) -> torch.Tensor:
    found = algorithm.credit(batch, {})[0].advantages
    assert found is not None
    return found


# derived by hand


@pytest.mark.parametrize("reward", [0.7, 0.1, 1.0])
def test_equal_rewards_move_no_weight(reward: float) -> None:
    """Adam makes a full step of any gradient, however small; one of exactly 0 moves nothing."""
    stage = rung.train(
        ReinforcePP(beta=0),
        model="tiny:llama",
        data=[{"prompt": f"{i}+1="} for i in range(8)],
        rewards=[lambda completions, **_: [reward] * len(completions)],
        rollout={"batch_size": 8, "max_completion_length": 12},
        learning_rate=1e-3,
        max_steps=3,
    )
    before = [parameter.detach().clone() for parameter in stage.policy.parameters]
    assert [step.grad_norm for step in stage] == [0.0] * 3
    assert all(map(torch.equal, stage.policy.parameters, before))


@pytest.mark.maths
def test_a_token_is_credited_with_what_is_still_to_come(certify: Certify) -> None:
    """beta .1, k1 = [.1, .2, -.1], R = 1: token rewards -.01, -.02, 1.01, to go [.98, .99, 1.01]; then whitened.

    Mean .993333, biased variance ((.013333)^2 + (.003333)^2 + (.016667)^2) / 3 = .000155556.
    """
    found = advantages_of(ReinforcePP(beta=0.1), rows([0.1, 0.2, -0.1], rewards=[1.0]))
    expected = torch.tensor([[-0.0133333, -0.0033333, 0.0166667]], dtype=torch.float64) / 0.000155566**0.5
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    certify("reinforce_pp", "golden", found, expected)


@pytest.mark.maths
def test_without_a_kl_every_token_has_the_whitened_reward_of_its_row(certify: Certify) -> None:
    """R = [1, 0, 0] of one token each: mean 1/3, biased variance 2/9: (2/3, -1/3, -1/3) / .471405."""
    found = advantages_of(ReinforcePP(beta=0), rows([0.5], [0.5], [0.5], rewards=[1.0, 0.0, 0.0]))
    expected = torch.tensor([[2 / 3], [-1 / 3], [-1 / 3]], dtype=torch.float64) / (2 / 9) ** 0.5
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    certify("reinforce_pp", "golden", found, expected)


@pytest.mark.maths
def test_tokens_of_a_tool_and_rows_without_a_reward_earn_nothing_and_are_not_counted() -> None:
    """The tool's token has a KL of 9, the last row no reward: the first row's [.98, .99, 1.01] are whitened alone."""
    batch = rows([0.1, 9.0, 0.2, -0.1], [5.0] * 4, rewards=[1.0, NAN])
    batch = replace(batch, loss_mask=torch.tensor([[True, False, True, True], [True] * 4]))
    found = advantages_of(ReinforcePP(beta=0.1), batch)
    alone = advantages_of(ReinforcePP(beta=0.1), rows([0.1, 0.2, -0.1], rewards=[1.0]))
    torch.testing.assert_close(found[0, [0, 2, 3]], alone[0])
    assert not found[0, 1]
    assert not found[1].any()


@pytest.mark.maths
def test_with_a_baseline_one_std_of_what_is_left_scales_the_whole_rollout(certify: Certify) -> None:
    """R = [1,0,0,1 | 1,1,1,0]: centred +-.5 and .25, .25, .25, -.75; sum of squares 1.75, over 7: std .5.

    Not `scale_rewards: batch`, which divides by the std .517549 of the raw rewards.
    """
    batch = rows(*[[0.0]] * 8, rewards=[1.0, 0, 0, 1, 1, 1, 1, 0])
    batch = replace(batch, group_of=torch.tensor([0] * 4 + [1] * 4))
    found = advantages_of(ReinforcePPBaseline(), batch)[:, 0]
    expected = torch.tensor([1, -1, -1, 1, 0.5, 0.5, 0.5, -1.5], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    certify("reinforce_pp_baseline", "golden", found, expected)
    other = advantages_of(GRPO(scale_rewards="batch"), batch)[:, 0]
    assert float(other[0]) == pytest.approx(0.965905, abs=1e-5)


@pytest.mark.maths
def test_an_unscored_row_is_not_in_the_std(certify: Certify) -> None:
    """R = [1, 0, None | 1, 0, None]: centred +-.5 of four rows, std sqrt(1 / 3)."""
    batch = rows(*[[0.0]] * 6, rewards=[1.0, 0.0, NAN, 1.0, 0.0, NAN])
    batch = replace(batch, group_of=torch.tensor([0] * 3 + [1] * 3))
    found = advantages_of(ReinforcePPBaseline(), batch)[:, 0]
    wanted = torch.tensor([0.5, -0.5, 0, 0.5, -0.5, 0], dtype=torch.float64) / (1 / 3) ** 0.5
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    certify("reinforce_pp_baseline", "golden", found, wanted)


@pytest.mark.maths
def test_rewards_equal_up_to_noise_give_almost_no_advantage() -> None:
    batch = replace(rows(*[[0.0]] * 4, rewards=[1, 1 + 1e-7, 1, 1]), group_of=torch.zeros(4, dtype=torch.long))
    assert advantages_of(ReinforcePPBaseline(), batch).abs().max() < 1e-2
    assert advantages_of(ReinforcePP(beta=0), batch).abs().max() < 1e-2


# what it is made of


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_reward_to_go_is_gae_without_a_critic(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = random_batch(generator, prompts=4).loss_mask
    rewards = torch.randn(mask.shape, generator=generator, dtype=torch.float64)
    nothing = torch.zeros_like(rewards)
    expected = advantages.gae(rewards, nothing, nothing[:, 0], mask, gamma=1.0, lam=1.0)
    torch.testing.assert_close(advantages.reward_to_go(rewards, mask), expected, atol=1e-12, rtol=0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_advantages_have_mean_0_and_variance_1_over_the_trained_tokens(seed: int) -> None:
    batch, _ = batch_and_logps(seed, None, torch.float64)
    found = advantages_of(ReinforcePP(beta=0.1), batch)[batch.loss_mask]
    assert abs(float(found.mean())) < 1e-9
    assert float(found.var(correction=0)) == pytest.approx(1, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_first_update_is_reinforce_and_clips_nothing(seed: int) -> None:
    """On the weights that sampled d loss / d log pi_t = - A_t / tokens."""
    algorithm = ReinforcePP()
    batch, logps = batch_and_logps(seed, None, torch.float64)
    batch = algorithm.credit(replace(batch, old_logps=logps), {})[0]
    assert batch.advantages is not None
    _, gradient = ours(algorithm, batch, logps)
    torch.testing.assert_close(gradient, -batch.advantages / batch.loss_mask.sum())
    shown = values(algorithm.loss(batch, Outputs(logps=logps, readouts={"entropy": torch.zeros_like(logps)})).metrics)
    assert shown["clip_ratio/region_mean"] == 0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_what_is_not_trained_changes_nothing(seed: int) -> None:
    algorithm = ReinforcePP(beta=0.1)
    batch, logps = batch_and_logps(seed, None, torch.float64)
    trained = random_batch(torch.Generator().manual_seed(seed), rows=(2, 4), length=(1, 9)).loss_mask
    batch = replace(batch, loss_mask=trained)
    assert batch.old_logps is not None
    assert batch.ref_logps is not None
    spoilt = replace(
        batch,
        old_logps=batch.old_logps.masked_fill(~trained, NAN),
        ref_logps=batch.ref_logps.masked_fill(~trained, NAN),
    )
    batch, spoilt = algorithm.credit(batch, {})[0], algorithm.credit(spoilt, {})[0]
    torch.testing.assert_close(spoilt.advantages, batch.advantages, atol=0, rtol=0)
    loss, gradient = ours(algorithm, batch, logps)
    other, found = ours(algorithm, spoilt, logps)
    assert other == loss
    torch.testing.assert_close(found[trained], gradient[trained], atol=0, rtol=0)


@pytest.mark.maths
@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"), [(1.25, 1.0, -1.2), (0.7, 1.0, -0.7), (0.7, -1.0, 0.8), (1.5, -1.0, 1.5)]
)
def test_the_clip_is_that_of_ppo(ratio: float, advantage: float, loss: float, certify: Certify) -> None:
    """Bounds .8 and 1.2: a gain stops counting at the bound, a loss is never cut."""
    batch = rows([0.0], rewards=[0.0])
    batch = replace(batch, advantages=torch.full((1, 1), advantage, dtype=torch.float64))
    assert batch.old_logps is not None
    moved = float(torch.tensor(ratio, dtype=torch.float64).log())
    found, _ = ours(ReinforcePP(), batch, batch.old_logps + moved)
    assert float(found) == pytest.approx(loss)
    certify("reinforce_pp", "golden", found, loss)


def test_a_truncated_completion_is_left_out_where_it_is_masked() -> None:
    """Its reward, its KL and its tokens: the others are whitened without it."""
    batch = replace(
        rows([0.1, 0.2], [0.3, 0.4], [0.2, 0.2], rewards=[1.0, 5.0, 0.0]),
        truncated=torch.tensor([False, True, False]),
    )
    found = advantages_of(ReinforcePP(beta=0.1, mask_truncated_completions=True), batch)
    alone = advantages_of(ReinforcePP(beta=0.1), rows([0.1, 0.2], [0.2, 0.2], rewards=[1.0, 0.0]))
    torch.testing.assert_close(found[[0, 2]], alone)
    assert not found[1].any()


@pytest.mark.maths
def test_the_kl_that_is_paid_for_is_shown_once_a_rollout() -> None:
    """k1 sums .3 and .4 over scored rows: mean .35; `kl` of the loss is k3."""
    batch = rows([0.1, 0.2], [0.2, 0.2], [9.0, 9.0], rewards=[1.0, 0.0, NAN])
    algorithm = ReinforcePP(beta=0.1)
    shown = values(algorithm.rollout_metrics(algorithm.credit(batch, {})[0], {}))
    assert shown == {"kl/sequence_sum": pytest.approx(0.35)}
    assert not ReinforcePP(beta=0).rollout_metrics(batch, {})
    assert "reference" in algorithm.needs()
    assert "reference" not in ReinforcePP(beta=0).needs()


@pytest.mark.maths
@pytest.mark.parametrize("seed", range(3))
def test_the_kl_of_tokens_to_come_has_the_gradient_of_the_kl_of_completions(seed: int, certify: Certify) -> None:
    """By enumeration of all answers of two tokens out of three, before whitening, beta 1 and no reward.

    A token earns - k1 of itself and what follows; what came before it would be a constant, and is left out.
    """
    generator = torch.Generator().manual_seed(seed)
    start, reference = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    answers = torch.cartesian_prod(torch.arange(3), torch.arange(3))

    def logps_of(logits: torch.Tensor) -> torch.Tensor:
        tables = logits.log_softmax(-1)
        return torch.stack([tables[0][answers[:, 0]], tables[1 + answers[:, 0], answers[:, 1]]], 1)

    leaf = start.clone().requires_grad_()
    logps, other = logps_of(leaf), logps_of(reference)
    credit = advantages.reward_to_go(-maths.k1(logps, other).detach(), torch.ones(9, 2).bool())
    found = torch.autograd.grad(-(logps_of(start).sum(1).exp()[:, None] * credit * logps).sum(), leaf)[0]
    exact = torch.autograd.grad((logps_of(leaf).sum(1).exp() * (logps_of(leaf) - other).sum(1)).sum(), leaf)[0]
    torch.testing.assert_close(found, exact, atol=1e-12, rtol=0)
    certify("reinforce_pp", "golden", found, exact)
