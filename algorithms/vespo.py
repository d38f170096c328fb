"""Variational sequence-level soft policy optimisation: the weight of a completion is a bounded function of its ratio.

    w_i  = prod_t rho_t,  phi(w) = w^k exp(lambda (1 - w)),  (k, lambda) = (2, 3) where A >= 0, else (3, 2)
    loss = sum_i sum_t - sg(phi(w_i)) A_i log pi / sum_i |y_i|

sg stops the gradient. Source: arXiv 2602.10693; constants as in TRL. The ratio of a completion is not normalised by its
length: phi is bounded, so off-policy completions are down-weighted smoothly instead of clipped.
"""

from typing import ClassVar, Self

from pydantic import PositiveFloat, model_validator
from torch import Tensor

from rung.algorithms.shared.group_relative import GroupRelative
from rung.algorithms.shared.options import Reduction
from rung.batch import Batch
from rung.errors import ConfigError
from rung.maths.policy_losses import gamma_weight
from rung.metrics import Metric, mean_of


class VESPO(GroupRelative):
    """Variational sequence-level soft policy optimisation: REINFORCE with a smooth importance weight per completion.

    Defaults: vespo_k_pos, vespo_lambda_pos, vespo_k_neg, vespo_lambda_neg (TRL); reduction (TRL).
    """

    name: ClassVar = "vespo"

    vespo_k_pos: PositiveFloat = 2.0
    """Exponent of the ratio for non-negative advantages."""
    vespo_lambda_pos: PositiveFloat = 3.0
    """Decay rate of large ratios for non-negative advantages."""
    vespo_k_neg: PositiveFloat = 3.0
    """Exponent of the ratio for negative advantages."""
    vespo_lambda_neg: PositiveFloat = 2.0
    """Decay rate of large ratios for negative advantages."""
    reduction: Reduction = "token_mean"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.importance_sampling_correction is not None:
            what = "`importance_sampling_correction` would weight completions twice: phi is already a weight"
            raise ConfigError(what, "leave it out")
        return self

    def objective(self, logps: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Metric]]:
        """The REINFORCE loss times phi, and the mean of phi over tokens."""
        assert batch.advantages is not None
        assert batch.old_logps is not None
        gain = gamma_weight(logps, batch.old_logps, batch.loss_mask, self.vespo_k_pos, self.vespo_lambda_pos)
        loss = gamma_weight(logps, batch.old_logps, batch.loss_mask, self.vespo_k_neg, self.vespo_lambda_neg)
        phi = gain.where(batch.advantages >= 0, loss)
        return -phi * batch.advantages * logps, {"vespo/phi_seq_mean": mean_of(phi, batch.loss_mask)}
