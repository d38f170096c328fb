"""Detects that a CSV file is read with the wrong delimiter."""

import csv
import io

from rung.errors import DataError

DELIMITERS = {".csv": ",", ".tsv": "\t"}  # by type of file
_USUAL = (";", "\t", "|", ",")


def check_header(header: str, name: str, delimiter: str) -> None:
    """Raises DataError if the header, which was read as one field, contains another delimiter."""
    other = next((each for each in _USUAL if each != delimiter and each in header), None)
    if other is not None:
        what = f"{name}: the header is one field (`{header:.60}`), as no {shown(delimiter)} separates its names"
        raise DataError(what, f"set `delimiter: {shown(other)}` beside `path`")


def check_fit(text: str, name: str, delimiter: str) -> None:
    """Raises DataError if all rows of a file fit its header with another delimiter; called if a row does not fit.

    `text` is the content of the file.
    """
    other = next((each for each in _USUAL if each != delimiter and _fits(text, each)), None)
    if other is not None:
        what = f"{name}: the rows fit the header with the delimiter {shown(other)}, but not with {shown(delimiter)}"
        raise DataError(what, f"set `delimiter: {shown(other)}` beside `path`")


def shown(delimiter: str) -> str:
    """A delimiter as it is written in a config.

    >>> shown(";"), shown("\\t")
    ('";"', 'tab')
    """
    return "tab" if delimiter == "\t" else f'"{delimiter}"'


def _fits(text: str, delimiter: str) -> bool:
    """Whether every row has as many fields as the header, which has at least two."""
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        sizes = {len(row) for row in rows if row}
    except csv.Error:
        return False
    return len(sizes) == 1 and min(sizes) > 1
