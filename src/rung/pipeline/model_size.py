"""The size of a path's model, which determines the values of `auto`."""

from __future__ import annotations

from pathlib import Path

from rung.artifacts.locate import locate
from rung.config import PathConfig, resolve
from rung.config.defaults import size_of
from rung.models.load import meta_model
from rung.models.names import TINY
from rung.utils.allowed_code import only_allowed


def resolve_by_model(config: PathConfig) -> PathConfig:
    """The config with a value in place of every `auto`, for the size of its model.

    Raises ConfigError if the model does not exist.
    """
    with only_allowed(config.code):
        return resolve(config, size_of_model(config))


def size_of_model(config: PathConfig) -> str:
    """The size class (`tiny`, `small` or `large`) of a path's model, from the model's config, without its weights.

    Raises ConfigError if the model does not exist.
    """
    location = locate(config.model, base=config.base, runs=Path(config.output))
    return "tiny" if location.startswith(TINY) else size_of(num_parameters(location))


def num_parameters(location: str) -> int:
    """The number of parameters of a model, from its config alone. Raises ConfigError if the model does not exist."""
    return sum(parameter.numel() for parameter in meta_model(location).parameters())
