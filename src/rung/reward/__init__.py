"""Rewards: how a completion is judged, by plain functions whose signature is their schema."""

from rung.reward.bound import Reward
from rung.reward.contract import Verdict, reward
from rung.reward.outcome import Outcome
from rung.reward.panel import Rewards
from rung.reward.sample import Sample
from rung.reward.scores import Scores
from rung.reward.spec import RewardPolicy, RewardSpec

__all__ = ["Outcome", "Reward", "RewardPolicy", "RewardSpec", "Rewards", "Sample", "Scores", "Verdict", "reward"]
