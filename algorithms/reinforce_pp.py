"""REINFORCE++: PPO without a critic; the advantage of a token is its whitened reward-to-go.

    r_t  = - beta k1_t + [t is the last token] R,  A_t = sum_{s >= t} r_s, then whitened over all tokens of the rollout
    loss = sum_t - min(rho A, clip(rho, 1 - eps, 1 + eps) A) / sum_t 1

Source: Hu et al. 2025 (arXiv 2501.03262), eq. 4 to 6. One sample per prompt is enough, because the baseline is the mean
over the rollout. `reinforce_pp_baseline` uses several, subtracts the mean of each group, divides by the std of the
centred rewards over the whole rollout (a group's own std would weight easy prompts as much as hard ones), and adds k2
to the loss.

How we differ: whitening uses the biased variance, as in `ppo`, over the trained tokens of scored rows.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from rung.algorithm import Algorithm, DataKind, Need, State
from rung.algorithms.grpo import GRPO
from rung.algorithms.shared.group_relative import clip_ratios, sampled_kl, sequence_kl, trained_tokens
from rung.algorithms.shared.options import KLEstimator, Reduction, Scale
from rung.batch import Batch, Denominator, Loss, Outputs, Readout
from rung.maths.advantages import at_last_token, reward_to_go, whiten
from rung.maths.tensors import clipped_objective, entropy_detached, k3, masked_sum, token_log_ratio
from rung.metrics import Metrics, mean_of


class ReinforcePP(Algorithm):
    """REINFORCE++: reward-to-go including the KL penalty, whitened over the rollout, with PPO's clipping.

    Defaults: num_generations, epsilon (arXiv 2501.03262); beta (arXiv 2501.03262, released code).
    """

    name: ClassVar = "reinforce_pp"

    num_generations: PositiveInt = 1
    """Completions sampled for each prompt."""
    epsilon: float = Field(default=0.2, gt=0, lt=1)
    """Clipping range: ratios are clipped to 1 - epsilon and 1 + epsilon."""
    beta: NonNegativeFloat = 0.01
    """Coefficient of the KL penalty in the reward of each token; at 0 no reference model is kept."""
    mask_truncated_completions: bool = False
    """Exclude completions that hit the length limit from the loss."""

    def data_kind(self) -> DataKind:
        """Prompts to sample from."""
        return "prompts"

    def needs(self) -> frozenset[Need]:
        """Old log-probs; a reference model if `beta` is positive."""
        needs: frozenset[Need] = frozenset({"old_logps"})
        return needs | {"reference"} if self.beta else needs

    def terms(self) -> Mapping[str, Denominator]:
        """The clipped policy loss, a mean over trained tokens."""
        return {"policy": "tokens"}

    def readouts(self) -> Mapping[str, Readout]:
        """Entropy, for metrics."""
        return {"entropy": entropy_detached}

    def samples_per_prompt(self) -> int:
        """The number of completions sampled for each prompt: `num_generations`."""
        return self.num_generations

    def credit(self, rollout: Batch, state: State) -> tuple[Batch, State]:
        """Adds advantages: the whitened sum of the rewards of a token and those after it."""
        assert rollout.rewards is not None
        trained = trained_tokens(rollout, self.mask_truncated_completions)
        scored = trained & ~rollout.rewards.isnan()[:, None]
        rewards = at_last_token(rollout.rewards, scored)
        if self.beta:
            rewards = rewards - self.beta * sampled_kl(rollout)
        advantages = whiten(reward_to_go(rewards, scored), scored)
        return replace(rollout, advantages=advantages, loss_mask=trained), state

    def rollout_metrics(self, rollout: Batch, state: State) -> Metrics:
        """The KL of whole completions at sampling time."""
        return {"kl/sequence_sum": sequence_kl(rollout)} if self.beta else {}

    def active_rows(self, batch: Batch) -> Tensor:
        """Rows with a non-zero advantage."""
        assert batch.advantages is not None
        return (batch.advantages != 0).any(1)

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The clipped policy loss, summed over tokens."""
        assert batch.advantages is not None
        assert batch.old_logps is not None
        ratio = token_log_ratio(outputs.logps, batch.old_logps).exp()
        loss = clipped_objective(ratio, batch.advantages, self.epsilon, self.epsilon)
        low = (ratio < 1 - self.epsilon) & (batch.advantages < 0)
        high = (ratio > 1 + self.epsilon) & (batch.advantages > 0)
        metrics = clip_ratios(low, high, batch.loss_mask)
        metrics["entropy"] = mean_of(outputs.readouts["entropy"], batch.loss_mask)
        if self.beta:
            assert batch.ref_logps is not None
            metrics["kl"] = mean_of(k3(outputs.logps, batch.ref_logps), batch.loss_mask)
        return Loss({"policy": masked_sum(loss, batch.loss_mask).sum()}, metrics)


class ReinforcePPBaseline(GRPO):
    """REINFORCE++ with baseline (arXiv 2501.03262): rewards minus the group mean, divided by one std per rollout.

    Defaults: scale_rewards, reduction, kl_estimator (arXiv 2501.03262); beta (arXiv 2501.03262, released code).
    """

    name: ClassVar = "reinforce_pp_baseline"
    beta: NonNegativeFloat = 0.01
    kl_estimator: KLEstimator = "k2"
    scale_rewards: Scale = "centred"
    reduction: Reduction = "token_mean"
