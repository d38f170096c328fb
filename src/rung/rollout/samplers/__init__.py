"""Samplers: classes that sample completions of prompts, each in a file of its own."""

from rung.rollout.samplers.local import LocalSampler
from rung.rollout.samplers.protocol import Prompt, Sampler
from rung.rollout.samplers.registry import SAMPLERS

__all__ = ["SAMPLERS", "LocalSampler", "Prompt", "Sampler"]
