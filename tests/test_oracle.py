"""Losses and gradients equal TRL 1.16's own code on the same tokens.

TRL's unbound methods run on a stub that carries only what they read. Log-probs are leaves, so a gradient is the whole
derivative of the loss by each token. TRL aligns with `input_ids`: a column of one prompt token stands before ours.
"""

import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest
import torch
from certificate import Certify
from support import random_batch

from rung.algorithm import Algorithm
from rung.algorithms.dapo import DAPO
from rung.algorithms.dpo import DPO
from rung.algorithms.grpo import GRPO, DrGRPO
from rung.algorithms.ppo import PPO
from rung.algorithms.reinforce_pp import ReinforcePP, ReinforcePPBaseline
from rung.algorithms.sft import SFT
from rung.batch import Batch, Outputs, count

pytestmark = pytest.mark.oracle
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
Result = tuple[torch.Tensor, torch.Tensor]


def same(value: Any, *_: Any, **__: Any) -> Any:
    return value


class Untouched(torch.nn.Module):
    is_gradient_checkpointing = False


def trl_stub(**more: Any) -> Any:
    ranks = SimpleNamespace(
        num_processes=1, device="cpu", gather=same, reduce=same, gather_for_metrics=same, parallelism_config=None
    )
    return SimpleNamespace(
        accelerator=ranks,
        model=Untouched(),
        aux_loss_enabled=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **more,
    )


def drawn(seed: int, group: int | None, dtype: torch.dtype) -> tuple[Batch, torch.Tensor]:
    """A batch whose completions are trained throughout, and log-probs near its old and reference ones."""
    generator = torch.Generator().manual_seed(seed)
    batch = random_batch(generator, prompts=3, rows=(2, 4), length=(1, 9), group=group)
    shape = batch.completion_ids.shape
    logps = -torch.rand(shape, generator=generator, dtype=torch.float64) * 3
    old = logps + 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    ref = logps + 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    batch = replace(
        batch,
        loss_mask=batch.completion_mask,
        old_logps=old.to(dtype),
        ref_logps=ref.to(dtype),
        rewards=torch.randn(batch.num_rows, generator=generator, dtype=torch.float64).to(dtype),
        max_completion_length=11,
    )
    return batch, logps.to(dtype)


def ours(algorithm: Algorithm, batch: Batch, logps: torch.Tensor, **readouts: torch.Tensor) -> Result:
    leaf = logps.clone().requires_grad_()
    nothing = torch.zeros_like(logps)
    outputs = Outputs(
        logps=leaf,
        readouts={"entropy": nothing, "top_logp": nothing, **readouts},
        values=nothing if "values" in algorithm.requires() else None,
    )
    loss = algorithm.loss(batch, outputs).over(count(algorithm.units(), batch))
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad * batch.loss_mask


def theirs(loss: Callable[[torch.Tensor], torch.Tensor], batch: Batch, logps: torch.Tensor) -> Result:
    leaf = logps.clone().requires_grad_()
    value = loss(leaf)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad * batch.loss_mask


def equal(mine: Result, other: Result, dtype: torch.dtype) -> tuple[Result, Result]:
    """Both of them, which agree."""
    bound = 1e-6 if dtype == torch.float32 else 1e-12
    assert abs(float(mine[0]) - float(other[0])) < bound * max(1.0, abs(float(other[0])))
    torch.testing.assert_close(mine[1], other[1], atol=bound, rtol=bound)
    return mine, other


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
SEEDS = pytest.mark.parametrize("seed", range(4))


def trl_grpo(
    batch: Batch, loss_type: str, algorithm: GRPO, *, by_token: bool = False
) -> Callable[[torch.Tensor], torch.Tensor]:
    from trl.trainer.grpo_trainer import GRPOTrainer

    # One advantage a row: there TRL's `sequence` is `sequence_token` too, in value and gradient.
    level = "token" if algorithm.importance_sampling_level == "token" else "sequence"
    rows = torch.ones(batch.num_rows, 1, dtype=torch.long)
    assert batch.advantages is not None
    advantages = batch.advantages if by_token else batch.advantages[:, 0]

    def loss(logps: torch.Tensor) -> torch.Tensor:
        me = trl_stub(
            _get_per_token_logps_and_entropies=lambda *_, **__: (logps, torch.zeros_like(logps), None),
            loss_type=loss_type,
            importance_sampling_level=level,
            epsilon_low=algorithm.epsilon,
            epsilon_high=algorithm.upper,
            beta=algorithm.beta,
            max_completion_length=batch.max_completion_length,
            current_gradient_accumulation_steps=1,
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            use_vllm=False,
            vllm_importance_sampling_correction=False,
            _entropy_bonus_enabled=False,
            args=SimpleNamespace(delta=algorithm.delta, use_bias_correction_kl=True, steps_per_generation=1),
        )
        inputs = {
            "prompt_ids": rows,
            "prompt_mask": rows,
            "completion_ids": batch.completion_ids,
            "completion_mask": batch.loss_mask.long(),
            "advantages": advantages,
            "old_per_token_logps": batch.old_logps,
            "ref_per_token_logps": batch.ref_logps,
            "num_items_in_batch": batch.loss_mask.sum(),
        }
        return GRPOTrainer._compute_loss(me, None, inputs)

    return loss


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
    batch, logps = drawn(seed, None, dtype)
    batch = algorithm.credit(batch, {})[0]
    both = equal(ours(algorithm, batch, logps), theirs(trl_grpo(batch, loss_type, algorithm), batch, logps), dtype)
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
    batch, logps = drawn(seed, None, dtype)
    noise = torch.randn(logps.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    nothing = torch.zeros_like(logps)
    batch = replace(batch, advantages=noise * batch.loss_mask, values=nothing, returns=nothing)
    peer = GRPO(epsilon=algorithm.epsilon, delta=getattr(algorithm, "delta", None), beta=0)
    wanted = theirs(trl_grpo(batch, "dapo", peer, by_token=True), batch, logps)
    certify(algorithm.name, "oracle", *equal(ours(algorithm, batch, logps), wanted, dtype))


def sided(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor[::2], tensor[1::2]])  # TRL: all chosen, then all rejected


def trl_dpo(
    batch: Batch, algorithm: DPO, log_sum_sq_probs: torch.Tensor | None = None
) -> Callable[[torch.Tensor], torch.Tensor]:
    from trl.trainer.dpo_trainer import DPOTrainer

    mask = sided(batch.loss_mask).long()
    assert batch.ref_logps is not None
    ref = sided(batch.ref_logps) * mask
    kinds = [algorithm.loss_type] if isinstance(algorithm.loss_type, str) else list(algorithm.loss_type)

    def loss(logps: torch.Tensor) -> torch.Tensor:
        log_probs = sided(logps) * mask
        nothing = torch.zeros_like(log_probs)

        def model(**_: Any) -> Any:
            return SimpleNamespace(
                log_probs=log_probs,
                entropy=nothing,
                mean_logits=nothing,
                is_top1=nothing.bool(),
                log_sum_sq_probs=None if log_sum_sq_probs is None else sided(log_sum_sq_probs),
            )

        me = trl_stub(
            ld_alpha=algorithm.ld_alpha,
            precompute_ref_logps=False,
            ref_model=lambda **_: SimpleNamespace(log_probs=ref),
            f_divergence_type=algorithm.f_divergence_type,
            f_alpha_divergence_coef=algorithm.f_alpha_divergence_coef,
            loss_types=kinds,
            loss_weights=list(algorithm.loss_weights or [1.0] * len(kinds)),
            beta=algorithm.beta,
            label_smoothing=algorithm.label_smoothing,
            use_weighting=algorithm.use_weighting,
            args=SimpleNamespace(gradient_checkpointing_kwargs=None, discopop_tau=algorithm.discopop_tau),
        )
        ones = torch.ones(len(mask), 1, dtype=torch.long)
        inputs = {
            "input_ids": torch.cat([ones, sided(batch.completion_ids)], 1),
            "attention_mask": torch.cat([ones, mask], 1),
            "completion_mask": torch.cat([0 * ones, mask], 1),
        }
        return DPOTrainer._compute_loss(me, model, inputs, False)

    return loss


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
    batch, logps = drawn(seed, 2, dtype)
    both = equal(ours(algorithm, batch, logps), theirs(trl_dpo(batch, algorithm), batch, logps), dtype)
    certify("dpo", "oracle", *both)


@DTYPES
@SEEDS
@pytest.mark.parametrize("loss_type", ["nll", "dft"])
def test_sft(loss_type: Literal["nll", "dft"], seed: int, dtype: torch.dtype, certify: Certify) -> None:
    from trl.trainer.sft_trainer import SFTTrainer

    batch, logps = drawn(seed, None, dtype)

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

    both = equal(ours(SFT(loss_type=loss_type), batch, logps), theirs(loss, batch, logps), dtype)
    certify("sft", "oracle", *both)


@pytest.mark.maths
def test_label_smoothing_acts_on_sigmoid_which_trl_ignores(certify: Certify) -> None:
    """cDPO by hand: d = .8, beta .1, epsilon .1: .9 x .653947 + .1 x .733947 = .661947; TRL gives .653947."""
    batch, _ = drawn(0, 2, torch.float64)
    batch = batch.select(torch.tensor([0, 1]))
    assert batch.ref_logps is not None
    wanted = torch.tensor([[0.5], [-0.3]], dtype=torch.float64)
    first = torch.zeros_like(batch.loss_mask)
    first[:, 0] = True
    logps = batch.ref_logps + wanted * first
    loss, _ = ours(DPO(label_smoothing=0.1), batch, logps)
    assert float(loss) == pytest.approx(0.661947, abs=1e-5)
    certify("dpo", "golden", loss, 0.661947)
