"""Clipped importance sampling: the capped ratio is a weight of the log-prob, so every token keeps its gradient.

    loss = sum_i sum_t - sg(min(rho, cap)) A log pi / sum_i |y_i|

sg stops the gradient. Source: MiniMax 2025 (MiniMax-M1, arXiv 2506.13585), eq. 4. PPO's clipping removes the gradient
of a token whose ratio exceeds the bound, and rare tokens that change the course of an answer ("but", "wait") exceed it
first. Here every token keeps its gradient.

How we differ: no lower bound, as in the paper's experiments; the cap is 5 and rewards are scaled over the batch
(ScaleRL, arXiv 2510.13786). TRL's `epsilon_high` is also the cap, but defaults to `epsilon`, 0.2, which gives every
token a weight of at most a fifth. `cispo_clip_ratio` counts capped tokens with advantages of either sign.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from rung.algorithms.shared.group_relative import GroupRelative
from rung.algorithms.shared.options import LOG_RATIOS, Level, Reduction, Scale
from rung.batch import Batch
from rung.maths.policy_losses import capped_weight
from rung.metrics import Metric, mean_of


class CISPO(GroupRelative):
    """Clipped importance sampling policy optimisation: REINFORCE with a capped ratio as its weight.

    Defaults: importance_sampling_level, reduction (arXiv 2506.13585); num_generations, epsilon_high, scale_rewards
    (arXiv 2510.13786).
    """

    name: ClassVar = "cispo"

    num_generations: int = Field(default=16, ge=2)
    epsilon_high: float = Field(default=5.0, ge=1)
    """Upper bound of the token weight: of the ratio itself, not of its distance from 1."""
    scale_rewards: Scale = "batch"
    reduction: Reduction = "token_mean"
    importance_sampling_level: Level = "token"
    """Importance ratio used as the weight: of each token, or of the whole row."""

    def objective(self, logps: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Metric]]:
        """The REINFORCE loss times the capped ratio, and the fraction of tokens with a capped ratio."""
        assert batch.advantages is not None
        assert batch.old_logps is not None
        ratio = LOG_RATIOS[self.importance_sampling_level](logps, batch.old_logps, batch.loss_mask).exp()
        capped = (ratio > self.epsilon_high).expand_as(batch.loss_mask)
        loss = -capped_weight(ratio, self.epsilon_high) * batch.advantages * logps
        return loss, {"cispo_clip_ratio": mean_of(capped.float(), batch.loss_mask)}
