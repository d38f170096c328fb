"""REINFORCE leave-one-out: the baseline is the mean reward of the prompt's other samples; no division by a std.

    R_i  = reward - beta sum_t k1,  A_i = R_i - mean_{j != i} R_j = G / (G - 1) (R_i - mean_G R)
    c_i  = exp(sum_t (log pi - log pi_old))
    loss = mean_i - min(c_i A_i, clip(c_i, 1 - eps, 1 + eps) A_i)

Source: Ahmadian et al. 2024 (arXiv 2402.14740), eq. 7; the clipped ratio of the whole completion is TRL's, and is 1
with one update per rollout. The KL penalty is k1 in the reward, so its gradient is that of the KL between sequences.

How we differ from TRL: the summed log-ratio is clamped to +-20. A truncated completion that is masked has a loss of 0,
but the KL penalty is subtracted from its reward as for the others of its group, whose baseline includes this reward.
"""

from typing import ClassVar

from pydantic import Field, NonNegativeFloat
from torch import Tensor

from rung.algorithms.grpo import GRPO
from rung.algorithms.shared.options import KLEstimator, Level, Scale
from rung.maths.advantages import leave_one_out


class RLOO(GRPO):
    """REINFORCE leave-one-out: GRPO with a leave-one-out baseline and one ratio per completion.

    Defaults: num_generations, scale_rewards, kl_estimator (arXiv 2402.14740); epsilon, beta,
    importance_sampling_level (TRL).
    """

    name: ClassVar = "rloo"

    num_generations: int = Field(default=4, ge=2)
    beta: NonNegativeFloat = 0.05
    kl_estimator: KLEstimator = "k1"
    scale_rewards: Scale = "none"
    importance_sampling_level: Level = "sequence_sum"

    def advantages(self, rewards: Tensor, group_of: Tensor) -> Tensor:
        """Rewards minus the mean of the group's other rewards, divided by the std that `scale_rewards` selects."""
        return leave_one_out(super().advantages(rewards, group_of), rewards, group_of)
