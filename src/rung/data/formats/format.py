"""The definition of a data format."""

from collections.abc import Callable
from dataclasses import dataclass

from rung.data.fields import Columns
from rung.data.records import Example


def no_notice(row: Columns) -> str:
    """The default `notice`: the data report has nothing to count about the row."""
    return ""


@dataclass(frozen=True, slots=True)
class Format:
    """A data format: its name in a config, a description of its columns, and its functions.

    A missing column and a null one are equivalent. `convert` takes columns and source, and raises `BadRow` for a row
    that has the format's columns but cannot be used. `notice` returns the text under which the data report counts a row
    that is kept (empty for none); it must not quote the row. Detection tries formats by ascending `priority`: a format
    whose columns include all columns of another format needs a lower number than that format.
    """

    name: str
    signature: str
    matches: Callable[[Columns], bool]
    convert: Callable[[Columns, str], list[Example]]
    notice: Callable[[Columns], str] = no_notice
    priority: int = 1000
