"""Group relative policy optimisation: a sample's advantage is its reward against the other samples of its prompt.

    A_i  = (R_i - mean_G R) / (std_G R + 1e-4)
    loss = mean_i mean_t [ - min(rho A, clip(rho, 1 - eps, 1 + eps_high) A) + beta rho k3 ]

Source: Shao et al. 2024 (DeepSeekMath, arXiv 2402.03300), eq. 3. `dr_grpo` is the preset of Liu et al. 2025
(arXiv 2503.20783): no division by the std, and a constant length instead of each row's own.

How we differ from the paper:
1. The KL term is multiplied by the ratio, which makes its gradient that of KL(policy || reference) (arXiv 2512.02556);
   plain k3 (`kl_estimator: k3`) has the gradient of the other direction.
2. A group of equal rewards gives exactly 0; its rows count in the denominator and are not computed unless the loss has
   a KL.
3. An unscored row leaves its group and the loss.
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

GEOMETRIC = ("sequence", "sequence_token")  # levels whose ratio is a geometric mean
WIDEST_OF_A_ROW = 0.05  # a mean over the tokens of a completion hardly ever moves further


class GRPO(GroupRelative):
    """Group relative policy optimisation with a reward on each sampled completion.

    Defaults: epsilon (arXiv 1707.06347); beta, importance_sampling_level (arXiv 2402.03300).
    """

    name: ClassVar = "grpo"

    epsilon: float = Field(default=0.2, gt=0, lt=1)
    """How far below 1 a ratio counts."""
    epsilon_high: PositiveFloat | None = None
    """How far above 1 a ratio counts; None = `epsilon`."""
    delta: float | None = None
    """Bound of the ratio where the advantage is negative (dual clip); None = no bound."""
    beta: NonNegativeFloat = 0.04
    importance_sampling_level: Level = "token"
    """Whose ratio is clipped: each token's; a row's, as the geometric mean of its tokens' (`gspo`), with or without a
    gradient for each token; or a row's, as their product (`rloo`)."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.delta is not None and self.delta <= 1 + self.upper:
            what = f"`delta` {self.delta:g} is not above 1 + `epsilon_high` = {1 + self.upper:g}, where the clip ends"
            raise ConfigError(what, "raise it (3 is usual), or leave it out: it bounds what the clip lets through")
        return self

    def has_row_ratio(self) -> bool:
        """Whether `importance_sampling_level` is that of a row."""
        return self.importance_sampling_level != "token"

    @property
    def upper(self) -> float:
        """`epsilon_high`, or `epsilon` where it is not set."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high

    def check_settings(self) -> None:
        """Raises ConfigError for bounds that the ratio of a completion never reaches."""
        bounds = {"epsilon": self.epsilon, "epsilon_high": self.upper}
        wide = [f"`{name}` {bound:g}" for name, bound in bounds.items() if bound > WIDEST_OF_A_ROW]
        if wide and self.importance_sampling_level in GEOMETRIC:
            moves = f"the mean over a completion hardly ever moves by more than {WIDEST_OF_A_ROW}"
            remedy = "take the paper's 3e-4 and 4e-4, which `algorithm: gspo` has"
            raise ConfigError(f"{' and '.join(wide)} will clip nothing: {moves}", remedy)

    def notes(self, updates_per_rollout: int) -> list[str]:
        """That the ratio of a completion does nothing on-policy."""
        notes = self.drift_notes(updates_per_rollout)
        if self.importance_sampling_level not in GEOMETRIC or updates_per_rollout > 1:
            return notes
        return [
            "one update a rollout: the ratio of every completion is 1, which is REINFORCE with a baseline; "
            "the paper has `updates.minibatches: 4`",
            *notes,
        ]

    def objective(self, logps: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Metric]]:
        """The clipped objective, and how much of it was clipped."""
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
    """GRPO done right (arXiv 2503.20783): neither the std of a group nor the length of a row weights a token.

    Defaults: beta, scale_rewards, reduction (arXiv 2503.20783).
    """

    name: ClassVar = "dr_grpo"
    beta: NonNegativeFloat = 0.0
    scale_rewards: Scale = "none"
    reduction: Reduction = "constant"
