"""Base of GRPO-style algorithms: group-relative advantages, KL penalty, masks, reduction.

    A    = (R - mean of the group) / the std that `scale_rewards` selects
    A_k  = (G_k - mean over the rows of the group with a turn k) / that std,  G_k = R - rewards of the turns before k
    loss = sum of [ objective(ratio, A) x masks x weight + beta KL ] / denominator of `reduction` - entropy bonus

Each option is a separate setting. A subclass defines `objective`, the loss of each token given its ratio and advantage.
The masks exclude rows that have drifted off-policy and tokens of low entropy. The weight corrects for a sampler whose
log-probs differ from the policy's. Excluded tokens still count in the denominator and in the KL penalty. A_k, with
`credit_assignment: turn`, is biased if the policy chooses when to stop: see docs/trajectories.md.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, Self

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
from rung.maths.policy_losses import off_policy_mask, top_share_mask
from rung.maths.tensors import entropy, entropy_detached, k1, k3, masked_mean, masked_sum
from rung.maths.turns import turn_returns, turns_of
from rung.metrics import Metric, Metrics, mean_of

MIN_COUNT = 1e-30  # tokens: keeps a denominator above 0 and changes no actual count


class GroupRelative(Algorithm):
    """Base of GRPO-style algorithms: the baseline is the group mean; subclasses define the policy loss.

    Defaults: num_generations, credit_assignment, importance_sampling_clip_max, multi_objective_aggregation,
    top_entropy_quantile (TRL);
    scale_rewards, reduction (arXiv 2402.03300); kl_estimator (arXiv 2512.02556).
    """

    num_generations: int = Field(default=8, ge=2)
    """Completions sampled for each prompt."""
    credit_assignment: Literal["trajectory", "turn"] = "trajectory"
    """What the advantage of a token is made of in stages with an environment: the reward of the whole trajectory, or
    the return-to-go from its turn, which leaves out the `turn_rewards` of earlier turns."""
    beta: NonNegativeFloat = 0.0
    """Coefficient of the KL penalty to the reference model; at 0 no reference model is kept."""
    kl_estimator: KLEstimator = "rho_k3"
    """Estimator of the KL: `rho_k3`, which is k3 times the importance ratio, `k3` and `k2` are added to the loss of
    each token; `k1` is summed over the completion and subtracted from its reward."""
    scale_rewards: Scale = "group"
    """Divisor of the centred rewards: the std of their group, of all rewards in the batch, of all centred rewards in
    the batch, or none."""
    multi_objective_aggregation: Aggregation = "sum_then_normalize"
    """How several rewards are combined: their sum is normalised within the group, or each reward is normalised within
    the group and the sum is scaled over the batch."""
    reduction: Reduction = "row_mean"
    """How token losses are averaged: over the tokens of each row, then over rows; over all tokens; summed over each
    row, then averaged over rows; or summed and divided by rows times `max_completion_length`."""
    mask_truncated_completions: bool = False
    """Exclude completions that hit the length limit from the loss."""
    importance_sampling_correction: Correction | None = None
    """Weight pi_old / sampler for a sampler whose log-probs differ from the policy's: per token or per row, and clamped
    to the bounds (`truncate`) or set to 0 outside them (`mask`); null means no weight. The KL is not weighted."""
    importance_sampling_clip_max: PositiveFloat = 3.0
    """Upper bound of the importance sampling correction weight."""
    importance_sampling_clip_min: NonNegativeFloat = 0.0
    """Lower bound of the importance sampling correction weight."""
    off_policy_mask_threshold: PositiveFloat | None = None
    """Exclude completions with a negative advantage whose log-prob has fallen since sampling by more than this many
    nats per token; null excludes none."""
    top_entropy_quantile: float = Field(default=1.0, gt=0, le=1)
    """Fraction of a rollout's tokens in the objective: those with the highest entropy at sampling time; 1 = all."""
    entropy_coef: NonNegativeFloat = 0.0
    """Entropy bonus coefficient; the bonus is the mean entropy of the tokens in the objective and is subtracted from
    the loss."""

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.has_row_ratio() and self.reduction in ("token_mean", "constant"):
            what = f"`reduction: {self.reduction}` with a sequence-level ratio overweights long completions"
            raise ConfigError(what, "use `reduction: row_mean`; to weight by length on purpose, use `algorithm: luspo`")
        low, high = self.importance_sampling_clip_min, self.importance_sampling_clip_max
        if not low <= 1 <= high:
            what = f"`importance_sampling_clip_min` {low:g} to `importance_sampling_clip_max` {high:g} excludes 1"
            raise ConfigError(what, "set bounds on both sides of 1, the weight of on-policy samples")
        return self

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.has_row_ratio() and self.top_entropy_quantile < 1:
            what = f"`top_entropy_quantile` {self.top_entropy_quantile:g} drops tokens, but the ratio is per completion"
            remedy = "set `importance_sampling_level: token`, if the algorithm has this setting"
            raise ConfigError(what, f"leave out `top_entropy_quantile`, or {remedy}")
        if self.credit_assignment == "turn" and self.multi_objective_aggregation == "normalize_then_sum":
            what = "`credit_assignment: turn` needs a summed reward; `normalize_then_sum` normalises each separately"
            raise ConfigError(what, "use `sum_then_normalize`, or `credit_assignment: trajectory`")
        if self.kl_in_reward() and self.multi_objective_aggregation == "normalize_then_sum":
            what = "`kl_estimator: k1` needs a summed reward; `normalize_then_sum` normalises each reward separately"
            raise ConfigError(what, "set `kl_estimator: rho_k3`, which is added to the loss")
        return self

    def kl_in_reward(self) -> bool:
        """Whether the KL penalty is subtracted from the reward."""
        return self.beta > 0 and self.kl_estimator == "k1"

    def kl_in_loss(self) -> bool:
        """Whether the KL penalty is added to the loss."""
        return self.beta > 0 and self.kl_estimator != "k1"

    def has_row_ratio(self) -> bool:
        """Whether all tokens of a row share one importance ratio."""
        return False

    def unused_settings(self) -> dict[str, str]:
        """The settings of the KL penalty, reward scaling and importance sampling correction, if these are disabled."""
        unused = {} if self.beta else {"kl_estimator": "`beta` is 0"}
        if self.multi_objective_aggregation == "normalize_then_sum":
            unused["scale_rewards"] = "`normalize_then_sum` scales each reward per group and their sum per batch"
        bounds = ("importance_sampling_clip_max", "importance_sampling_clip_min")
        absent = "`importance_sampling_correction` is not set"
        return unused if self.importance_sampling_correction else unused | dict.fromkeys(bounds, absent)

    def data_kind(self) -> DataKind:
        """Prompts to sample from."""
        return "prompts"

    def needs(self) -> frozenset[Need]:
        """Old log-probs; the reference, the sampler's log-probs and separate rewards only if a setting uses them."""
        is_used: dict[Need, bool] = {
            "old_logps": True,
            "reference": self.beta > 0,
            "sampled_logps": self.importance_sampling_correction is not None,
            "separate_rewards": self.multi_objective_aggregation == "normalize_then_sum",
        }
        return frozenset(need for need, used in is_used.items() if used)

    def readouts(self) -> Mapping[str, Readout]:
        """Entropy, with a gradient if the loss has an entropy bonus."""
        return {"entropy": entropy if self.entropy_coef else entropy_detached}

    def notes(self, updates_per_rollout: int) -> list[str]:
        """For one update per rollout, a note that all ratios are 1, so that nothing is clipped, and `drift_notes`."""
        if updates_per_rollout > 1:
            return []
        note = "one update per rollout: every ratio is 1 (REINFORCE with a baseline); set `updates.minibatches: 4`"
        return [note, *self.drift_notes(updates_per_rollout)]

    def drift_notes(self, updates_per_rollout: int) -> list[str]:
        """A note if the off-policy mask has no effect, since there is one update per rollout."""
        if updates_per_rollout > 1 or self.off_policy_mask_threshold is None:
            return []
        return ["one update per rollout: completions are on-policy, so `off_policy_mask_threshold` excludes nothing"]

    def terms(self) -> dict[str, Denominator]:
        """The policy loss, divided by tokens or rows, and the entropy bonus, divided by the tokens in the objective."""
        terms: dict[str, Denominator] = {"policy": "tokens" if self.reduction == "token_mean" else "rows"}
        if self.entropy_coef:
            terms["entropy"] = "tokens" if self.top_entropy_quantile == 1 else num_high_entropy
        return terms

    def samples_per_prompt(self) -> int:
        """The number of completions sampled for each prompt: `num_generations`."""
        return self.num_generations

    def advantages(self, rewards: Tensor, group_of: Tensor) -> Tensor:
        """(N,) advantages of whole completions."""
        return ADVANTAGES[self.scale_rewards](rewards, group_of)

    def prepare(self, batch: Batch, policy: ForwardPasses) -> Batch:
        """Adds the entropy of each token if only the tokens of highest entropy are trained."""
        batch = super().prepare(batch, policy)
        if self.top_entropy_quantile == 1 or "entropies" in batch.extras:
            return batch
        return batch.replace_extras(entropies=policy.readout(batch, entropy_detached))

    def credit(self, rollout: Batch, state: State) -> tuple[Batch, State]:
        """Adds advantages (the same for all tokens of a row or turn), the loss mask, and optional weights and masks."""
        assert rollout.rewards is not None
        trained = trained_tokens(rollout, self.mask_truncated_completions)
        by_turn = self.credit_assignment == "turn"
        advantages = (self._turn_advantages(rollout) if by_turn else self._row_advantages(rollout)[:, None]) * trained
        credited = replace(rollout, advantages=advantages, loss_mask=trained)
        if self.importance_sampling_correction is not None:
            credited = credited.replace_extras(sampler_weights=self._sampler_weights(rollout))
        if self.top_entropy_quantile < 1:
            scored = trained & ~rollout.rewards.isnan()[:, None]
            high = top_share_mask(rollout.extras["entropies"], scored, self.top_entropy_quantile)
            credited = credited.replace_extras(high_entropy=high)
        return credited, state

    def rollout_metrics(self, rollout: Batch, state: State) -> Metrics:
        """The KL of whole completions at sampling time, and how far the sampler's log-probs are from the policy's."""
        metrics: dict[str, Metric] = {"kl/sequence_sum": sequence_kl(rollout)} if self.beta else {}
        if self.importance_sampling_correction is not None:
            assert rollout.old_logps is not None
            difference = (rollout.old_logps - rollout.extras["sampled_logps"]).abs()
            known = rollout.loss_mask & ~difference.isnan()
            metrics["sampling/sampling_logp_difference/mean"] = mean_of(difference, known)
            metrics["sampling/importance_sampling_ratio/mean"] = mean_of(rollout.extras["sampler_weights"], known)
        return metrics

    def active_rows(self, batch: Batch) -> Tensor:
        """Rows with a non-zero advantage; all trained rows if the loss has a KL penalty or an entropy bonus."""
        assert batch.advantages is not None
        has_other_terms = self.kl_in_loss() or self.entropy_coef
        return batch.loss_mask.any(1) if has_other_terms else (batch.advantages != 0).any(1)

    def objective(self, logps: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Metric]]:
        """(N, T) loss of each token before the KL, and metrics; `batch.advantages` is 0 for untrained tokens."""
        raise NotImplementedError(f"{type(self).__name__} does not define `objective`")

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The masked and weighted objective plus the KL penalty, summed by `reduction`, minus the entropy bonus."""
        assert batch.advantages is not None
        # Tokens of a row may share one ratio: advantages of untrained columns must not affect its gradient.
        batch = replace(batch, advantages=batch.advantages.masked_fill(~batch.loss_mask, 0))
        loss, metrics = self.objective(outputs.logps, batch)
        if self.off_policy_mask_threshold is not None:
            kept = self._off_policy_mask(outputs.logps, batch)
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
        """(N,) advantages of the summed reward, or the scaled sum of each reward's advantages."""
        assert rollout.rewards is not None
        if self.multi_objective_aggregation == "normalize_then_sum":
            rewards, weights = rollout.separate_rewards, rollout.reward_weights
            columns = torch.stack([rewards[name] for name in weights], 1)
            return scale_over_batch(standardised_sum(columns, torch.tensor(list(weights.values())), rollout.group_of))
        return self.advantages(self._summed_rewards(rollout), rollout.group_of)

    def _summed_rewards(self, rollout: Batch) -> Tensor:
        """(N,) the rewards, without the KL penalty if it belongs to the reward."""
        assert rollout.rewards is not None
        if not self.kl_in_reward():
            return rollout.rewards
        return rollout.rewards - self.beta * masked_sum(sampled_kl(rollout), rollout.loss_mask)

    def _turn_advantages(self, rollout: Batch) -> Tensor:
        """(N, T) advantages of the return-to-go of each turn, among the rows of the group that have such a turn."""
        turns = turns_of(rollout.loss_mask)
        earned = rollout.extras.get("turn_rewards", torch.zeros(turns.shape))
        returns = turn_returns(self._summed_rewards(rollout), earned)
        advantages = torch.zeros_like(returns)
        for turn in range(int(turns.max()) + 1 if turns.numel() else 0):
            tokens = turns == turn
            rows = tokens.any(1).nonzero()[:, 0]
            group_of = rollout.group_of[rows].unique_consecutive(return_inverse=True)[1]
            made = self.advantages(returns[rows, tokens[rows].int().argmax(1)], group_of)
            advantages[rows] += made[:, None] * tokens[rows]
        return advantages

    def _off_policy_mask(self, logps: Tensor, batch: Batch) -> Tensor:
        """(N, T) bool: false for rows that are excluded as off-policy."""
        assert batch.advantages is not None
        assert batch.old_logps is not None
        assert self.off_policy_mask_threshold is not None
        sampled = batch.extras.get("sampled_logps", batch.old_logps)
        return off_policy_mask(logps, sampled, batch.advantages, batch.loss_mask, self.off_policy_mask_threshold)

    def _sampler_weights(self, rollout: Batch) -> Tensor:
        """(N, T) importance sampling correction weight of each token."""
        assert rollout.old_logps is not None
        assert self.importance_sampling_correction is not None
        assert "sampled_logps" in rollout.extras, "an exact sampler needs no importance sampling correction"
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
    """(N, T) bool: the trained tokens, without those of truncated rows if `mask_truncated` is true."""
    if not mask_truncated:
        return rollout.loss_mask
    assert rollout.truncated is not None
    return rollout.loss_mask & ~rollout.truncated[:, None]


def high_entropy(batch: Batch) -> Tensor:
    """(N, T) bool: the tokens in the objective: all trained tokens, unless `credit` selected those of high entropy."""
    return batch.loss_mask & batch.extras.get("high_entropy", batch.loss_mask)


def num_high_entropy(batch: Batch) -> Tensor:
    """Number of tokens in the entropy bonus, plus a tiny constant because a step may have none."""
    return high_entropy(batch).sum().double() + MIN_COUNT


def sampled_kl(rollout: Batch) -> Tensor:
    """(N, T) k1 estimate of the KL of each token to the reference at sampling time."""
    assert rollout.old_logps is not None
    assert rollout.ref_logps is not None
    return k1(rollout.old_logps, rollout.ref_logps)


def sequence_kl(rollout: Batch) -> Metric:
    """Mean of `sampled_kl`, summed over each row, over scored rows with a trained token."""
    assert rollout.rewards is not None
    trained = rollout.loss_mask & ~rollout.rewards.isnan()[:, None]
    return mean_of(masked_sum(sampled_kl(rollout), trained), trained.any(1))


def clip_ratios(low: Tensor, high: Tensor, mask: Tensor) -> dict[str, Metric]:
    """TRL's clipping metrics: fractions of trained tokens clipped at the lower bound, the upper bound and either."""
    return {
        "clip_ratio/low_mean": mean_of(low.float(), mask),
        "clip_ratio/high_mean": mean_of(high.float(), mask),
        "clip_ratio/region_mean": mean_of((low | high).float(), mask),
    }
