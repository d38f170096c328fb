"""Drifted rows, tokens of low entropy, an entropy bonus and rewards apart: as TRL 1.16's own code on the same tokens.

Loss and gradient are compared by log-prob and by entropy.
"""

import itertools
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from helpers.batches import random_batch
from helpers.certificate import Certify
from helpers.group_relative import (
    BETA,
    EPSILON,
    EPSILON_HIGH,
    LIMIT,
    LOSS_TYPES,
    by_logp_and_entropy,
    group_algorithm,
    random_rollout,
)
from helpers.losses import Result, assert_same, batch_and_logps
from helpers.trl import trl_stub
from rung.algorithms.grpo import GRPO
from rung.algorithms.shared.group_relative import GroupRelative
from rung.algorithms.shared.options import Level
from rung.batch import Batch

NAN = float("nan")
BONUS = {"entropy_coef": 0.2}
HIGH = {"top_entropy_quantile": 0.3}
DRIFT = {"off_policy_mask_threshold": 0.05}
WEIGHED = {"importance_sampling_correction": "token_truncate", "importance_sampling_clip_max": 1.2}
KL = {"beta": BETA, "kl_estimator": "k3"}
AXES: dict[str, dict[str, Any]] = {
    "bonus": BONUS,
    "high entropy": HIGH,
    "drift": DRIFT,
    "all": BONUS | HIGH | DRIFT | WEIGHED | KL,
}


def given_entropies(batch: Batch, seed: int, dtype: torch.dtype) -> Batch:
    """Entropies that float32 holds, in which TRL finds its quantile, and log-probs of a sampler of its own."""
    generator = torch.Generator().manual_seed(seed)
    assert batch.old_logps is not None
    noise = torch.randn(batch.old_logps.shape, generator=generator, dtype=torch.float64)
    sampled = (batch.old_logps + 0.3 * noise).masked_fill(noise > 2, NAN)
    entropies = 3 * torch.rand(noise.shape, generator=generator)
    return batch.replace_extras(entropies=entropies.to(dtype), sampled_logps=sampled.to(dtype))


def theirs(algorithm: GroupRelative, loss_type: str, level: str, batch: Batch, both: torch.Tensor) -> Result:
    """The same by TRL's own code."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    assert batch.advantages is not None
    leaf = both.clone().requires_grad_()
    rows = torch.ones(batch.num_rows, 1, dtype=torch.long)
    temperatures = {"sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05}
    bump = {"vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0}
    options = {"delta": None, "use_bias_correction_kl": False, "steps_per_generation": 1}
    me = trl_stub(
        _get_per_token_logps_and_entropies=lambda *_, **__: (leaf[0], leaf[1], None),
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon_low=EPSILON,
        epsilon_high=1.2 if loss_type == "cispo" else EPSILON_HIGH,
        beta=algorithm.beta,
        max_completion_length=LIMIT,
        current_gradient_accumulation_steps=1,
        top_entropy_quantile=algorithm.top_entropy_quantile,
        off_policy_mask_threshold=algorithm.off_policy_mask_threshold,
        use_vllm=algorithm.importance_sampling_correction is not None,
        vllm_importance_sampling_correction=True,
        _entropy_bonus_enabled=algorithm.entropy_coef > 0,
        entropy_coef=algorithm.entropy_coef,
        use_adaptive_entropy=False,
        args=SimpleNamespace(**options, **temperatures, **bump),
    )
    me.accelerator.pad_across_processes = lambda tensor, **_: tensor
    me.accelerator.sync_gradients = False
    me.get_high_entropy_mask = partial(GRPOTrainer.get_high_entropy_mask, me)
    inputs = {
        "prompt_ids": rows,
        "prompt_mask": rows,
        "completion_ids": batch.completion_ids,
        "completion_mask": batch.loss_mask.long(),
        "advantages": batch.advantages[:, 0],
        "num_items_in_batch": batch.loss_mask.sum(),
        "old_per_token_logps": batch.old_logps,
        "ref_per_token_logps": batch.ref_logps,
        "sampling_per_token_logps": batch.extras["sampled_logps"],
    }
    if "sampler_weights" in batch.extras:
        inputs["importance_sampling_ratio"] = batch.extras["sampler_weights"]
    loss = GRPOTrainer._compute_loss(me, None, inputs)
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad * batch.loss_mask


@pytest.mark.oracle
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize(
    ("loss_type", "level"),
    [*((kind, "token") for kind in LOSS_TYPES), *((kind, "sequence") for kind in ("grpo", "luspo", "cispo", "sapo"))],
)
def test_loss_and_gradient_equal_trl(loss_type: str, level: Level, axes: str, certify: Certify) -> None:
    """Each axis alone and all at once, with a sampler's weights and a KL: so the order of operations is TRL's.

    Objective x drift x entropy x weight, + beta KL, reduced, - bonus. What is left out keeps its KL and its place in
    the denominator; but a bonus is a mean over the tokens that it is paid for.
    """
    more = dict(AXES[axes])
    if loss_type == "vespo":
        more = {name: value for name, value in more.items() if name not in WEIGHED}
    if level == "sequence" and loss_type != "cispo":
        more.pop("top_entropy_quantile", None)
    algorithm = group_algorithm(loss_type, level, **{"beta": 0.0, **more})
    moved = rows = 0
    for seed, dtype in itertools.product(range(3), (torch.float32, torch.float64)):
        batch, logps = batch_and_logps(seed, None, dtype)
        trained = random_batch(torch.Generator().manual_seed(seed), prompts=3, rows=(2, 4), length=(1, 9)).loss_mask
        batch = given_entropies(replace(batch, loss_mask=trained), seed, dtype)
        batch = algorithm.credit(batch, {})[0]
        both = torch.stack([logps, batch.extras["entropies"]])
        mine = by_logp_and_entropy(algorithm, batch, both)
        wanted = theirs(algorithm, loss_type, level, batch, both)
        certify(algorithm.name, "oracle", *assert_same(mine, wanted, dtype))
        moved += int(mine[1].any(-1).any(0).sum())
        rows += batch.num_rows
    assert 0 < moved < rows or axes != "drift", "some rows have drifted, and not all"


@pytest.mark.oracle
def test_an_entropy_bonus_is_a_mean_over_the_step_where_trl_takes_one_of_each_micro_batch() -> None:
    """TRL's number depends on how the step is cut; ours is TRL's of the uncut step."""
    algorithm = GRPO(beta=0, entropy_coef=1.0)
    batch, logps = batch_and_logps(0, None, torch.float64)
    batch = algorithm.credit(given_entropies(batch, 0, torch.float64), {})[0]
    both = torch.stack([logps, batch.extras["entropies"]])
    alone = GRPO(beta=0)
    cuts = (torch.arange(0, 3), torch.arange(3, batch.num_rows))
    width = [batch.select(rows).completion_ids.shape[1] for rows in cuts]

    def bonus(rows: torch.Tensor, width: int) -> float:
        part, values = batch.select(rows), both[:, rows, :width]
        paid, free = (theirs(each, "grpo", "token", part, values)[0] for each in (algorithm, alone))
        return float(paid - free)

    mine = float(by_logp_and_entropy(algorithm, batch, both)[0] - by_logp_and_entropy(alone, batch, both)[0])
    assert mine == pytest.approx(bonus(torch.arange(batch.num_rows), both.shape[2]))
    each = [bonus(rows, wide) for rows, wide in zip(cuts, width, strict=True)]
    assert mine != pytest.approx(sum(each) / 2, rel=1e-3)


@pytest.mark.oracle
@pytest.mark.parametrize("abstaining", [False, True])
def test_advantages_of_rewards_by_themselves_equal_trl(
    abstaining: bool, trl_grpo_trainer: Any, monkeypatch: pytest.MonkeyPatch, certify: Certify
) -> None:
    batch = random_rollout(unscored=False)
    generator = torch.Generator().manual_seed(3)
    columns = torch.rand(batch.num_rows, 3, generator=generator)
    if abstaining:
        columns[[0, 5], 1] = NAN
        columns[7] = NAN
    weights = torch.tensor([1.0, 0.5, -2.0])
    trainer = trl_grpo_trainer
    given = {"scale_rewards": "group", "mask_truncated_completions": False, "reward_weights": weights}
    given |= {"multi_objective_aggregation": "normalize_then_sum", "reward_funcs": [len] * 3}
    for name, value in {**given, "reward_func_names": ["a", "b", "c"]}.items():
        monkeypatch.setattr(trainer, name, value)
    rows = [ids[mask].tolist() for ids, mask in zip(batch.completion_ids, batch.completion_mask, strict=True)]
    sampled = {"prompt_ids": [[7]] * len(rows), "completion_ids": rows, "logprobs": [[0.0] * len(row) for row in rows]}
    trainer.rollout_func = lambda prompts, trainer: sampled
    trainer._calculate_rewards = lambda *_: columns
    wanted = trainer._generate_and_score_completions([{"prompt": "a"}] * len(rows))["advantages"]

    algorithm = GRPO(multi_objective_aggregation="normalize_then_sum")
    batch = replace(batch, rewards=columns.nansum(1).masked_fill(columns.isnan().all(1), NAN))
    batch = batch.with_separate_rewards(
        dict(zip("abc", columns.unbind(1), strict=True)), dict(zip("abc", weights.tolist(), strict=True))
    )
    found = algorithm.credit(batch, {})[0].advantages
    assert found is not None
    torch.testing.assert_close(found[:, 0], wanted, atol=1e-6, rtol=0)
    certify("grpo", "oracle", found[:, 0], wanted)
