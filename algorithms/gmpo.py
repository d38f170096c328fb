"""Geometric-mean policy optimisation: GRPO with the geometric mean of a row's clipped token ratios.

    q_t  = min(Delta_t, clip(Delta_t, +-eps)) where A > 0, else max(Delta_t, clip(Delta_t, +-eps))
    loss = mean_i - exp(mean_t q_t) A_i,  Delta = log pi - log pi_old

Source: Zhao et al. 2025 (arXiv 2507.20673), eq. 4. A geometric mean is less sensitive to an outlier token than GRPO's
arithmetic mean, so its bounds can be wider: e^-0.4 to e^0.4. Each token is clipped in log space, before the mean;
`gspo` clips the mean itself.

How we differ: with `beta` (0 in the paper) the KL term is multiplied by the token ratio, as in `grpo`; TRL's
experimental trainer uses plain k3 (`kl_estimator: k3`).
"""

from typing import ClassVar

from pydantic import PositiveFloat
from torch import Tensor

from rung.algorithms.shared.group_relative import GroupRelative, clip_ratios
from rung.batch import Batch
from rung.maths.policy_losses import geometric_log_ratio
from rung.maths.tensors import token_log_ratio
from rung.metrics import Metric


class GMPO(GroupRelative):
    """Geometric-mean policy optimisation: GRPO with the geometric mean of a row's clipped ratios.

    Defaults: epsilon (arXiv 2507.20673).
    """

    name: ClassVar = "gmpo"

    epsilon: PositiveFloat = 0.4
    """Lower clipping bound: token log-ratios are clipped at -epsilon."""
    epsilon_high: PositiveFloat | None = None
    """Upper clipping bound: token log-ratios are clipped at epsilon_high; null means `epsilon`."""

    def has_row_ratio(self) -> bool:
        """True: all tokens of a row share one ratio, the geometric mean."""
        return True

    @property
    def upper(self) -> float:
        """The upper clipping bound of log-ratios: `epsilon_high`, or `epsilon` if that is None."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high

    def objective(self, logps: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Metric]]:
        """The geometric mean of the clipped ratios times the advantage, and clipping metrics."""
        assert batch.advantages is not None
        assert batch.old_logps is not None
        log_ratio = token_log_ratio(logps, batch.old_logps)
        mean = geometric_log_ratio(log_ratio, batch.advantages, batch.loss_mask, self.epsilon, self.upper)
        low = (log_ratio < -self.epsilon) & (batch.advantages < 0)
        high = (log_ratio > self.upper) & (batch.advantages > 0)
        return -mean.exp() * batch.advantages, clip_ratios(low, high, batch.loss_mask)
