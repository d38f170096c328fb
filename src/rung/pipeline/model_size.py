"""The size of a path's model, which determines its defaults."""

from __future__ import annotations

from pathlib import Path

from rung.artifacts.locate import locate
from rung.config import PathConfig, resolve
from rung.config.defaults import size_of
from rung.models.load import meta_model
from rung.models.names import TINY


def resolve_by_model(config: PathConfig) -> PathConfig:
    """The config with a value for every `auto`, by the size of its model; raises what `size_of_model` raises."""
    return resolve(config, size_of_model(config))


def size_of_model(config: PathConfig) -> str:
    """The size class of a path's model; reads the model's config only, and nothing for a `tiny:` model.

    Raises ConfigError where the model does not exist.
    """
    location = locate(config.model, base=config.base, runs=Path(config.output))
    return "tiny" if location.startswith(TINY) else size_of(num_parameters(location))


def num_parameters(location: str) -> int:
    """The number of parameters of a model, from its config alone; ConfigError where the model does not exist."""
    return sum(parameter.numel() for parameter in meta_model(location).parameters())
