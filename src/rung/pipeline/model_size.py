"""The size of a path's model, which decides its defaults."""

from __future__ import annotations

from pathlib import Path

from rung.artifacts.locate import locate
from rung.config import PathConfig, resolve
from rung.config.defaults import size_of
from rung.models.load import meta_model
from rung.models.names import TINY


def resolve_by_model(config: PathConfig) -> PathConfig:
    """The config with a number for every `auto`, by the size of its model; raises ConfigError as `size_of_model`."""
    return resolve(config, size_of_model(config))


def size_of_model(config: PathConfig) -> str:
    """The name of the defaults for the model of a path; only the config of a model that is not tiny is read.

    Raises ConfigError where there is no such model.
    """
    location = locate(config.model, base=config.base, runs=Path(config.output))
    return "tiny" if location.startswith(TINY) else size_of(num_parameters(location))


def num_parameters(location: str) -> int:
    """How many parameters a model has, by its config alone; ConfigError where there is no such model."""
    return sum(parameter.numel() for parameter in meta_model(location).parameters())
