"""What a form of rows is."""

from collections.abc import Callable
from dataclasses import dataclass

from rung.data.fields import Columns
from rung.data.records import Example


def no_notice(row: Columns) -> str:
    """Nothing about the row is worth a notice."""
    return ""


@dataclass(frozen=True, slots=True)
class Format:
    """A form of rows: its name in a config, its signature in words, and its functions.

    A row's missing and null columns are the same thing. `convert` takes columns and source and raises `BadRow` for a
    row that has the columns of its form and cannot be used. `notice` tells what the report counts about a row that is
    kept, in words without the row's own.
    """

    name: str
    signature: str
    matches: Callable[[Columns], bool]
    convert: Callable[[Columns, str], list[Example]]
    notice: Callable[[Columns], str] = no_notice
