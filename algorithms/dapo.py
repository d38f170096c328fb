"""Decoupled clip and dynamic sampling policy optimisation: GRPO for long reasoning, with four changes.

    loss = sum_i sum_t - min(rho A, clip(rho, 1 - eps, 1 + eps_high) A) / sum_i |y_i|,
    over groups with 0 < #{correct} < G

Source: Yu et al. 2025 (DAPO, arXiv 2503.14476), eq. 8.
1. Clip-higher: the upper bound 0.28 lets the probability of unlikely tokens grow further.
2. Token-level loss: one mean over all tokens, so the weight of an answer is proportional to its length.
3. Dynamic sampling: groups with a constant *task* reward are dropped and resampled until the rollout is full. The task
   reward has no shaping: with a length penalty included, the rewards of equally correct answers would differ.
4. Soft overlong punishment: a penalty that grows over the last `overlong_buffer` tokens before the limit up to
   `overlong_factor`.

How we differ: the penalty is clamped at -1; no KL and no entropy bonus, as in the paper; the number of generation
batches is limited, and an unfilled rollout is an error that reports the counts. `rung` samples as many prompts as the
fraction of groups kept so far suggests, instead of always three times the batch.
"""

from dataclasses import replace
from typing import ClassVar, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from rung.algorithm import State
from rung.algorithms.grpo import GRPO
from rung.algorithms.shared.options import Reduction
from rung.batch import Batch
from rung.errors import ConfigError
from rung.maths.advantages import is_mixed, overlong_penalty


class DAPO(GRPO):
    """DAPO with all its parts: clip-higher, token-level loss, dynamic sampling, soft overlong punishment.

    Defaults: num_generations, epsilon, epsilon_high, beta, reduction, overlong_buffer (arXiv 2503.14476);
    max_num_gen_batches, overlong_factor (arXiv 2503.14476, released code).
    """

    name: ClassVar = "dapo"
    bounds: ClassVar = frozenset({"max_num_gen_batches"})

    num_generations: int = Field(default=16, ge=2)
    epsilon_high: PositiveFloat | None = 0.28
    beta: NonNegativeFloat = 0.0
    reduction: Reduction = "token_mean"
    max_num_gen_batches: int = Field(default=10, ge=0)
    """Maximum number of generation batches per rollout; 0 = no limit."""
    overlong_buffer: int | None = Field(default=None, ge=0)
    """Tokens before the length limit that are penalised; null means a fifth of the limit, as in the paper; 0 = off."""
    overlong_factor: NonNegativeFloat = 1.0
    """Size of the full overlong penalty, in units of reward."""

    @model_validator(mode="after")
    def _check_penalty(self) -> Self:
        if self.overlong_buffer != 0 and self.multi_objective_aggregation == "normalize_then_sum":
            what = "the overlong penalty needs a summed reward; `normalize_then_sum` normalises each reward separately"
            raise ConfigError(what, "set `overlong_buffer: 0`, and add the reward `soft_overlong`")
        return self

    def unused_settings(self) -> dict[str, str]:
        """The unused settings of GRPO, and `overlong_factor` if the overlong penalty is disabled."""
        unused = super().unused_settings()
        return unused | {"overlong_factor": "`overlong_buffer` is 0"} if self.overlong_buffer == 0 else unused

    def generation_limit(self) -> int:
        """The maximum number of generation batches per rollout: `max_num_gen_batches`."""
        return self.max_num_gen_batches

    def keep_groups(self, rollout: Batch) -> Tensor:
        """Groups whose task rewards are not all equal."""
        assert rollout.task_rewards is not None
        return is_mixed(rollout.task_rewards, rollout.group_of)

    def credit(self, rollout: Batch, state: State) -> tuple[Batch, State]:
        """Adds the overlong penalty to the rewards, then computes GRPO's advantages."""
        assert rollout.rewards is not None
        limit = rollout.max_completion_length
        buffer = limit // 5 if self.overlong_buffer is None else min(self.overlong_buffer, limit)
        if buffer:
            penalty = self.overlong_factor * overlong_penalty(rollout.loss_mask.sum(1), limit, buffer)
            rollout = replace(rollout, rewards=rollout.rewards + penalty)
        return super().credit(rollout, state)
