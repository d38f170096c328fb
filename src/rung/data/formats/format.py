"""What a data format is."""

from collections.abc import Callable
from dataclasses import dataclass

from rung.data.fields import Columns
from rung.data.records import Example


def no_notice(row: Columns) -> str:
    """Nothing to report about a row."""
    return ""


@dataclass(frozen=True, slots=True)
class Format:
    """A data format: its name in a config, its columns in words, and its functions.

    A row's missing and null columns are the same thing. `convert` takes columns and source and raises `BadRow` for a
    row that has the format's columns and cannot be used. `notice` returns what the data report counts about a row that
    is kept, without the row's own words. Detection tries formats by ascending `priority`: a format whose rows have all
    columns of another one needs a lower number than that one.
    """

    name: str
    signature: str
    matches: Callable[[Columns], bool]
    convert: Callable[[Columns, str], list[Example]]
    notice: Callable[[Columns], str] = no_notice
    priority: int = 1000
