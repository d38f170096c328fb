"""The rewards of a stage: bound, and checked against its data and the policy's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from rung.artifacts.reward_models import is_pending
from rung.data.records import Encoded
from rung.errors import ConfigError, error_context
from rung.pipeline.stage_settings import StageSettings
from rung.reward import RewardSet


def build_rewards(settings: StageSettings, encoded: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase) -> RewardSet:
    """The rewards of a stage, checked against the columns of every row and the policy's tokenizer; raises UserError.

    There may be none where the algorithm reads none.
    """
    rewards = _bound(settings, encoded)
    rewards.check_policy(tokenizer)
    return rewards


def check_rewards(settings: StageSettings, encoded: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises what `build_rewards` would, as far as it is known before the models of earlier stages are trained."""
    _bound(settings, encoded).close()
    trained = [reward for reward in settings.rewards if not is_pending(reward)]
    with RewardSet(trained, settings.reward_policy, settings.base) as rewards:
        rewards.check_policy(tokenizer)


def _bound(settings: StageSettings, encoded: Sequence[Encoded]) -> RewardSet:
    """The rewards, checked against the columns of the data and against the algorithm."""
    with error_context(f"stage `{settings.name}`"):
        rewards = RewardSet(settings.rewards, settings.reward_policy, settings.base)
        for columns in {frozenset(one.example.columns) for one in encoded}:
            rewards.check(columns)
        if settings.algorithm.reads_rewards and not any(reward.credited for reward in rewards.rewards):
            what = f"none of its rewards counts ({', '.join(rewards.goals)}): each weighs 0 or is a metric"
            raise ConfigError(what, "give one of them a `weight`, or add a reward that has one")
        if "separate_rewards" in settings.algorithm.needs():
            rewards.check_separate()
    return rewards
