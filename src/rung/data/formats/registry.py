"""Data formats by name, and which of them the rows have."""

from collections.abc import Sequence

from rung.data.formats.format import Format
from rung.data.read import Row
from rung.errors import DataError
from rung.registry import OpenKind

NUM_SAMPLED = 32  # rows that must agree on a format, spread evenly over the data

FORMATS = OpenKind(
    "formats", "rung.data.formats", lambda value: isinstance(value, Format), "a `rung.data.formats.Format`"
)


def all_formats() -> tuple[Format, ...]:
    """Every registered format in the order of detection."""
    return tuple(sorted(FORMATS.all().values(), key=lambda format: (format.priority, format.name)))


def detect(rows: Sequence[Row]) -> Format:
    """The first format that every sampled row matches.

    Raises `DataError` that names the format of most sampled rows and the first row that does not match it.
    """
    readable = [row for row in rows if row.fault is None]
    step = max(len(readable) / NUM_SAMPLED, 1.0)
    sampled = [readable[int(i * step)] for i in range(min(len(readable), NUM_SAMPLED))]
    if not sampled:
        raise DataError(f"{rows[0].place}: {rows[0].fault}, and no other row can be read", "check the file")
    formats = all_formats()
    met = {format.name: [format.matches(row.columns) for row in sampled] for format in formats}
    for format in formats:
        if all(met[format.name]):
            return format
    best = max(formats, key=lambda format: sum(met[format.name]))
    hits, breaking = sum(met[best.name]), sampled[met[best.name].index(False)]
    known = "; ".join(f"{format.name} ({format.signature})" for format in formats)
    columns = ", ".join(breaking.columns)
    if hits == 0:
        raise DataError(
            f"{breaking.place}: its columns ({columns}) match no known format", f"map `columns:` to one of: {known}"
        )
    raise DataError(
        f"{breaking.place}: not in the format {best.name} ({best.signature}) that {hits} of {len(sampled)} "
        f"sampled rows have; its columns are {columns}",
        f"fix the row, or set `format: {best.name}` (then `on_bad_row` decides about such rows) or `columns:`",
    )
