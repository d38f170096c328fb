"""Builds the agent of a stage or an evaluation, which answers the turns of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rung.agents.agent import Agent, Toolbox, check_template
from rung.agents.bridge import Bridge
from rung.errors import ConfigError
from rung.models.stops import stop_ids
from rung.rollout.generate_rows import shares_state
from rung.rollout.samplers import LocalSampler


def build_agent(
    toolbox: Toolbox, sampler: Any, tokenizer: PreTrainedTokenizerBase, stops: Sequence[int]
) -> Agent | None:
    """The agent with the tools and environments of `toolbox`; None if there are none.

    `stops` are the ids that end a turn. Raises ConfigError if the sampler, its model or the chat template cannot go on
    after an answer.
    """
    if not toolbox:
        return None
    check_sampler(type(sampler), sampler.model)
    return Agent(toolbox, tokenizer, stop_texts(tokenizer, stops))


def check_agent(toolbox: Toolbox, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sampler: type) -> None:
    """Raises ConfigError for tools that cannot be used with a model or by this class of samplers; computes nothing."""
    if toolbox:
        check_sampler(sampler, model)
        check_template(Bridge(tokenizer, stop_texts(tokenizer, stop_ids(model, tokenizer))), toolbox)


def check_sampler(sampler: type, model: PreTrainedModel) -> None:
    """Raises ConfigError if samplers of a class, or a model, cannot go on after an answer."""
    if not issubclass(sampler, LocalSampler):
        what = f"sampler `{getattr(sampler, 'name', sampler.__name__)}` cannot go on after the answer of a tool"
        raise ConfigError(what, "use `sampler: local`, or leave out `tools` and `environment_factory`")
    if not shares_state(model):
        what = f"model `{model.config.model_type}` has a recurrent state, which cannot wait for an answer"
        raise ConfigError(what, "use a model with attention in every layer, or leave out `tools` and environments")


def stop_texts(tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> tuple[str, ...]:
    """The texts of the tokens that end a turn."""
    return tuple(cast(str, tokenizer.decode([token])) for token in stop_ids)
