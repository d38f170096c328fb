"""The definition of a data format."""

from collections.abc import Callable
from dataclasses import dataclass

from rung.data.fields import Columns
from rung.data.records import Example


def no_notice(row: Columns) -> str:
    """The default of `Format.notice`: an empty text, since there is nothing to report about the row."""
    return ""


@dataclass(frozen=True, slots=True)
class Format:
    """A data format: its name in a config, a description of its columns (`signature`), and its functions.

    `matches` tests whether a row has the format; a null column counts as missing. `convert` takes the columns and the
    source of a row, and raises `BadRow` for a row that has the format but cannot be used. `notice` returns a remark on
    a row that is kept, by which the data report counts such rows, or an empty text; it must not quote the row.
    Formats are tried in ascending order of `priority`: a format that needs all columns of another format, and more,
    must have a lower number than that format.
    """

    name: str
    signature: str
    matches: Callable[[Columns], bool]
    convert: Callable[[Columns, str], list[Example]]
    notice: Callable[[Columns], str] = no_notice
    priority: int = 1000
