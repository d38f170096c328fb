"""RLOO: numbers derived by hand, TRL's trainer with its KL in the reward, and what its settings allow."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.batches import random_batch
from helpers.certificate import Certify
from helpers.group_relative import GROUP, LIMIT
from helpers.losses import assert_same, ours, theirs
from helpers.trl import trl_stub
from rung.algorithms.grpo import GRPO
from rung.algorithms.rloo import RLOO
from rung.batch import Batch
from rung.maths import advantages
from rung.maths import tensors as maths

NAN = float("nan")


def rollout(*, unscored: bool = False, seed: int = 0) -> Batch:
    """Groups of four, every third row cut off by the limit, the others ended by token 1."""
    generator = torch.Generator().manual_seed(seed)
    batch = random_batch(generator, prompts=3, rows=(GROUP, GROUP), length=(1, 9))
    truncated = torch.arange(batch.num_rows) % 3 == 0
    last = torch.zeros_like(batch.loss_mask).scatter(1, batch.lengths[:, None] - 1, True)
    rewards = torch.rand(batch.num_rows, generator=generator, dtype=torch.float64)
    if unscored:
        rewards[[1, 4, 5]] = NAN
    shape = batch.completion_ids.shape
    old = -torch.rand(shape, generator=generator, dtype=torch.float64) * 3 * batch.completion_mask
    return replace(
        batch,
        completion_ids=torch.where(last & ~truncated[:, None], 1, batch.completion_ids),
        loss_mask=batch.completion_mask,
        truncated=truncated,
        rewards=rewards,
        max_completion_length=LIMIT,
        old_logps=old,
        ref_logps=old + 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64) * batch.completion_mask,
    )


def rolled_by_trl(batch: Batch, trainer: Any) -> dict[str, Any]:
    """What TRL's trainer makes of the rollout before its loss; sampling, rewards and log-probs are given, float64."""
    rows = [ids[mask].tolist() for ids, mask in zip(batch.completion_ids, batch.completion_mask, strict=True)]
    assert batch.rewards is not None
    rewards = batch.rewards[:, None]

    def logps(model: Any, *_: Any, **__: Any) -> Any:
        return (batch.ref_logps if model == "reference" else batch.old_logps), None, None

    trainer.ref_model = "reference"
    trainer._generate_single_turn = lambda *_: rows
    trainer._get_per_token_logps_and_entropies = logps
    trainer._calculate_rewards = lambda *_: rewards
    return trainer._generate_and_score_completions([{"prompt": "a"}] * len(rows))


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("unscored", [False, True], ids=["scored", "unscored"])
@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_advantage_loss_and_gradient_equal_trl(
    masked: bool,
    beta: float,
    unscored: bool,
    dtype: torch.dtype,
    trl_rloo_trainer: Any,
    certify: Certify,
) -> None:
    """With one exception: a row that is masked because it was cut off pays for its KL, which lifts the baseline.

    TRL counts its KL as 0 and its ratio as 1: the others are held against a reward that nothing was taken off, and
    - A of that row, a constant without a gradient, is added to the loss.
    """
    trainer = trl_rloo_trainer
    trainer.beta, trainer.mask_truncated_completions = beta, masked
    batch = rollout(unscored=unscored)
    assert batch.rewards is not None
    assert batch.truncated is not None
    assert batch.old_logps is not None
    assert batch.ref_logps is not None
    given = batch
    if masked and beta:
        kl = maths.masked_sum(maths.k1(batch.old_logps, batch.ref_logps), batch.loss_mask)
        given = replace(batch, rewards=batch.rewards - beta * torch.where(batch.truncated, kl, 0))
    rolled = rolled_by_trl(given, trainer)
    algorithm = RLOO(beta=beta, epsilon=0.1, mask_truncated_completions=masked)
    credited = algorithm.credit(batch, {})[0]
    seen = rolled["completion_mask"].bool()
    assert torch.equal(credited.loss_mask, seen)
    assert credited.advantages is not None
    torch.testing.assert_close(credited.advantages, rolled["advantages"][:, None] * seen, atol=1e-12, rtol=0)
    noise = torch.randn(batch.old_logps.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logps = (batch.old_logps + 0.05 * noise).to(dtype)
    typed = {name: getattr(credited, name).to(dtype) for name in ("advantages", "old_logps", "ref_logps")}
    credited = replace(credited, **typed)
    dead = rolled["advantages"][~seen.any(1)].to(dtype)

    def loss(leaf: torch.Tensor) -> torch.Tensor:
        from trl.trainer.rloo_trainer import RLOOTrainer

        me = trl_stub(
            _get_per_token_logps_and_entropies=lambda *_, **__: (leaf, torch.zeros_like(leaf), None),
            epsilon_low=0.1,
            epsilon_high=0.1,
        )
        inputs = {
            **{name: rolled[name] for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")},
            "advantages": rolled["advantages"].to(dtype),
            "old_logps": rolled["old_logps"].to(dtype),
        }
        return RLOOTrainer._compute_loss(me, None, inputs) + dead.sum() / batch.num_rows

    certify("rloo", "oracle", *assert_same(ours(algorithm, credited, logps), theirs(loss, credited, logps), dtype))


# derived by hand


def group(*rewards: float) -> Batch:
    batch = random_batch(torch.Generator().manual_seed(0), prompts=1, rows=(len(rewards), len(rewards)), length=(3, 3))
    old = torch.full((len(rewards), 3), -2.0, dtype=torch.float64)
    return replace(
        batch,
        loss_mask=batch.completion_mask,
        old_logps=old,
        ref_logps=old,
        rewards=torch.tensor(rewards, dtype=torch.float64),
    )


@pytest.mark.maths
@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1, 0, 0, 1], [2 / 3, -2 / 3, -2 / 3, 2 / 3]),
        ([1, 0, 0, 0], [1, -1 / 3, -1 / 3, -1 / 3]),
        ([1, NAN, 0, 1], [0.5, 0, -1, 0.5]),
        ([1, NAN, NAN, NAN], [0, 0, 0, 0]),
    ],
)
def test_a_sample_is_held_against_the_mean_of_the_others(
    rewards: list[float], expected: list[float], certify: Certify
) -> None:
    """[1,0,0,1]: 1 - 1/3; [1,0,0,0]: 1 - 0 and 0 - 1/3; an unscored row is no other; alone there is nothing to say."""
    credited = RLOO().credit(group(*rewards), {})[0]
    assert credited.advantages is not None
    torch.testing.assert_close(credited.advantages[:, 0], torch.tensor(expected, dtype=torch.float64))
    certify("rloo", "golden", credited.advantages[:, 0], expected)


@pytest.mark.maths
@pytest.mark.parametrize(("advantage", "loss"), [(1.0, -1.015113), (-1.0, 1.015113)])
def test_the_ratio_of_a_completion_is_the_product_of_its_tokens(
    advantage: float, loss: float, certify: Certify
) -> None:
    """Delta = [.02, -.01, .005]: sum .015, c = 1.015113; d loss / d log pi_t = - c A for every token of the row."""
    batch = group(0.0)
    batch = replace(batch, advantages=torch.full((1, 3), advantage, dtype=torch.float64))
    assert batch.old_logps is not None
    found, gradient = ours(RLOO(), batch, batch.old_logps + torch.tensor([[0.02, -0.01, 0.005]]))
    assert float(found) == pytest.approx(loss, abs=1e-6)
    torch.testing.assert_close(gradient, torch.full_like(gradient, loss), atol=1e-6, rtol=0)
    certify("rloo", "golden", [found, gradient], [loss, torch.full_like(gradient, loss)])


@pytest.mark.maths
def test_a_summed_log_ratio_beyond_20_is_taken_as_20() -> None:
    """500 and -497 sum to 3, c = e^3 = 20.085537; 60 and 20 to 80, taken as 20, where no gradient is left."""
    old = torch.zeros(1, 2, dtype=torch.float64)
    mask = torch.ones(1, 2).bool()
    for moved, expected in (([500.0, -497.0], 3.0), ([60.0, 20.0], 20.0), ([-60.0, -20.0], -20.0)):
        assert float(maths.summed_log_ratio(torch.tensor([moved], dtype=torch.float64), old, mask)) == expected


# properties


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8))
def test_leave_one_out_is_the_centred_reward_times_g_over_g_minus_1(rewards: list[float]) -> None:
    values = torch.tensor(rewards, dtype=torch.float64)
    groups = torch.zeros(len(rewards), dtype=torch.long)
    found = advantages.leave_one_out(advantages.centre(values, groups), values, groups)
    others = torch.stack([values - (values.sum() - value) / (len(rewards) - 1) for value in values]).diagonal()
    torch.testing.assert_close(found, others, atol=1e-9, rtol=0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_kl_changes_advantages_and_nothing_else(seed: int) -> None:
    """With the same advantages, loss and gradient are the same whatever `beta` is: the KL is in the reward."""
    batch = RLOO(beta=0.4).credit(rollout(seed=seed), {})[0]
    assert batch.old_logps is not None
    logps = batch.old_logps + 0.1
    for found, expected in zip(ours(RLOO(beta=0.4), batch, logps), ours(RLOO(beta=0), batch, logps), strict=True):
        torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_rows_without_an_advantage_are_not_computed_though_there_is_a_kl() -> None:
    """The KL is paid for in the reward, so a row that is no better than the others teaches nothing."""
    batch = RLOO(beta=0.1).credit(group(1.0, 1.0, 1.0), {})[0]
    assert not RLOO(beta=0.1).active_rows(batch).any()
    assert GRPO(beta=0.1).active_rows(batch).all()
