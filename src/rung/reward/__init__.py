"""Rewards: plain functions that judge completions; their parameters say which data and settings they need."""

from rung.reward.binding import Reward
from rung.reward.decorator import Verdict, reward
from rung.reward.outcome import Outcome
from rung.reward.reward_set import RewardSet
from rung.reward.sample import Sample
from rung.reward.scores import Scores
from rung.reward.spec import RewardPolicy, RewardSpec

__all__ = ["Outcome", "Reward", "RewardPolicy", "RewardSet", "RewardSpec", "Sample", "Scores", "Verdict", "reward"]
