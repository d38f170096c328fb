"""Builds the agent of a stage or an evaluation, which answers the turns of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from rung.agents.agent import Agent, Toolbox
from rung.errors import ConfigError
from rung.rollout.samplers import LocalSampler


def build_agent(
    toolbox: Toolbox, sampler: Any, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]
) -> Agent | None:
    """The agent with the tools and environments of `toolbox`; None if there are none.

    Raises ConfigError if the sampler, its model or the chat template cannot go on after an answer.
    """
    if not toolbox:
        return None
    if not isinstance(sampler, LocalSampler):
        what = f"sampler `{sampler.name}` cannot go on after the answer of a tool"
        raise ConfigError(what, "use `sampler: local`, or leave out `tools` and `environment_factory`")
    sampler.check_trajectories()
    return Agent(toolbox, tokenizer, stop_texts(tokenizer, stop_ids))


def stop_texts(tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> tuple[str, ...]:
    """The texts of the tokens that end a turn."""
    return tuple(cast(str, tokenizer.decode([token])) for token in stop_ids)
