"""Looks up data formats by name and detects the format of rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from rung.data.formats.format import Format
from rung.data.formats.nearest import columns_line, nearest
from rung.data.formats.refused import REFUSALS
from rung.data.read import Row
from rung.errors import DataError
from rung.registry import OpenKind

NUM_SAMPLED = 32  # rows, evenly spaced over the data, which must all match a format

FORMATS = OpenKind(
    "formats", "rung.data.formats", lambda value: isinstance(value, Format), "a `rung.data.formats.Format`"
)


def all_formats() -> tuple[Format, ...]:
    """Every registered format in the order of detection."""
    return tuple(sorted(FORMATS.all().values(), key=lambda format: (format.priority, format.name)))


def detect(rows: Sequence[Row]) -> Format:
    """The format of the rows: the first one that a sample of 32 rows all match.

    Raises `DataError` for a layout that is refused, and if there is no format; then the message says which format most
    of these rows match, and gives the first row that does not.
    """
    readable = [row for row in rows if row.fault is None]
    step = max(len(readable) / NUM_SAMPLED, 1.0)
    sampled = [readable[int(i * step)] for i in range(min(len(readable), NUM_SAMPLED))]
    if not sampled:
        raise DataError(f"{rows[0].place}: {rows[0].fault}, and no other row can be read", "check the file")
    for refusal in REFUSALS:
        if all(refusal.matches(row.columns) for row in sampled):
            raise DataError(f"{sampled[0].place}: {refusal.what}", refusal.remedy)
    formats = all_formats()
    matched = {format.name: [format.matches(row.columns) for row in sampled] for format in formats}
    for format in formats:
        if all(matched[format.name]):
            return format
    best = max(formats, key=lambda format: sum(matched[format.name]))
    hits, other = sum(matched[best.name]), sampled[matched[best.name].index(False)]
    columns = ", ".join(other.columns)
    if hits == 0:
        what = f"{other.place}: its columns ({columns}) match no known format"
        raise DataError(what, _remedy([row.columns for row in sampled], formats))
    raise DataError(
        f"{other.place}: the row does not have the format {best.name} ({best.signature}) of {hits} of {len(sampled)} "
        f"sampled rows; its columns are {columns}",
        f"fix the row, or set `format: {best.name}` (then `on_bad_row` applies to such rows) or `columns:`",
    )


def _remedy(rows: Sequence[Mapping[str, Any]], formats: Sequence[Format]) -> str:
    split = "set `delimiter` to the character between the fields, or " if len(rows[0]) == 1 else ""
    line = columns_line(rows)
    tell = f"tell which column is which, such as `{line}` beside `path`" if line else "rename the columns"
    near = "; ".join(f"{form.name} ({form.signature})" for form in nearest(list(rows[0]), formats))
    return f"{split}{tell}; the nearest formats are {near}, and `rung list formats` has all"
