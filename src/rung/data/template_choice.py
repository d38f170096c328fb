"""The keys `chat_template` and `date` of a config: the template that a tokenizer gets, and the day that it writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date
from pathlib import Path
from typing import Any, Literal

from rung.data.templates import dated
from rung.data.trl_templates import is_training, training_of
from rung.errors import ConfigError

TRL = "trl"  # the value of `chat_template` for TRL's training template
_chosen: ContextVar[str | None] = ContextVar("chosen", default=None)


@contextmanager
def rendering(day: date | Literal["today"], template: str | None, base: Path) -> Iterator[None]:
    """A context manager for the keys `date` and `chat_template` of a config: see `dated` and `replaced_template`."""
    with dated(day), replaced_template(template, base):
        yield


@contextmanager
def replaced_template(spec: str | None, base: Path) -> Iterator[None]:
    """A context manager in which tokenizers are loaded with another chat template (see `chosen_template`).

    `spec` is `trl`, a file relative to `base`, or None for the model's own. Raises ConfigError if the file cannot be
    read.
    """
    token = _chosen.set(spec if spec in (None, TRL) else _read_template(base / str(spec)))
    try:
        yield
    finally:
        _chosen.reset(token)


def chosen_template(own: Any, name: str) -> Any:
    """The chat template of a tokenizer whose own is `own`: the one that the config chose, or its own.

    `name` is that of the model. Raises ConfigError if TRL has no training template for it.
    """
    chosen = _chosen.get()
    if chosen is None or chosen != TRL:
        return own if chosen is None else chosen
    found = training_of(own) if isinstance(own, str) else None
    if found is None and not (isinstance(own, str) and is_training(own)):
        what = f"TRL has no training template for the chat template of `{name}`"
        raise ConfigError(what, "set `chat_template` to a file with a template, or leave it out")
    return own if found is None else found[0]


def _read_template(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        remedy = "name a file with a Jinja chat template, or `trl` for TRL's training template"
        raise ConfigError(f"`chat_template`: {file} cannot be read: {reason}", remedy) from None
    if not text.strip():
        raise ConfigError(f"`chat_template`: {file} is empty", "write a Jinja chat template into it")
    return text
