"""The algorithms that hold a completion against its group: one of each, with random rollouts."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from helpers.batches import random_batch
from helpers.losses import Result
from rung.algorithms.cispo import CISPO
from rung.algorithms.dapo import DAPO
from rung.algorithms.gmpo import GMPO
from rung.algorithms.grpo import GRPO, DrGRPO
from rung.algorithms.gspo import GSPO, LUSPO, GSPOToken
from rung.algorithms.reinforce_pp import ReinforcePPBaseline
from rung.algorithms.rloo import RLOO
from rung.algorithms.sapo import SAPO
from rung.algorithms.shared.group_relative import GroupRelative
from rung.algorithms.shared.options import Level
from rung.algorithms.vespo import VESPO
from rung.batch import Batch, Outputs, count_denominators

NAN = float("nan")
GROUP = 4
LIMIT = 11
BETA = 0.3
EPSILON, EPSILON_HIGH = 0.1, 0.15
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")
FAMILY: dict[str, GroupRelative] = {
    "grpo": GRPO(),
    "dr_grpo": DrGRPO(),
    "dapo": DAPO(overlong_buffer=0),
    "gspo": GSPO(),
    "gspo_token": GSPOToken(),
    "luspo": LUSPO(),
    "rloo": RLOO(),
    "cispo": CISPO(),
    "sapo": SAPO(),
    "vespo": VESPO(),
    "gmpo": GMPO(),
    "reinforce_pp_baseline": ReinforcePPBaseline(),
}
MEMBERS = pytest.mark.parametrize("name", FAMILY)


def random_rollout(*, unscored: bool, seed: int = 0) -> Batch:
    """Groups of four with tool tokens inside, every third row cut off by the limit, the others ended by token 1."""
    generator = torch.Generator().manual_seed(seed)
    batch = random_batch(generator, prompts=3, rows=(GROUP, GROUP), length=(1, 9))
    truncated = torch.arange(batch.num_rows) % 3 == 0
    last = torch.zeros_like(batch.loss_mask).scatter(1, batch.lengths[:, None] - 1, True)
    rewards = torch.rand(batch.num_rows, generator=generator, dtype=torch.float64)
    if unscored:
        rewards[[1, 4, 5]] = NAN
    shape = batch.completion_ids.shape
    logps = -torch.rand(shape, generator=generator, dtype=torch.float64) * 3
    return replace(
        batch,
        completion_ids=torch.where(last & ~truncated[:, None], 1, batch.completion_ids),
        truncated=truncated,
        rewards=rewards,
        max_completion_length=LIMIT,
        old_logps=logps,
        ref_logps=logps + 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64),
    )


def group_algorithm(loss_type: str, level: Level, **more: Any) -> GroupRelative:
    """The algorithm that has TRL's `loss_type`; `bnpo` is `dapo` where a step is one micro-batch, and ours always."""
    bounds: dict[str, Any] = {"epsilon": EPSILON, "epsilon_high": EPSILON_HIGH, "importance_sampling_level": level}
    match loss_type:
        case "cispo":
            return CISPO(epsilon_high=1.2, importance_sampling_level=level, **more)
        case "sapo":
            return SAPO(importance_sampling_level=level, **more)
        case "vespo":
            return VESPO(**more)
    reductions = {"grpo": "row_mean", "luspo": "row_sum", "dr_grpo": "constant"}
    kind = {"luspo": LUSPO, "dr_grpo": DrGRPO}.get(loss_type, GRPO)
    return kind(reduction=reductions.get(loss_type, "token_mean"), **bounds, **more)  # type: ignore[arg-type]


def one_row(log_ratios: list[float], advantage: float, **more: Any) -> tuple[Batch, torch.Tensor]:
    """A completion whose log-probs have moved by `log_ratios` from -2 each, and those log-probs."""
    length = len(log_ratios)
    batch = random_batch(torch.Generator().manual_seed(0), prompts=1, rows=(1, 1), length=(length, length))
    old = torch.full((1, length), -2.0, dtype=torch.float64)
    batch = replace(batch, loss_mask=batch.completion_mask, old_logps=old, advantages=torch.full_like(old, advantage))
    return replace(batch, **more), old + torch.tensor([log_ratios], dtype=torch.float64)


def by_logp_and_entropy(algorithm: GroupRelative, batch: Batch, both: torch.Tensor) -> Result:
    """The loss and its gradient (2, N, T) by log-probs and entropies."""
    leaf = both.clone().requires_grad_()
    outputs = Outputs(logps=leaf[0], readouts={"entropy": leaf[1]})
    loss = algorithm.loss(batch, outputs).over(count_denominators(algorithm.terms(), batch))
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad * batch.loss_mask
