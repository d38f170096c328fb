"""The base of GRPO-style algorithms: group-relative advantages, KL penalty, masks, reduction.

    A    = (R - mean of the group), divided by what `scale_rewards` says
    loss = sum of [ objective(ratio, A) x masks x weight + beta KL ] / denominator of `reduction` - entropy bonus

Each option is a setting of its own. A subclass writes `objective`: the loss of each token from its ratio and advantage.
The masks exclude rows that have drifted off-policy and tokens of low entropy; the weight corrects for a sampler whose
log-probs differ from the policy's. Excluded tokens still count in the denominator and in the KL.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from rung.algorithm import Algorithm, DataKind, ForwardPasses, Need, State
from rung.algorithms.shared.options import (
    ADVANTAGES,
    BOUNDED,
    MISMATCHES,
    PENALTIES,
    Aggregation,
    Correction,
    KLEstimator,
    Reduction,
    Scale,
)
from rung.batch import Batch, Denominator, Loss, Outputs, Readout
from rung.errors import ConfigError
from rung.maths.advantages import scale_over_batch, standardised_sum
from rung.maths.policy_losses import highest, not_drifted
from rung.maths.tensors import entropy, entropy_detached, k1, k3, masked_mean, masked_sum
from rung.metrics import Metric, Metrics, mean_of

NONE = 1e-30  # tokens: a number that changes no count of them


class GroupRelative(Algorithm):
    """Base of GRPO-style algorithms: the baseline is the group mean; subclasses define the policy loss.

    Defaults: num_generations, importance_sampling_clip_max, multi_objective_aggregation, top_entropy_quantile (TRL);
    scale_rewards, reduction (arXiv 2402.03300); kl_estimator (arXiv 2512.02556).
    """

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
    multi_objective_aggregation: Aggregation = "sum_then_normalize"
    """Whether rewards are added up and held against their group, or each is by itself and their sum is scaled."""
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
    off_policy_mask_threshold: PositiveFloat | None = None
    """Leave out completions with a negative advantage that have become less likely since they were sampled, by more
    nats a token than this; None = none."""
    top_entropy_quantile: float = Field(default=1.0, gt=0, le=1)
    """The share of a rollout's tokens, those of the highest entropy when they were sampled, that the objective is of;
    1 = all."""
    entropy_coef: NonNegativeFloat = 0.0
    """Entropy bonus coefficient: the mean entropy of those tokens, times it, is subtracted from the loss."""

    @model_validator(mode="after")
    def _weighed_evenly(self) -> Self:
        if self.has_row_ratio() and self.reduction in ("token_mean", "constant"):
            what = f"`reduction: {self.reduction}` with a sequence-level ratio overweights long completions"
            raise ConfigError(what, "use `reduction: row_mean`; to weight by length on purpose, use `algorithm: luspo`")
        low, high = self.importance_sampling_clip_min, self.importance_sampling_clip_max
        if not low <= 1 <= high:
            what = f"`importance_sampling_clip_min` {low:g} to `importance_sampling_clip_max` {high:g} leave out 1"
            raise ConfigError(what, "set bounds on both sides of 1, the weight of what the policy drew itself")
        return self

    @model_validator(mode="after")
    def _compatible(self) -> Self:
        if self.has_row_ratio() and self.top_entropy_quantile < 1:
            what = f"`top_entropy_quantile` {self.top_entropy_quantile:g} leaves out tokens, and the ratio is of a row"
            raise ConfigError(what, "leave it out, or take `importance_sampling_level: token` where there is one")
        if self.kl_in_reward() and self.multi_objective_aggregation == "normalize_then_sum":
            what = "`kl_estimator: k1` is taken off the sum of rewards, and `normalize_then_sum` reads each by itself"
            raise ConfigError(what, "take `rho_k3`, which is in the loss")
        return self

    def kl_in_reward(self) -> bool:
        """Whether rewards pay for the KL."""
        return self.beta > 0 and self.kl_estimator == "k1"

    def kl_in_loss(self) -> bool:
        """Whether the loss has the KL."""
        return self.beta > 0 and self.kl_estimator != "k1"

    def has_row_ratio(self) -> bool:
        """Whether the objective has one ratio for all tokens of a row."""
        return False

    def unused_settings(self) -> dict[str, str]:
        """The settings of a KL penalty, a scaled sum or an importance sampling correction that is off."""
        unused = {} if self.beta else {"kl_estimator": "`beta` is 0"}
        if self.multi_objective_aggregation == "normalize_then_sum":
            unused["scale_rewards"] = "`normalize_then_sum` scales each reward by its group, and their sum by the batch"
        bounds = ("importance_sampling_clip_max", "importance_sampling_clip_min")
        absent = "there is no `importance_sampling_correction`"
        return unused if self.importance_sampling_correction else unused | dict.fromkeys(bounds, absent)

    def data_kind(self) -> DataKind:
        """Prompts to sample from."""
        return "prompts"

    def needs(self) -> frozenset[Need]:
        """Old log-probs; a reference, the sampler's log-probs and separate rewards only where a setting reads them."""
        asked: dict[Need, bool] = {
            "old_logps": True,
            "reference": self.beta > 0,
            "sampled_logps": self.importance_sampling_correction is not None,
            "separate_rewards": self.multi_objective_aggregation == "normalize_then_sum",
        }
        return frozenset(need for need, is_asked in asked.items() if is_asked)

    def readouts(self) -> Mapping[str, Readout]:
        """The entropy, with a gradient where the loss has an entropy bonus."""
        return {"entropy": entropy if self.entropy_coef else entropy_detached}

    def notes(self, updates_per_rollout: int) -> list[str]:
        """That objectives differ from each other off-policy alone."""
        if updates_per_rollout > 1:
            return []
        note = "one update a rollout: every ratio is 1, which is REINFORCE with a baseline; `updates.minibatches: 4`"
        return [note, *self.drift_notes(updates_per_rollout)]

    def drift_notes(self, updates_per_rollout: int) -> list[str]:
        """That nothing has drifted on-policy."""
        if updates_per_rollout > 1 or self.off_policy_mask_threshold is None:
            return []
        return [
            "one update a rollout: what the policy sampled itself has not drifted, and `off_policy_mask_threshold` "
            "leaves out nothing"
        ]

    def terms(self) -> dict[str, Denominator]:
        """The objective over tokens or rows; the entropy bonus over the tokens that have one."""
        terms: dict[str, Denominator] = {"policy": "tokens" if self.reduction == "token_mean" else "rows"}
        if self.entropy_coef:
            terms["entropy"] = "tokens" if self.top_entropy_quantile == 1 else num_high_entropy
        return terms

    def samples_per_prompt(self) -> int:
        """`num_generations`."""
        return self.num_generations

    def advantages(self, rewards: Tensor, group_of: Tensor) -> Tensor:
        """(N,) advantages of whole completions."""
        return ADVANTAGES[self.scale_rewards](rewards, group_of)

    def prepare(self, batch: Batch, policy: ForwardPasses) -> Batch:
        """Also the entropy of each token, where a share of them is trained."""
        batch = super().prepare(batch, policy)
        if self.top_entropy_quantile == 1 or "entropies" in batch.extras:
            return batch
        return batch.replace_extras(entropies=policy.readout(batch, entropy_detached))

    def credit(self, rollout: Batch, state: State) -> tuple[Batch, State]:
        """Group-relative advantages, the same for every token of a row; which tokens count, and how much."""
        assert rollout.rewards is not None
        trained = trained_tokens(rollout, self.mask_truncated_completions)
        advantages = self._row_advantages(rollout)[:, None] * trained
        credited = replace(rollout, advantages=advantages, loss_mask=trained)
        if self.importance_sampling_correction is not None:
            credited = credited.replace_extras(sampler_weights=self._sampler_weights(rollout))
        if self.top_entropy_quantile < 1:
            scored = trained & ~rollout.rewards.isnan()[:, None]
            high = highest(rollout.extras["entropies"], scored, self.top_entropy_quantile)
            credited = credited.replace_extras(high_entropy=high)
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

    def active_rows(self, batch: Batch) -> Tensor:
        """Rows with an advantage; all rows where the loss has a KL or an entropy bonus."""
        assert batch.advantages is not None
        has_more = self.kl_in_loss() or self.entropy_coef
        return batch.loss_mask.any(1) if has_more else (batch.advantages != 0).any(1)

    def objective(self, logps: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Metric]]:
        """(N, T) what each token costs before the KL, and metrics; `batch.advantages` is 0 where nothing is trained."""
        raise NotImplementedError(f"{type(self).__name__} has no objective")

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The objective, masked and weighed, plus the KL, summed by `reduction`; less the entropy bonus."""
        assert batch.advantages is not None
        # One ratio may speak for a row: what stands in columns that are not trained must not reach it.
        batch = replace(batch, advantages=batch.advantages.masked_fill(~batch.loss_mask, 0))
        loss, metrics = self.objective(outputs.logps, batch)
        if self.off_policy_mask_threshold is not None:
            kept = self._not_drifted(outputs.logps, batch)
            loss = loss.where(kept, 0)
            metrics["off_policy_mask/dropped_mean"] = mean_of((~kept).expand_as(batch.loss_mask), batch.loss_mask)
        loss = loss.where(high_entropy(batch), 0)
        if self.importance_sampling_correction is not None:
            loss = loss * batch.extras["sampler_weights"]
        metrics["entropy"] = mean_of(outputs.readouts["entropy"], batch.loss_mask)
        if self.beta:
            assert batch.old_logps is not None
            assert batch.ref_logps is not None
            logps, old_logps, ref_logps = outputs.logps, batch.old_logps, batch.ref_logps
            metrics["kl"] = mean_of(k3(logps, ref_logps), batch.loss_mask)
            if self.kl_in_loss():
                loss = loss + self.beta * PENALTIES[self.kl_estimator](logps, old_logps, ref_logps)
        terms = {"policy": self._reduce(loss, batch)}
        if self.entropy_coef:
            terms["entropy"] = -self.entropy_coef * masked_sum(outputs.readouts["entropy"], high_entropy(batch)).sum()
        return Loss(terms, metrics)

    def _row_advantages(self, rollout: Batch) -> Tensor:
        """(N,) advantages of the sum of rewards, or of each reward by itself."""
        assert rollout.rewards is not None
        if self.multi_objective_aggregation == "normalize_then_sum":
            rewards, weights = rollout.separate_rewards, rollout.reward_weights
            columns = torch.stack([rewards[name] for name in weights], 1)
            return scale_over_batch(standardised_sum(columns, torch.tensor(list(weights.values())), rollout.group_of))
        rewards = rollout.rewards
        if self.kl_in_reward():
            rewards = rewards - self.beta * masked_sum(sampled_kl(rollout), rollout.loss_mask)
        return self.advantages(rewards, rollout.group_of)

    def _not_drifted(self, logps: Tensor, batch: Batch) -> Tensor:
        """(N, T) bool: rows that are not left out for having drifted."""
        assert batch.advantages is not None
        assert batch.old_logps is not None
        assert self.off_policy_mask_threshold is not None
        sampled = batch.extras.get("sampled_logps", batch.old_logps)
        return not_drifted(logps, sampled, batch.advantages, batch.loss_mask, self.off_policy_mask_threshold)

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


def high_entropy(batch: Batch) -> Tensor:
    """(N, T) bool: the trained tokens that the objective is of; all of them, unless `credit` has chosen a share."""
    return batch.loss_mask & batch.extras.get("high_entropy", batch.loss_mask)


def num_high_entropy(batch: Batch) -> Tensor:
    """How many tokens an entropy bonus is paid for; hardly above 0 where there is none, since a step may do without."""
    return high_entropy(batch).sum().double() + NONE


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
