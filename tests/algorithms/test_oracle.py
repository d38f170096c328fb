"""Losses and gradients equal TRL 1.16's own code on the same tokens."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest
import torch

from helpers.certificate import Certify
from helpers.losses import DTYPES, SEEDS, assert_same, batch_and_logps, ours, theirs
from helpers.trl import trl_dpo, trl_grpo, trl_stub
from rung.algorithms.dapo import DAPO
from rung.algorithms.dpo import DPO
from rung.algorithms.grpo import GRPO, DrGRPO
from rung.algorithms.ppo import PPO
from rung.algorithms.reinforce_pp import ReinforcePP, ReinforcePPBaseline
from rung.algorithms.sft import SFT

pytestmark = pytest.mark.oracle


@DTYPES
@SEEDS
@pytest.mark.parametrize(
    ("algorithm", "loss_type"),
    [
        (GRPO(), "grpo"),
        (GRPO(beta=0.0, epsilon_high=0.3), "grpo"),
        (GRPO(delta=2.5), "grpo"),
        (DrGRPO(), "dr_grpo"),
        (DrGRPO(beta=0.1), "dr_grpo"),
        (DAPO(), "dapo"),
        (DAPO(beta=0.02), "dapo"),
    ],
    ids=["grpo", "grpo-no-kl", "grpo-delta", "dr_grpo", "dr_grpo-kl", "dapo", "dapo-kl"],
)
def test_grpo_family(algorithm: GRPO, loss_type: str, seed: int, dtype: torch.dtype, certify: Certify) -> None:
    batch, logps = batch_and_logps(seed, None, dtype)
    batch = algorithm.credit(batch, {})[0]
    both = assert_same(
        ours(algorithm, batch, logps), theirs(trl_grpo(batch, loss_type, algorithm), batch, logps), dtype
    )
    certify(algorithm.name, "oracle", *both)


@DTYPES
@SEEDS
@pytest.mark.parametrize(
    "algorithm",
    [ReinforcePP(), ReinforcePPBaseline(beta=0), PPO(), PPO(delta=1.5)],
    ids=["reinforce_pp", "reinforce_pp_baseline", "ppo", "ppo-delta"],
)
def test_the_clip_of_tokens_with_advantages_of_their_own(
    algorithm: ReinforcePP | ReinforcePPBaseline | PPO, seed: int, dtype: torch.dtype, certify: Certify
) -> None:
    """TRL has neither PPO nor REINFORCE++; given advantages by token, its mean over tokens is their policy term.

    The critic foresaw what came, so PPO's value term is 0.
    """
    batch, logps = batch_and_logps(seed, None, dtype)
    noise = torch.randn(logps.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    nothing = torch.zeros_like(logps)
    batch = replace(batch, advantages=noise * batch.loss_mask, values=nothing, returns=nothing)
    peer = GRPO(epsilon=algorithm.epsilon, delta=getattr(algorithm, "delta", None), beta=0)
    wanted = theirs(trl_grpo(batch, "dapo", peer, by_token=True), batch, logps)
    certify(algorithm.name, "oracle", *assert_same(ours(algorithm, batch, logps), wanted, dtype))


@DTYPES
@SEEDS
@pytest.mark.parametrize(
    "algorithm",
    [
        DPO(),
        DPO(loss_type="ipo", beta=0.3),
        DPO(loss_type="hinge"),
        DPO(loss_type="sft"),
        DPO(loss_type=("sigmoid", "sft"), loss_weights=(1.0, 0.7)),
        DPO(loss_type=("ipo", "hinge", "sft"), loss_weights=(0.2, 0.3, 0.5)),
    ],
    ids=["sigmoid", "ipo", "hinge", "sft", "sigmoid+sft", "ipo+hinge+sft"],
)
def test_dpo(algorithm: DPO, seed: int, dtype: torch.dtype, certify: Certify) -> None:
    batch, logps = batch_and_logps(seed, 2, dtype)
    both = assert_same(ours(algorithm, batch, logps), theirs(trl_dpo(batch, algorithm), batch, logps), dtype)
    certify("dpo", "oracle", *both)


@DTYPES
@SEEDS
@pytest.mark.parametrize("loss_type", ["nll", "dft"])
def test_sft(loss_type: Literal["nll", "dft"], seed: int, dtype: torch.dtype, certify: Certify) -> None:
    from trl.trainer.sft_trainer import SFTTrainer

    batch, logps = batch_and_logps(seed, None, dtype)

    def loss(leaf: torch.Tensor) -> torch.Tensor:
        log_probs = leaf * batch.loss_mask
        nothing = torch.zeros_like(log_probs)

        def model(**_: Any) -> Any:
            return SimpleNamespace(
                log_probs=log_probs, label_mask=batch.loss_mask, entropy=nothing, is_top1=nothing.bool()
            )

        args = SimpleNamespace(loss_type=loss_type, average_tokens_across_devices=False)
        me = trl_stub(compute_loss_func=None, label_smoother=None, args=args)
        inputs = {
            "input_ids": batch.completion_ids,
            "attention_mask": batch.completion_mask,
            "labels": batch.completion_ids,
        }
        return SFTTrainer.compute_loss(me, cast(Any, model), inputs, num_items_in_batch=batch.loss_mask.sum())

    both = assert_same(ours(SFT(loss_type=loss_type), batch, logps), theirs(loss, batch, logps), dtype)
    certify("sft", "oracle", *both)


@pytest.mark.maths
def test_label_smoothing_acts_on_sigmoid_which_trl_ignores(certify: Certify) -> None:
    """cDPO by hand: d = .8, beta .1, epsilon .1: .9 x .653947 + .1 x .733947 = .661947; TRL gives .653947."""
    batch, _ = batch_and_logps(0, 2, torch.float64)
    batch = batch.select(torch.tensor([0, 1]))
    assert batch.ref_logps is not None
    wanted = torch.tensor([[0.5], [-0.3]], dtype=torch.float64)
    first = torch.zeros_like(batch.loss_mask)
    first[:, 0] = True
    logps = batch.ref_logps + wanted * first
    loss, _ = ours(DPO(label_smoothing=0.1), batch, logps)
    assert float(loss) == pytest.approx(0.661947, abs=1e-5)
    certify("dpo", "golden", loss, 0.661947)
