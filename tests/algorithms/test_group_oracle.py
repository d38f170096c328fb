"""The product of advantage, ratio, objective, reduction and KL: TRL 1.16's own code on the same tokens, cell by cell.

A rollout is scored by a real trainer of TRL, whose own sampling, rewards and log-probs are given; its loss runs on a
stub that carries only what it reads. Where a cell is another number than TRL's, the test says which and why.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from helpers.certificate import Certify
from helpers.group_relative import (
    BETA,
    EPSILON,
    EPSILON_HIGH,
    LIMIT,
    LOSS_TYPES,
    group_algorithm,
    random_rollout,
)
from helpers.losses import assert_same, batch_and_logps, ours, theirs
from helpers.trl import trl_stub
from rung.algorithms.gmpo import GMPO
from rung.algorithms.shared.options import KLEstimator, Level, Scale
from rung.batch import Batch

SCALES: tuple[Scale, ...] = ("group", "batch", "none")
PENALTIES: tuple[KLEstimator | None, ...] = (None, "rho_k3", "k3")


def rolled_by_trl(batch: Batch, trainer: Any) -> dict[str, Any]:
    """What TRL's trainer makes of the rollout before its loss; rewards in float64."""
    rows = [ids[mask].tolist() for ids, mask in zip(batch.completion_ids, batch.completion_mask, strict=True)]
    tools = [known[mask].long().tolist() for known, mask in zip(batch.loss_mask, batch.completion_mask, strict=True)]
    sampled = {"prompt_ids": [[7]] * len(rows), "completion_ids": rows, "logprobs": [[0.0] * len(row) for row in rows]}
    sampled["env_mask"] = tools
    assert batch.rewards is not None
    rewards = batch.rewards[:, None]
    trainer.rollout_func = lambda prompts, trainer: sampled
    trainer._calculate_rewards = lambda *_: rewards
    return trainer._generate_and_score_completions([{"prompt": "a"}] * len(rows))


def trl_loss(
    logps: torch.Tensor, batch: Batch, rolled: dict[str, Any], loss_type: str, level: str, penalty: KLEstimator | None
) -> torch.Tensor:
    from trl.trainer.grpo_trainer import GRPOTrainer

    args = SimpleNamespace(
        delta=None,
        use_bias_correction_kl=penalty == "rho_k3",
        steps_per_generation=1,
        sapo_temperature_pos=1.0,
        sapo_temperature_neg=1.05,
        vespo_k_pos=2.0,
        vespo_lambda_pos=3.0,
        vespo_k_neg=3.0,
        vespo_lambda_neg=2.0,
    )
    me = trl_stub(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, torch.zeros_like(logps), None),
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon_low=EPSILON,
        epsilon_high=1.2 if loss_type == "cispo" else EPSILON_HIGH,
        beta=BETA if penalty else 0.0,
        max_completion_length=LIMIT,
        current_gradient_accumulation_steps=1,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        _entropy_bonus_enabled=False,
        args=args,
    )
    inputs = {
        **{key: rolled[key] for key in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")},
        "tool_mask": rolled["tool_mask"],
        "advantages": rolled["advantages"].to(logps.dtype),
        "num_items_in_batch": (rolled["completion_mask"] * rolled["tool_mask"]).sum(),
        "old_per_token_logps": batch.old_logps,
        "ref_per_token_logps": batch.ref_logps,
    }
    return GRPOTrainer._compute_loss(me, None, inputs)


def expected(
    logps: torch.Tensor, batch: Batch, rolled: dict[str, Any], loss_type: str, level: str, penalty: KLEstimator | None
) -> torch.Tensor:
    """TRL's number, but for the KL times the ratio of a whole sequence (trl#6586): ours has that of the token.

    The ratio of a sequence would scale the KL of a token by what its neighbours did. TRL's own numbers of the token
    level give what is added in its place.
    """
    if level == "token" or penalty != "rho_k3":
        return trl_loss(logps, batch, rolled, loss_type, level, penalty)
    added = trl_loss(logps, batch, rolled, loss_type, "token", penalty)
    added = added - trl_loss(logps, batch, rolled, loss_type, "token", None)
    return trl_loss(logps, batch, rolled, loss_type, level, None) + added


def cells() -> Iterator[tuple[Scale, KLEstimator | None, bool, bool, torch.dtype]]:
    return itertools.product(SCALES, PENALTIES, (False, True), (False, True), (torch.float32, torch.float64))


def as_dtype(batch: Batch, dtype: torch.dtype) -> Batch:
    names = ("rewards", "old_logps", "ref_logps", "advantages")
    return replace(batch, **{name: tensor.to(dtype) for name in names if (tensor := getattr(batch, name)) is not None})


@pytest.mark.oracle
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_loss_and_gradient_of_every_cell_equal_trl(
    loss_type: str, level: Level, trl_grpo_trainer: Any, certify: Certify
) -> None:
    """Loss type x ratio level x reward scaling x KL x truncated masking x None rewards, in float32 and float64."""
    if level == "sequence" and loss_type in ("bnpo", "dr_grpo", "dapo"):
        with pytest.raises(ValidationError, match="overweights long completions"):
            group_algorithm(loss_type, level)
        return
    trainer = trl_grpo_trainer
    for scale, penalty, masked, unscored, dtype in cells():
        batch = random_rollout(unscored=unscored)
        trainer.scale_rewards, trainer.mask_truncated_completions = scale, masked
        rolled = rolled_by_trl(batch, trainer)
        beta: dict[str, Any] = {"beta": BETA, "kl_estimator": penalty} if penalty else {"beta": 0}
        algorithm = group_algorithm(loss_type, level, scale_rewards=scale, mask_truncated_completions=masked, **beta)
        assert batch.old_logps is not None
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(batch.old_logps.shape, generator=generator, dtype=torch.float64)
        logps = (batch.old_logps + 0.3 * noise).to(dtype)
        credited = algorithm.credit(batch, {})[0]
        assert credited.advantages is not None
        seen = (rolled["completion_mask"] * rolled["tool_mask"]).bool()
        assert torch.equal(credited.loss_mask, seen)
        advantages = rolled["advantages"][:, None] * seen
        # TRL's n / (n - 1) inside its std is a float32 whatever the rewards are.
        torch.testing.assert_close(credited.advantages, advantages, atol=1e-7 if scale != "none" else 1e-15, rtol=0)
        credited = as_dtype(replace(credited, advantages=advantages), dtype)
        wanted = theirs(
            lambda leaf, b=credited, r=rolled, p=penalty: expected(leaf, b, r, loss_type, level, p), credited, logps
        )
        certify(algorithm.name, "oracle", *assert_same(ours(algorithm, credited, logps), wanted, dtype))


@pytest.mark.oracle
def test_an_unscored_row_leaves_the_denominator_too_where_trl_counts_it(trl_grpo_trainer: Any) -> None:
    """A row without a reward says nothing, so the loss is TRL's of the other rows; TRL divides by all of them.

    `Rollouts` drops the row after credit; here 3 of 12 rows have no reward, and TRL's loss is 9 / 12 of ours.
    """
    batch = random_rollout(unscored=True)
    trainer = trl_grpo_trainer
    trainer.scale_rewards, trainer.mask_truncated_completions = "group", False
    rolled = rolled_by_trl(batch, trainer)
    algorithm = group_algorithm("grpo", "token", beta=0)
    assert batch.rewards is not None
    assert batch.old_logps is not None
    logps = batch.old_logps + 0.05
    credited = algorithm.credit(batch, {})[0]
    kept = ~batch.rewards.isnan()
    scored = credited.select(kept)
    loss, _ = ours(algorithm, scored, logps[kept, : scored.completion_ids.shape[1]])
    assert float(loss) * 9 / 12 == pytest.approx(float(trl_loss(logps, credited, rolled, "grpo", "token", None)))


@pytest.mark.oracle
def test_bnpo_is_a_mean_over_the_step_where_trl_takes_one_of_each_micro_batch(trl_grpo_trainer: Any) -> None:
    """TRL's number depends on how the step is cut; ours is TRL's of the uncut step."""
    batch = random_rollout(unscored=False)
    trainer = trl_grpo_trainer
    trainer.scale_rewards, trainer.mask_truncated_completions = "group", False
    rolled = rolled_by_trl(batch, trainer)
    algorithm = group_algorithm("bnpo", "token", beta=0)
    credited = algorithm.credit(batch, {})[0]
    assert batch.old_logps is not None
    logps = batch.old_logps + 0.05 * torch.arange(batch.num_rows)[:, None]

    def whole(piece: slice) -> float:
        cut = {key: value[piece] for key, value in rolled.items() if torch.is_tensor(value) and value.dim()}
        part = replace(credited, old_logps=batch.old_logps[piece], ref_logps=None)  # type: ignore[index]
        return float(trl_loss(logps[piece], part, cut, "bnpo", "token", None))

    loss = float(ours(algorithm, credited, logps)[0])
    assert loss == pytest.approx(whole(slice(None)))
    assert loss != pytest.approx((whole(slice(0, 6)) + whole(slice(6, None))) / 2, rel=1e-2)


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("penalty", [None, "k3"])
@pytest.mark.parametrize("seed", range(4))
def test_gmpo_equals_trl(seed: int, penalty: KLEstimator | None, dtype: torch.dtype, certify: Certify) -> None:
    """TRL's KL is the plain k3; `rho_k3` is checked as a gradient of the exact KL."""
    from trl.experimental.gmpo.gmpo_trainer import GMPOTrainer

    batch, logps = batch_and_logps(seed, None, dtype)
    beta: dict[str, Any] = {"beta": BETA, "kl_estimator": penalty} if penalty else {}
    algorithm = GMPO(epsilon=0.2, epsilon_high=0.3, **beta)
    batch = algorithm.credit(batch, {})[0]
    assert batch.advantages is not None
    rows = torch.ones(batch.num_rows, 1, dtype=torch.long)
    inputs = {
        "prompt_ids": rows,
        "prompt_mask": rows,
        "completion_ids": batch.completion_ids,
        "completion_mask": batch.loss_mask.long(),
        "advantages": batch.advantages[:, 0],
        "old_per_token_logps": batch.old_logps,
        "ref_per_token_logps": batch.ref_logps,
    }

    def loss(leaf: torch.Tensor) -> torch.Tensor:
        me = trl_stub(
            _get_per_token_logps_and_entropies=lambda *_, **__: (leaf, torch.zeros_like(leaf), None),
            epsilon_low=0.2,
            epsilon_high=0.3,
            beta=algorithm.beta,
            top_entropy_quantile=1.0,
            current_gradient_accumulation_steps=1,
        )
        return GMPOTrainer._compute_loss(me, None, inputs)

    certify("gmpo", "oracle", *assert_same(ours(algorithm, batch, logps), theirs(loss, batch, logps), dtype))
