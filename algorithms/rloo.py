"""REINFORCE leave-one-out: a sample's baseline is the mean of the other samples of its prompt, and nothing is scaled.

    R_i  = reward - beta sum_t k1,  A_i = R_i - mean_{j != i} R_j = G / (G - 1) (R_i - mean_G R)
    c_i  = exp(sum_t (log pi - log pi_old))
    loss = mean_i - min(c_i A_i, clip(c_i, 1 - eps, 1 + eps) A_i)

Source: Ahmadian et al. 2024 (arXiv 2402.14740), eq. 7; the clipped ratio of the whole completion is TRL's, and 1 while
a rollout is one update. The KL is k1 in the reward, where its gradient is that of the KL of completions.

How we differ from TRL: the summed log-ratio is clamped to +-20; a completion that is masked because it was truncated
pays for its KL like the others of its group, and is a constant 0 in the loss.
"""

from typing import ClassVar

from pydantic import Field, NonNegativeFloat
from torch import Tensor

from rung.algorithms.grpo import GRPO
from rung.algorithms.shared.options import KLEstimator, Level, Scale
from rung.maths.advantages import leave_one_out


class RLOO(GRPO):
    """REINFORCE leave-one-out: GRPO with the other samples as the baseline and one ratio a completion.

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
        """Against the mean of the others; scaled only where `scale_rewards` says so."""
        return leave_one_out(super().advantages(rewards, group_of), rewards, group_of)
