"""Group relative policy optimisation: the advantage of a sample is its reward relative to its prompt's other samples.

    A_i  = (R_i - mean_G R) / (std_G R + 1e-4)
    loss = mean_i mean_t [ - min(rho A, clip(rho, 1 - eps, 1 + eps_high) A) + beta rho k3 ]

Source: Shao et al. 2024 (DeepSeekMath, arXiv 2402.03300), eq. 3. `dr_grpo` is the preset of Liu et al. 2025
(arXiv 2503.20783): no division by the std, and a constant divisor instead of each row's length.

How we differ from the paper:
1. The KL term is multiplied by the ratio, which makes its gradient that of KL(policy || reference) (arXiv 2512.02556);
   the gradient of plain k3 (`kl_estimator: k3`) is that of KL(reference || policy).
2. A group with equal rewards gets advantages of exactly 0. Its rows still count in the denominator, but their forward
   pass is skipped unless the loss has a KL penalty.
3. A row without a reward is excluded from its group and from the loss.
"""

from typing import ClassVar, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from rung.algorithms.shared.group_relative import GroupRelative, clip_ratios
from rung.algorithms.shared.options import LOG_RATIOS, Level, Reduction, Scale
from rung.batch import Batch
from rung.errors import ConfigError
from rung.maths.tensors import clipped_objective, dual_clip
from rung.metrics import Metric

GEOMETRIC = ("sequence", "sequence_token")  # levels that use the geometric mean of token ratios
MAX_SEQUENCE_EPSILON = 0.05  # the mean log-ratio of a completion rarely exceeds it


class GRPO(GroupRelative):
    """Group relative policy optimisation with a reward on each sampled completion.

    Defaults: epsilon (arXiv 1707.06347); beta, importance_sampling_level (arXiv 2402.03300).
    """

    name: ClassVar = "grpo"

    epsilon: float = Field(default=0.2, gt=0, lt=1)
    """Lower clipping bound: ratios are clipped at 1 - epsilon."""
    epsilon_high: PositiveFloat | None = None
    """Upper clipping bound: ratios are clipped at 1 + epsilon_high; null means `epsilon`."""
    delta: float | None = None
    """Dual clip: upper bound of the ratio for negative advantages; null means no bound."""
    beta: NonNegativeFloat = 0.04
    importance_sampling_level: Level = "token"
    """Importance ratio that is clipped: that of each token; the geometric mean of a row's token ratios, as in `gspo`,
    with or without a gradient per token; or their product, as in `rloo`."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.delta is not None and self.delta <= 1 + self.upper:
            clip = f"1 + `epsilon_high` = {1 + self.upper:g}"
            what = f"`delta` {self.delta:g} is not above the clipping bound {clip}, but bounds only unclipped ratios"
            raise ConfigError(what, "raise `delta` (3 is usual), or leave it out")
        return self

    def has_row_ratio(self) -> bool:
        """Whether `importance_sampling_level` is not `token`."""
        return self.importance_sampling_level != "token"

    @property
    def upper(self) -> float:
        """The distance of the upper clipping bound from 1: `epsilon_high`, or `epsilon` if that is None."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high

    def check_settings(self) -> None:
        """Raises ConfigError for clipping bounds that a sequence-level ratio never reaches."""
        bounds = {"epsilon": self.epsilon, "epsilon_high": self.upper}
        wide = [f"`{name}` {bound:g}" for name, bound in bounds.items() if bound > MAX_SEQUENCE_EPSILON]
        if wide and self.importance_sampling_level in GEOMETRIC:
            reason = f"the mean log-ratio of a completion rarely exceeds {MAX_SEQUENCE_EPSILON}"
            remedy = "use the paper's 3e-4 and 4e-4, the defaults of `algorithm: gspo`"
            raise ConfigError(f"{' and '.join(wide)} will clip nothing: {reason}", remedy)

    def notes(self, updates_per_rollout: int) -> list[str]:
        """A note if sequence-level ratios are always 1, since there is one update per rollout, and `drift_notes`."""
        notes = self.drift_notes(updates_per_rollout)
        if self.importance_sampling_level not in GEOMETRIC or updates_per_rollout > 1:
            return notes
        return [
            "one update per rollout: the ratio of every completion is 1 (REINFORCE with a baseline); "
            "the paper uses `updates.minibatches: 4`",
            *notes,
        ]

    def objective(self, logps: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Metric]]:
        """The clipped policy loss of each token, and clipping metrics."""
        assert batch.advantages is not None
        assert batch.old_logps is not None
        ratio = LOG_RATIOS[self.importance_sampling_level](logps, batch.old_logps, batch.loss_mask).exp()
        loss = clipped_objective(ratio, batch.advantages, self.epsilon, self.upper)
        if self.delta is not None:
            loss = dual_clip(loss, batch.advantages, self.delta)
        low = (ratio < 1 - self.epsilon) & (batch.advantages < 0)
        high = (ratio > 1 + self.upper) & (batch.advantages > 0)
        return loss, clip_ratios(low, high, batch.loss_mask)


class DrGRPO(GRPO):
    """GRPO done right (arXiv 2503.20783): the loss is scaled neither by the group's std nor by the row's length.

    Defaults: beta, scale_rewards, reduction (arXiv 2503.20783).
    """

    name: ClassVar = "dr_grpo"
    beta: NonNegativeFloat = 0.0
    scale_rewards: Scale = "none"
    reduction: Reduction = "constant"
