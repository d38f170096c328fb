"""Errors for users, in two lines: what is wrong (file, row, key) and what to do."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


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


class NonFiniteError(UserError):
    """Too many losses or gradients, or a policy or model, that are infinite or NaN; training may be rolled back."""


class MemoryLimitError(UserError):
    """Too little memory even for the smallest part of the work."""


class CheckpointError(UserError):
    """A checkpoint or run folder that cannot be read or written."""


class SeveralErrors(UserError):
    """Mistakes that were found together, in the order of `errors`; `what` and `remedy` are those of the first."""

    def __init__(self, errors: Sequence[UserError]):
        super().__init__(errors[0].what, errors[0].remedy)
        self.errors = tuple(errors)


class Faults:
    """Collects UserErrors of independent checks, so that all of them are told at once; of equal ones, the first remedy.

    >>> faults = Faults()
    >>> with faults.collect():
    ...     raise ConfigError("`beta` is -1", "make it positive")
    >>> faults.found
    1
    """

    def __init__(self):
        self._errors: dict[str, UserError] = {}

    @property
    def found(self) -> int:
        """The number of different errors so far."""
        return len(self._errors)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """A context manager that keeps a UserError raised inside it, and goes on after the block."""
        try:
            yield
        except UserError as error:
            for one in getattr(error, "errors", (error,)):
                self._errors.setdefault(one.what, one)

    def raise_found(self) -> None:
        """Raises the collected error, or `SeveralErrors` if there are more than one."""
        errors = list(self._errors.values())
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise SeveralErrors(errors)


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
    except SeveralErrors as error:
        named = [type(one)(f"{place}: {one.what}", one.remedy) for one in error.errors]
        raise SeveralErrors(named) from None
    except UserError as error:
        raise type(error)(f"{place}: {error.what}", error.remedy) from None
