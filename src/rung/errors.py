"""Errors for users, in two lines: what is wrong (file, row, key) and what to do."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class UserError(ValueError):
    """A mistake in a user's input; the command prints it in two lines and exits with 2.

    >>> print(UserError("data.jsonl, row 7: `prompt` is empty", "fill it, or set `on_bad_row: skip`"))
    data.jsonl, row 7: `prompt` is empty
    fill it, or set `on_bad_row: skip`
    """

    def __init__(self, what: str, remedy: str):
        super().__init__(f"{what}\n{remedy}")
        self.what = what
        self.remedy = remedy


class ConfigError(UserError):
    """A config key, value or combination that cannot work."""


class DataError(UserError):
    """A file or row that cannot be used."""


class RewardError(UserError):
    """A reward function that cannot be called, or that fails too often to train on."""


class SamplingError(UserError):
    """Sampling that cannot continue, such as prompts that never yield a group to train on."""


class GenerationLimitError(SamplingError):
    """The limit of generation batches for one rollout was reached, which a run may go on from with a larger limit."""


class EmptyStepsError(DataError):
    """Too many steps in a row without anything to train, which a run may go on from with a larger limit."""


class CheckpointError(UserError):
    """A checkpoint or run folder that cannot be read or written."""


@contextmanager
def error_context(place: str) -> Iterator[None]:
    """A context manager that puts `place` (a stage, a key or a file) before the text of UserErrors raised inside it.

    >>> with error_context("stage `sft`"):
    ...     raise ConfigError("`beta` is -1", "make it positive")
    Traceback (most recent call last):
    rung.errors.ConfigError: stage `sft`: `beta` is -1
    make it positive
    """
    try:
        yield
    except UserError as error:
        raise type(error)(f"{place}: {error.what}", error.remedy) from None
