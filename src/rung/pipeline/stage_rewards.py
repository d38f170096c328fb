"""Builds the rewards of a stage, and checks them against the data of the stage and the policy's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from rung.artifacts.reward_models import is_pending
from rung.data.records import Encoded
from rung.data.spec import renamed_columns
from rung.errors import ConfigError, error_context
from rung.pipeline.stage_settings import StageSettings
from rung.reward import RewardSet


def build_rewards(settings: StageSettings, encoded: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase) -> RewardSet:
    """The rewards of a stage, checked against the columns of every row and against the policy's tokenizer.

    The set may be empty if the algorithm reads no rewards. Raises UserError if a check fails.
    """
    rewards = _bind(settings, encoded)
    rewards.check_policy(tokenizer)
    return rewards


def check_rewards(settings: StageSettings, encoded: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Makes the checks of `build_rewards` that are possible before earlier stages have trained their reward models.

    Returns the columns of the data that the rewards read.
    """
    with _bind(settings, encoded) as rewards:
        read = rewards.columns_read({name for one in encoded for name in one.example.columns})
    trained = [reward for reward in settings.rewards if not is_pending(reward)]
    agentic = bool(settings.toolbox)
    with RewardSet(trained, settings.reward_policy, settings.base, trajectories=agentic) as rewards:
        rewards.check_policy(tokenizer)
    return read


def _bind(settings: StageSettings, encoded: Sequence[Encoded]) -> RewardSet:
    """The rewards of a stage, checked against the columns of the data and against the algorithm."""
    with error_context(f"stage `{settings.name}`"):
        rewards = RewardSet(
            settings.rewards, settings.reward_policy, settings.base, trajectories=bool(settings.toolbox)
        )
        for columns in {frozenset(one.example.columns) for one in encoded}:
            rewards.check(columns, renamed_columns(settings.data))
        if settings.algorithm.reads_rewards and not any(reward.credited for reward in rewards.rewards):
            what = f"no reward affects training ({', '.join(rewards.goals)}): each has `weight: 0` or `role: metric`"
            raise ConfigError(
                what, "give one of them a `weight` other than 0 and a `role` other than `metric`, or add a reward"
            )
        if "separate_rewards" in settings.algorithm.needs():
            rewards.check_separate()
    return rewards
