"""Soft adaptive policy optimisation: a sigmoid gate replaces clipping and decays faster for non-positive advantages.

    loss = mean_i mean_t - (4 / tau) sigma(tau (rho - 1)) A,  tau = 1 where A > 0, else 1.05

Source: Gao et al. 2025 (arXiv 2511.20347), eq. 5. The gate's slope is 1 at rho = 1 and decays on both sides, so a token
whose ratio is far from 1 keeps a small gradient instead of none; a larger temperature decays faster.
"""

from typing import ClassVar

from pydantic import PositiveFloat
from torch import Tensor

from rung.algorithms.shared.group_relative import GroupRelative
from rung.algorithms.shared.options import LOG_RATIOS, Level
from rung.batch import Batch
from rung.maths.policy_losses import soft_gate
from rung.metrics import Metric, mean_of


class SAPO(GroupRelative):
    """Soft adaptive policy optimisation: GRPO with a sigmoid gate instead of a clip.

    Defaults: sapo_temperature_pos, sapo_temperature_neg, importance_sampling_level (arXiv 2511.20347).
    """

    name: ClassVar = "sapo"

    sapo_temperature_pos: PositiveFloat = 1.0
    """Temperature of the gate for tokens with a positive advantage; larger values decay faster."""
    sapo_temperature_neg: PositiveFloat = 1.05
    """Temperature of the gate for tokens without a positive advantage; larger values decay faster."""
    importance_sampling_level: Level = "token"
    """Importance ratio in the gate: of each token, or of the whole row."""

    def has_row_ratio(self) -> bool:
        """Whether `importance_sampling_level` is not `token`."""
        return self.importance_sampling_level != "token"

    def objective(self, logps: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Metric]]:
        """The gated ratio times the advantage, and the mean ratio."""
        assert batch.advantages is not None
        assert batch.old_logps is not None
        ratio = LOG_RATIOS[self.importance_sampling_level](logps, batch.old_logps, batch.loss_mask).exp()
        gate = soft_gate(ratio, batch.advantages, self.sapo_temperature_pos, self.sapo_temperature_neg)
        return -gate * batch.advantages, {"ratio": mean_of(ratio.expand_as(batch.loss_mask), batch.loss_mask)}
