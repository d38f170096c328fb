"""What the algorithms share that hold the samples of a prompt against each other: advantage, KL, reduction.

    A    = (R - mean of the group), divided by what `scale_rewards` says
    loss = sum of [ objective(ratio, A) + beta KL ] over the denominator of `reduction`

Each axis is a setting of its own; `objective` is what an algorithm writes: what a ratio and an advantage cost a token.
Not an algorithm by itself.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from rung.advantages import centre, standardise, standardise_centred, standardise_over_batch
from rung.algorithm import Algorithm, Need, State
from rung.batch import Batch, Loss, Outputs, Unit
from rung.errors import ConfigError
from rung.maths import (
    entropy_detached,
    k1,
    k2,
    k3,
    masked_mean,
    masked_sum,
    sequence_log_ratio,
    sequence_token_log_ratio,
    summed_log_ratio,
    token_log_ratio,
)
from rung.metrics import Metric, Metrics, mean_of
from rung.objectives import dropped, sequence_mismatch, token_mismatch, truncated

Correction = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
KLEstimator = Literal["rho_k3", "k3", "k2", "k1"]
Level = Literal["token", "sequence", "sequence_token", "sequence_sum"]
Reduction = Literal["row_mean", "token_mean", "row_sum", "constant"]
Scale = Literal["group", "batch", "centred", "none"]

ADVANTAGES: dict[Scale, Callable[[Tensor, Tensor], Tensor]] = {
    "group": standardise,
    "batch": standardise_over_batch,
    "centred": standardise_centred,
    "none": centre,
}
LOG_RATIOS: dict[Level, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "token": lambda logps, old_logps, mask: token_log_ratio(logps, old_logps),
    "sequence": sequence_log_ratio,
    "sequence_token": sequence_token_log_ratio,
    "sequence_sum": summed_log_ratio,
}
MISMATCHES: dict[Correction, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "token_truncate": token_mismatch,
    "token_mask": token_mismatch,
    "sequence_truncate": sequence_mismatch,
    "sequence_mask": sequence_mismatch,
}
BOUNDED: dict[Correction, Callable[[Tensor, float, float], Tensor]] = {
    "token_truncate": truncated,
    "token_mask": dropped,
    "sequence_truncate": truncated,
    "sequence_mask": dropped,
}
# In the loss; k1 stands in the reward.
PENALTIES: dict[KLEstimator, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "rho_k3": lambda logps, old_logps, ref_logps: token_log_ratio(logps, old_logps).exp() * k3(logps, ref_logps),
    "k3": lambda logps, old_logps, ref_logps: k3(logps, ref_logps),
    "k2": lambda logps, old_logps, ref_logps: k2(logps, ref_logps),
}


class GroupRelative(Algorithm):
    """Samples of a prompt as each other's baseline, whatever their ratio to the policy that drew them costs.

    Defaults: num_generations, importance_sampling_clip_max (TRL); scale_rewards, reduction (arXiv 2402.03300);
    kl_estimator (arXiv 2512.02556).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"prompts", "old_logps"})
    readouts: ClassVar = {"entropy": entropy_detached}

    num_generations: int = Field(default=8, ge=2)
    """Completions sampled for each prompt."""
    beta: NonNegativeFloat = 0.0
    """Coefficient of the KL to the reference; at 0 no reference is kept."""
    kl_estimator: KLEstimator = "rho_k3"
    """The KL of a sampled token: k3 times its ratio, plain k3 or k2, in the loss; or k1, summed over the completion and
    taken off its reward."""
    scale_rewards: Scale = "group"
    """What a centred reward is divided by: the std of its group, of the batch's rewards, of the batch's centred
    rewards, or nothing."""
    reduction: Reduction = "row_mean"
    """How token losses are averaged: over each row then rows; over all tokens; summed over each row then averaged over
    rows; or summed and divided by rows times `max_completion_length`."""
    mask_truncated_completions: bool = False
    """Leave out completions that hit the length limit."""
    importance_sampling_correction: Correction | None = None
    """For a sampler whose log-probs are not the policy's: weigh what it drew by pi_old / sampler, of each token or of
    the row, held at the bounds or left out beyond them; None = no weight. The KL is not weighed."""
    importance_sampling_clip_max: PositiveFloat = 3.0
    """The largest such weight."""
    importance_sampling_clip_min: NonNegativeFloat = 0.0
    """The smallest such weight."""

    @model_validator(mode="after")
    def _weighed_evenly(self) -> Self:
        if self.one_ratio_a_row() and self.reduction in ("token_mean", "constant"):
            what = f"`reduction: {self.reduction}` adds up the one ratio of a row as often as it has tokens"
            raise ConfigError(what, "take `row_mean`: else long rows outweigh short ones, which `luspo` is for")
        low, high = self.importance_sampling_clip_min, self.importance_sampling_clip_max
        if not low <= 1 <= high:
            what = f"`importance_sampling_clip_min` {low:g} to `importance_sampling_clip_max` {high:g} leave out 1"
            raise ConfigError(what, "set bounds on both sides of 1, the weight of what the policy drew itself")
        return self

    def one_ratio_a_row(self) -> bool:
        """Whether the objective has one ratio for all tokens of a row."""
        return False

    def idle_settings(self) -> dict[str, str]:
        """Those of a KL that does not count, and of a sampler that is not corrected for."""
        idle = {} if self.beta else {"kl_estimator": "`beta` is 0"}
        bounds = ("importance_sampling_clip_max", "importance_sampling_clip_min")
        absent = "there is no `importance_sampling_correction`"
        return idle if self.importance_sampling_correction else idle | dict.fromkeys(bounds, absent)

    def requires(self) -> frozenset[Need]:
        """A reference only where the KL counts, the sampler's own log-probs where it is corrected for."""
        extra = {"reference": self.beta > 0, "sampled_logps": self.importance_sampling_correction is not None}
        return self.needs | frozenset[Need](need for need, asked in extra.items() if asked)  # type: ignore[arg-type]

    def notes(self, updates_per_rollout: int) -> list[str]:
        """That objectives differ from each other off-policy alone."""
        if updates_per_rollout > 1:
            return []
        return ["one update a rollout: every ratio is 1, which is REINFORCE with a baseline; `updates.minibatches: 4`"]

    def units(self) -> dict[str, Unit]:
        """One term, over tokens or rows."""
        return {"policy": "tokens" if self.reduction == "token_mean" else "rows"}

    def samples_per_prompt(self) -> int:
        """`num_generations`."""
        return self.num_generations

    def advantages(self, rewards: Tensor, group_of: Tensor) -> Tensor:
        """(N,) advantages of whole completions."""
        return ADVANTAGES[self.scale_rewards](rewards, group_of)

    def credit(self, rollout: Batch, state: State) -> tuple[Batch, State]:
        """Group-relative advantages, the same for every token of a row."""
        assert rollout.rewards is not None
        rewards = rollout.rewards
        if self.beta and self.kl_estimator == "k1":
            rewards = rewards - self.beta * masked_sum(sampled_kl(rollout), rollout.loss_mask)
        trained = trained_tokens(rollout, self.mask_truncated_completions)
        advantages = self.advantages(rewards, rollout.group_of)[:, None] * trained
        credited = replace(rollout, advantages=advantages, loss_mask=trained)
        if self.importance_sampling_correction is not None:
            credited = credited.replace_extras(sampler_weights=self._sampler_weights(rollout))
        return credited, state

    def rollout_metrics(self, rollout: Batch, state: State) -> Metrics:
        """The KL of whole completions when they were sampled, and how far the sampler was from the policy."""
        metrics: dict[str, Metric] = {"kl/sequence_sum": sequence_kl(rollout)} if self.beta else {}
        if self.importance_sampling_correction is not None:
            assert rollout.old_logps is not None
            apart = (rollout.old_logps - rollout.extras["sampled_logps"]).abs()
            told = rollout.loss_mask & ~apart.isnan()
            metrics["sampling/sampling_logp_difference/mean"] = mean_of(apart, told)
            metrics["sampling/importance_sampling_ratio/mean"] = mean_of(rollout.extras["sampler_weights"], told)
        return metrics

    def active(self, batch: Batch) -> Tensor:
        """Rows with an advantage; all rows where the loss has a KL."""
        assert batch.advantages is not None
        has_kl = self.beta and self.kl_estimator != "k1"
        return batch.loss_mask.any(1) if has_kl else (batch.advantages != 0).any(1)

    def objective(self, logps: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Metric]]:
        """(N, T) what each token costs before the KL, and metrics; `batch.advantages` is 0 where nothing is trained."""
        raise NotImplementedError(f"{type(self).__name__} has no objective")

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The objective plus the KL, summed by `reduction`."""
        assert batch.advantages is not None
        # One ratio may speak for a row: what stands in columns that are not trained must not reach it.
        batch = replace(batch, advantages=batch.advantages.masked_fill(~batch.loss_mask, 0))
        loss, metrics = self.objective(outputs.logps, batch)
        if self.importance_sampling_correction is not None:
            loss = loss * batch.extras["sampler_weights"]
        metrics["entropy"] = mean_of(outputs.readouts["entropy"], batch.loss_mask)
        if self.beta:
            assert batch.old_logps is not None
            assert batch.ref_logps is not None
            logps, old_logps, ref_logps = outputs.logps, batch.old_logps, batch.ref_logps
            metrics["kl"] = mean_of(k3(logps, ref_logps), batch.loss_mask)
            if self.kl_estimator != "k1":
                loss = loss + self.beta * PENALTIES[self.kl_estimator](logps, old_logps, ref_logps)
        return Loss({"policy": self._reduce(loss, batch)}, metrics)

    def _sampler_weights(self, rollout: Batch) -> Tensor:
        """(N, T) what a token counts, since another than the policy drew it."""
        assert rollout.old_logps is not None
        assert self.importance_sampling_correction is not None
        assert "sampled_logps" in rollout.extras, "an exact sampler leaves nothing to correct"
        mismatch = MISMATCHES[self.importance_sampling_correction]
        weights = mismatch(rollout.old_logps, rollout.extras["sampled_logps"], rollout.loss_mask)
        low, high = self.importance_sampling_clip_min, self.importance_sampling_clip_max
        return BOUNDED[self.importance_sampling_correction](weights, low, high)

    def _reduce(self, loss: Tensor, batch: Batch) -> Tensor:
        if self.reduction == "row_mean":
            return masked_mean(loss, batch.loss_mask).sum()
        total = masked_sum(loss, batch.loss_mask).sum()
        return total / batch.max_completion_length if self.reduction == "constant" else total


def trained_tokens(rollout: Batch, mask_truncated: bool) -> Tensor:
    """(N, T) bool: the trained tokens, of rows that ended by themselves alone where truncated ones are masked."""
    if not mask_truncated:
        return rollout.loss_mask
    assert rollout.truncated is not None
    return rollout.loss_mask & ~rollout.truncated[:, None]


def sampled_kl(rollout: Batch) -> Tensor:
    """(N, T) k1 of each token to the reference when it was sampled."""
    assert rollout.old_logps is not None
    assert rollout.ref_logps is not None
    return k1(rollout.old_logps, rollout.ref_logps)


def sequence_kl(rollout: Batch) -> Metric:
    """The mean over scored rows with a trained token of `sampled_kl`, summed over the row."""
    assert rollout.rewards is not None
    trained = rollout.loss_mask & ~rollout.rewards.isnan()[:, None]
    return mean_of(masked_sum(sampled_kl(rollout), trained), trained.any(1))


def clip_ratios(low: Tensor, high: Tensor, mask: Tensor) -> dict[str, Metric]:
    """TRL's metrics of clipping: shares of the trained tokens whose gradient the lower and the upper bound take."""
    return {
        "clip_ratio/low_mean": mean_of(low.float(), mask),
        "clip_ratio/high_mean": mean_of(high.float(), mask),
        "clip_ratio/region_mean": mean_of((low | high).float(), mask),
    }
