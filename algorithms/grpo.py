"""Group relative policy optimisation: a sample's advantage is its reward against the other samples of its prompt.

    A_i  = (R_i - mean_G R) / (std_G R + 1e-4)
    loss = mean_i mean_t [ - min(rho A, clip(rho, 1 - eps, 1 + eps_high) A) + beta rho k3 ]

Source: Shao et al. 2024 (DeepSeekMath, arXiv 2402.03300), eq. 3. `dr_grpo` is the preset of Liu et al. 2025
(arXiv 2503.20783): no division by the std, and a constant length instead of each row's own.

How we differ from the paper:
1. The KL term is multiplied by the ratio, which makes its gradient that of KL(policy || reference) (arXiv 2512.02556);
   plain k3 has the gradient of the other direction.
2. A group of equal rewards gives exactly 0; its rows count in the denominator and are not computed unless beta > 0.
3. An unscored row leaves its group and the loss.
"""

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from rung.advantages import centre, standardise, standardise_over_batch
from rung.algorithm import Algorithm, Need, State
from rung.batch import Batch, Loss, Outputs, Unit
from rung.maths import (
    clipped_objective,
    dual_clip,
    entropy_detached,
    k3,
    masked_mean,
    masked_sum,
    sequence_log_ratio,
    sequence_token_log_ratio,
    token_log_ratio,
)
from rung.metrics import Metric, mean_of

ADVANTAGES = {"group": standardise, "batch": standardise_over_batch, "none": centre}


class GRPO(Algorithm):
    """Group relative policy optimisation with a reward on each sampled completion.

    Defaults: num_generations (TRL); epsilon (arXiv 1707.06347); beta, scale_rewards, reduction,
    importance_sampling_level (arXiv 2402.03300).
    """

    name: ClassVar = "grpo"
    needs: ClassVar[frozenset[Need]] = frozenset({"prompts", "old_logps"})
    readouts: ClassVar = {"entropy": entropy_detached}

    num_generations: int = Field(default=8, ge=2)
    """Completions sampled for each prompt."""
    epsilon: float = Field(default=0.2, gt=0, lt=1)
    """How far below 1 a ratio counts."""
    epsilon_high: PositiveFloat | None = None
    """How far above 1 a ratio counts; None = `epsilon`."""
    delta: float | None = None
    """Bound of the ratio where the advantage is negative (dual clip); None = no bound."""
    beta: NonNegativeFloat = 0.04
    """Coefficient of the KL to the reference; at 0 no reference is kept."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What a centred reward is divided by: the std of its group, of the batch, or nothing."""
    reduction: Literal["row_mean", "token_mean", "row_sum", "constant"] = "row_mean"
    """How token losses are averaged: over each row then rows; over all tokens; summed over each row then averaged over
    rows; or summed and divided by rows times `max_completion_length`."""
    importance_sampling_level: Literal["token", "sequence", "sequence_token"] = "token"
    """Whose ratio is clipped: each token's, or the geometric mean of a row's (`gspo`)."""
    mask_truncated_completions: bool = False
    """Leave out completions that hit the length limit."""

    @model_validator(mode="after")
    def _consistent(self) -> "GRPO":
        if self.delta is not None and self.delta <= 1 + self.upper:
            raise ValueError(
                f"`delta` must exceed 1 + epsilon_high = {1 + self.upper}; it bounds what the clip lets through"
            )
        return self

    @property
    def upper(self) -> float:
        """`epsilon_high`, or `epsilon` where it is not set."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high

    def requires(self) -> frozenset[Need]:
        """A reference only where the KL counts."""
        return self.needs | frozenset[Need]({"reference"}) if self.beta else self.needs

    def units(self) -> dict[str, Unit]:
        """One term, over tokens or rows."""
        return {"policy": "tokens" if self.reduction == "token_mean" else "rows"}

    def samples_per_prompt(self) -> int:
        """`num_generations`."""
        return self.num_generations

    def credit(self, rollout: Batch, state: State) -> tuple[Batch, State]:
        """Group-relative advantages, the same for every token of a row."""
        assert rollout.rewards is not None
        advantages = ADVANTAGES[self.scale_rewards](rollout.rewards, rollout.group_of)
        trained = rollout.loss_mask
        if self.mask_truncated_completions:
            assert rollout.truncated is not None
            trained = trained & ~rollout.truncated[:, None]
        return replace(rollout, advantages=advantages[:, None] * trained, loss_mask=trained), state

    def active(self, batch: Batch) -> Tensor:
        """Rows with an advantage; all rows where the KL counts."""
        assert batch.advantages is not None
        return batch.loss_mask.any(1) if self.beta else (batch.advantages != 0).any(1)

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The clipped objective plus the KL, summed by `reduction`."""
        assert batch.advantages is not None
        assert batch.old_logps is not None
        ratio = self._log_ratio(outputs.logps, batch.old_logps, batch.loss_mask).exp()
        # One ratio speaks for a row: what stands in columns that are not trained must not reach it.
        advantages = batch.advantages.masked_fill(~batch.loss_mask, 0)
        loss = clipped_objective(ratio, advantages, self.epsilon, self.upper)
        if self.delta is not None:
            loss = dual_clip(loss, advantages, self.delta)
        metrics = self._clipped(ratio, batch) | {"entropy": mean_of(outputs.readouts["entropy"], batch.loss_mask)}
        if self.beta:
            assert batch.ref_logps is not None
            kl = k3(outputs.logps, batch.ref_logps)
            loss = loss + self.beta * token_log_ratio(outputs.logps, batch.old_logps).exp() * kl
            metrics["kl"] = mean_of(kl, batch.loss_mask)
        return Loss({"policy": self._reduce(loss, batch)}, metrics)

    def _log_ratio(self, logps: Tensor, old_logps: Tensor, mask: Tensor) -> Tensor:
        match self.importance_sampling_level:
            case "token":
                return token_log_ratio(logps, old_logps)
            case "sequence":
                return sequence_log_ratio(logps, old_logps, mask)
            case "sequence_token":
                return sequence_token_log_ratio(logps, old_logps, mask)

    def _reduce(self, loss: Tensor, batch: Batch) -> Tensor:
        if self.reduction == "row_mean":
            return masked_mean(loss, batch.loss_mask).sum()
        total = masked_sum(loss, batch.loss_mask).sum()
        return total / batch.max_completion_length if self.reduction == "constant" else total

    def _clipped(self, ratio: Tensor, batch: Batch) -> dict[str, Metric]:
        assert batch.advantages is not None
        low = (ratio < 1 - self.epsilon) & (batch.advantages < 0)
        high = (ratio > 1 + self.upper) & (batch.advantages > 0)
        return {
            "clip_ratio/low_mean": mean_of(low.float(), batch.loss_mask),
            "clip_ratio/high_mean": mean_of(high.float(), batch.loss_mask),
            "clip_ratio/region_mean": mean_of((low | high).float(), batch.loss_mask),
        }


class DrGRPO(GRPO):
    """GRPO done right (arXiv 2503.20783): neither the std of a group nor the length of a row weights a token.

    Defaults: beta, scale_rewards, reduction (arXiv 2503.20783).
    """

    name: ClassVar = "dr_grpo"
    beta: NonNegativeFloat = 0.0
    scale_rewards: Literal["group", "batch", "none"] = "none"
    reduction: Literal["row_mean", "token_mean", "row_sum", "constant"] = "constant"
