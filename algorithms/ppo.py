"""Proximal policy optimisation for language models: a critic estimates the value of the state before each token.

    r_t  = - beta (log pi_old - log ref) + [t is the last token] (R - missing_eos_penalty [truncated])
    A_t  = delta_t + gamma lam A_{t+1},  delta_t = r_t + gamma V_{t+1} - V_t,  returns = A + V_old,  then A is whitened
    V after the last token is 0; with `bootstrap_truncated` it is the critic's for answers that hit the length limit
    loss = sum_t - min(rho A, clip(rho, 1 - eps, 1 + eps) A) / sum_t 1
         + vf_coef sum_t 1/2 max((V - returns)^2, (V_old + clip(V - V_old, +-cliprange_value) - returns)^2) / sum_t 1

Source: Schulman et al. 2017 (arXiv 1707.06347), for language models as in Ziegler et al. 2019 (arXiv 1909.08593) and
its released code. V_t is the value of the state before token t; the critic is set by the stage key `critic`.
1. The KL is k1 in the reward of each token, with a fixed coefficient or one that follows `kl_target`.
2. Environment tokens get no reward and are skipped by the recursion; the last trained token gets the reward.
3. Advantages, returns, V_old and old log-probs stay fixed for all updates of a rollout.

How we differ: whitening uses the biased variance, as that code does, over the trained tokens of the whole rollout;
`whiten_rewards` is off, as in TRL; the sampler reports whether an answer ended, which is never derived from the padded
width; rows without a reward enter neither whitening nor the KL. TRL's `kl_coef` is `beta`, its `cliprange` is
`epsilon`, as in `grpo`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from rung.algorithm import Algorithm, DataKind, Need, State
from rung.algorithms.shared.group_relative import clip_ratios, sampled_kl
from rung.batch import Batch, Denominator, Loss, Outputs, Readout
from rung.errors import ConfigError
from rung.maths.advantages import adapted_beta, at_last_token, explained_variance, gae, whiten, whiten_keeping_mean
from rung.maths.tensors import (
    clipped_objective,
    clipped_value_loss,
    dual_clip,
    entropy_detached,
    k3,
    masked_mean,
    masked_sum,
    token_log_ratio,
)
from rung.metrics import Mean, Metric, Metrics, mean_of

KL_UNITS = {"sequence_sum": masked_sum, "token_mean": masked_mean}


class PPO(Algorithm):
    """Proximal policy optimisation with a critic and a reward on each sampled completion.

    Defaults: epsilon (arXiv 1707.06347); num_generations, cliprange_value, vf_coef, gamma, lam, kl_horizon
    (arXiv 1909.08593, released code); beta (TRL).
    """

    name: ClassVar = "ppo"

    num_generations: PositiveInt = 1
    """Completions sampled for each prompt."""
    epsilon: float = Field(default=0.2, gt=0, lt=1)
    """Clipping range: ratios are clipped to 1 - epsilon and 1 + epsilon."""
    delta: float | None = None
    """Dual clip: upper bound of the ratio for negative advantages; null means no bound."""
    cliprange_value: PositiveFloat = 0.2
    """Clipping range of the value around the value at rollout time, in units of reward."""
    vf_coef: NonNegativeFloat = 0.1
    """Coefficient of the value loss."""
    gamma: float = Field(default=1.0, ge=0, le=1)
    """Discount factor of rewards, per token."""
    lam: float = Field(default=0.95, ge=0, le=1)
    """Lambda of generalised advantage estimation: 0 uses only the next value, 1 the rewards up to the end."""
    beta: NonNegativeFloat = 0.05
    """Coefficient of the KL penalty in the reward; at 0 no reference model is kept; with `kl_target` the initial
    coefficient."""
    kl_target: PositiveFloat | None = None
    """Target KL that `beta` is adapted to after each rollout, in the unit `kl_unit`; null means a fixed `beta`."""
    kl_unit: Literal["sequence_sum", "token_mean"] | None = None
    """Unit of `kl_target`: the KL summed over a completion, or its mean per token."""
    kl_horizon: PositiveInt = 10_000
    """Number of completions over which `beta` changes by at most a fifth."""
    whiten_rewards: bool = False
    """Scale token rewards, KL penalty included, to variance 1 over the rollout."""
    missing_eos_penalty: NonNegativeFloat = 0.0
    """Penalty for a completion that hit the length limit, in units of reward."""
    bootstrap_truncated: bool = False
    """Bootstrap a completion that hit the length limit from the critic's value after its last token."""

    @model_validator(mode="after")
    def _consistent(self) -> "PPO":
        if self.delta is not None and self.delta <= 1 + self.epsilon:
            clip = f"1 + `epsilon` = {1 + self.epsilon:g}"
            what = f"`delta` {self.delta:g} is not above the clipping bound {clip}, but bounds only unclipped ratios"
            raise ConfigError(what, "raise `delta` (3 is usual), or leave it out")
        if self.kl_target is not None and self.kl_unit is None:
            what = f"`kl_target` {self.kl_target:g} has no unit: is it per completion or per token?"
            raise ConfigError(what, "set `kl_unit: sequence_sum` or `kl_unit: token_mean`")
        if self.kl_target is not None and not self.beta:
            what = "`kl_target` adapts `beta` by multiplication, so `beta` 0 stays 0"
            raise ConfigError(what, "start from a positive `beta`, such as 0.15")
        if self.bootstrap_truncated and self.missing_eos_penalty:
            what = "`missing_eos_penalty` treats truncation as the end of an answer, but `bootstrap_truncated` does not"
            raise ConfigError(what, "keep one of them")
        return self

    def data_kind(self) -> DataKind:
        """Prompts to sample from."""
        return "prompts"

    def needs(self) -> frozenset[Need]:
        """Old log-probs and values; a reference model if `beta` is positive."""
        needs: frozenset[Need] = frozenset({"old_logps", "values"})
        return needs | {"reference"} if self.beta else needs

    def terms(self) -> Mapping[str, Denominator]:
        """The clipped policy loss and the clipped value loss, both means over trained tokens."""
        return {"policy": "tokens", "value": "tokens"}

    def readouts(self) -> Mapping[str, Readout]:
        """Entropy, for metrics."""
        return {"entropy": entropy_detached}

    def unused_settings(self) -> dict[str, str]:
        """The settings of the adaptive KL coefficient if `kl_target` is not set, and of an untrained critic."""
        unused: dict[str, str] = {}
        if self.kl_target is None:
            unused |= dict.fromkeys(("kl_unit", "kl_horizon"), "`kl_target` is not set")
        return unused if self.vf_coef else unused | {"cliprange_value": "`vf_coef` is 0, so the critic is not trained"}

    def samples_per_prompt(self) -> int:
        """The number of completions sampled for each prompt: `num_generations`."""
        return self.num_generations

    def initial_state(self) -> State:
        """The initial KL coefficient if `kl_target` is set, else nothing."""
        return {} if self.kl_target is None else {"beta": self.beta}

    def credit(self, rollout: Batch, state: State) -> tuple[Batch, State]:
        """Adds whitened advantages from generalised advantage estimation, and the returns as targets of the critic."""
        assert rollout.values is not None
        values, trained = rollout.values, scored_tokens(rollout)
        rewards = at_last_token(self._scores(rollout), trained)
        if self.beta:
            kl = sampled_kl(rollout)
            rewards = rewards - self._beta(state) * kl
            state = self._adapted(kl, trained, state)
        if self.whiten_rewards:
            rewards = whiten_keeping_mean(rewards, trained)
        advantages = gae(rewards, values, self._end_values(rollout), trained, self.gamma, self.lam)
        returns = torch.where(trained, advantages + values, 0)
        return replace(rollout, advantages=whiten(advantages, trained), returns=returns), state

    def rollout_metrics(self, rollout: Batch, state: State) -> Metrics:
        """The explained variance of the returns, the KL of whole completions, and the KL coefficient."""
        assert rollout.values is not None
        assert rollout.returns is not None
        trained = scored_tokens(rollout)
        metrics = {"explained_variance": mean_of(explained_variance(rollout.values, rollout.returns, trained))}
        if self.beta:
            metrics["kl/sequence_sum"] = mean_of(masked_sum(sampled_kl(rollout), trained), trained.any(1))
            metrics["beta"] = Mean(self._beta(state), 1)
        return metrics

    def active_rows(self, batch: Batch) -> Tensor:
        """Rows with a trained token: a row with zero advantages still trains the critic."""
        return batch.loss_mask.any(1)

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The clipped policy loss and the clipped value loss."""
        assert batch.advantages is not None
        assert batch.old_logps is not None
        assert batch.values is not None
        assert batch.returns is not None
        assert outputs.values is not None
        ratio = token_log_ratio(outputs.logps, batch.old_logps).exp()
        policy = clipped_objective(ratio, batch.advantages, self.epsilon, self.epsilon)
        if self.delta is not None:
            policy = dual_clip(policy, batch.advantages, self.delta)
        value = self.vf_coef * clipped_value_loss(outputs.values, batch.values, batch.returns, self.cliprange_value)
        sums = {name: masked_sum(each, batch.loss_mask).sum() for name, each in (("policy", policy), ("value", value))}
        metrics = self._clipped(ratio, batch, outputs.values)
        metrics["entropy"] = mean_of(outputs.readouts["entropy"], batch.loss_mask)
        if self.beta:
            assert batch.ref_logps is not None
            metrics["kl"] = mean_of(k3(outputs.logps, batch.ref_logps), batch.loss_mask)
        return Loss(sums, metrics)

    def _scores(self, rollout: Batch) -> Tensor:
        """(N,) rewards of whole completions, minus the penalty for truncated ones."""
        assert rollout.rewards is not None
        if not self.missing_eos_penalty:
            return rollout.rewards
        assert rollout.truncated is not None
        return rollout.rewards - self.missing_eos_penalty * rollout.truncated

    def _end_values(self, rollout: Batch) -> Tensor:
        """(N,) values after the last token: the critic's for truncated completions that are bootstrapped, else 0."""
        assert rollout.values is not None
        if not self.bootstrap_truncated:
            return rollout.values.new_zeros(rollout.num_rows)
        assert rollout.end_values is not None
        assert rollout.truncated is not None
        return torch.where(rollout.truncated, rollout.end_values, 0)

    def _beta(self, state: State) -> float:
        """The current KL coefficient: that of the state, or the setting before the first rollout."""
        beta = state.get("beta", self.beta)
        assert isinstance(beta, int | float)
        return float(beta)

    def _adapted(self, kl: Tensor, trained: Tensor, state: State) -> State:
        """The state after a rollout whose token log-ratios to the reference are `kl` (N, T)."""
        rows = trained.any(1)
        if self.kl_target is None or not rows.any():
            return state
        assert self.kl_unit is not None, "`check_settings` asks for it"
        measured = float(KL_UNITS[self.kl_unit](kl, trained)[rows].mean())
        return {"beta": adapted_beta(self._beta(state), measured, self.kl_target, self.kl_horizon, int(rows.sum()))}

    def _clipped(self, ratio: Tensor, batch: Batch, values: Tensor) -> dict[str, Metric]:
        assert batch.advantages is not None
        assert batch.values is not None
        low = (ratio < 1 - self.epsilon) & (batch.advantages < 0)
        high = (ratio > 1 + self.epsilon) & (batch.advantages > 0)
        moved = (values - batch.values).abs() > self.cliprange_value
        return clip_ratios(low, high, batch.loss_mask) | {
            "clip_ratio/value_mean": mean_of(moved.float(), batch.loss_mask)
        }


def scored_tokens(rollout: Batch) -> Tensor:
    """(N, T) bool: the trained tokens of rows that have a reward."""
    assert rollout.rewards is not None
    return rollout.loss_mask & ~rollout.rewards.isnan()[:, None]
