"""Gives the columns of a row the names that `columns:` in a config says, and makes columns of others by templates."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from string import Formatter
from typing import Any

from rung.data.read import Row
from rung.data.records import BadRow
from rung.errors import ConfigError
from rung.utils.messages import did_you_mean

GROUP = "group"
OURS = (GROUP, "prompt", "completion", "chosen", "rejected", "completions", "messages", "text", "label", "system")


def mapped(row: Row, columns: Mapping[str, str]) -> Row:
    """The row with the columns that `columns` names under rung's names; `group` is not a column of an example.

    A column that is read under another name loses its own, unless it is `group` or a part of a template.
    """
    if row.fault is not None or not columns:
        return row
    try:
        made = {ours: _value(row.columns, ours, theirs) for ours, theirs in columns.items() if ours != GROUP}
        if GROUP in columns:
            _value(row.columns, GROUP, columns[GROUP])
    except BadRow as fault:
        return replace(row, fault=fault)
    renamed = {theirs for ours, theirs in columns.items() if ours != GROUP} - {columns.get(GROUP)}
    kept = {name: value for name, value in row.columns.items() if name not in renamed}
    return replace(row, columns=kept | made)


def check_columns(rows: Sequence[Row], columns: Mapping[str, str], place: str) -> None:
    """Raises `ConfigError` if `columns` names a column that no row has; `place` is the data set in the message."""
    names = dict.fromkeys(name for row in rows for name in row.columns)
    for ours, theirs in columns.items() if names else ():
        missing = next((name for name in template_columns(ours, theirs) if name not in names), None)
        if missing is not None:
            what = f"{place}: `columns` reads `{missing}` as `{ours}`, but no row has a column `{missing}`"
            is_reversed = ours in names and theirs in OURS
            reverse = f"write `{theirs}: {ours}`, the name for rung first and the column of the file after it"
            raise ConfigError(what, reverse if is_reversed else did_you_mean(missing, names))


def group_of(row: Row, columns: Mapping[str, str]) -> Any:
    """The value of the column, or of the template, that `columns` names as `group`; None if it names none."""
    return _value(row.columns, GROUP, columns[GROUP]) if GROUP in columns else None


def template_columns(ours: str, theirs: str) -> list[str]:
    """The columns of the data that a value of `columns` names; a value with braces is a template.

    Raises `ConfigError` for a template that is not valid.

    >>> template_columns("prompt", "{context}? {{a}}"), template_columns("prompt", "question")
    (['context'], ['question'])
    """
    if not _is_template(theirs):
        return [theirs]
    where = f"`columns`: the template of `{ours}`"
    try:
        parts = list(Formatter().parse(theirs))
    except ValueError as error:
        raise ConfigError(f"{where} is not valid ({error})", "write `{{` and `}}` for braces in the text") from error
    named = [name for _, name, _, _ in parts if name is not None]
    if not all(named) or any(kind or conversion for _, _, kind, conversion in parts):
        raise ConfigError(f"{where} has a brace without the name of a column", "write `{column}`, and `{{` for a brace")
    return named


def _is_template(theirs: str) -> bool:
    return "{" in theirs or "}" in theirs


def _value(columns: Mapping[str, Any], ours: str, theirs: str) -> Any:
    for name in template_columns(ours, theirs):
        if name not in columns:
            known = ", ".join(columns)
            raise BadRow(f"the row has no column `{name}`", f"`columns:` names it; the columns are {known}")
    if not _is_template(theirs):
        return columns[theirs]
    parts = Formatter().parse(theirs)
    return "".join(literal + ("" if name is None else _text(columns[name], name)) for literal, name, _, _ in parts)


def _text(value: object, name: str) -> str:
    if isinstance(value, str):
        return value
    if value is None or not isinstance(value, int | float):
        found = "null" if value is None else type(value).__name__
        raise BadRow(f"`{name}` is part of a template, but neither a text nor a number", f"found {found}")
    return str(value)
