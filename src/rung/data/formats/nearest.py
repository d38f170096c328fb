"""What to write for rows that match no known format: a `columns:` with their own columns, and the nearest formats."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rung.data.formats.format import Format

NUM_NEAREST = 3
USUAL = ("prompt-completion", "preference", "messages")  # told first among formats that are equally near
_PLAIN = re.compile(r"[^\W\d][\w .-]*(?<! )")  # a text that YAML reads as it is


def columns_line(rows: Sequence[Mapping[str, Any]]) -> str:
    """A `columns:` line that reads the columns with the longest texts as prompt and completion, or as what is missing.

    Empty if there is no such column.

    >>> columns_line([{"id": "7", "Ticket Text": "It does not start", "Category": "fault"}])
    'columns: {prompt: Ticket Text, completion: Category}'
    """
    wanted = [name for name in ("prompt", "completion") if name not in rows[0]]
    lengths = {name: _length(rows, name) for name in rows[0] if name not in ("prompt", "completion")}
    longest = sorted((name for name in lengths if lengths[name]), key=lambda name: -lengths[name])[: len(wanted)]
    pairs = ", ".join(f"{ours}: {written(theirs)}" for ours, theirs in zip(wanted, longest, strict=False))
    return f"columns: {{{pairs}}}" if pairs else ""


def written(name: str) -> str:
    """The name of a column as it is written in YAML.

    >>> written("Ticket Text"), written("a: b")
    ('Ticket Text', '"a: b"')
    """
    return name if _PLAIN.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def nearest(columns: Sequence[str], formats: Sequence[Format]) -> list[Format]:
    """Three formats, those whose signatures have most of the columns first, then the usual ones."""
    names = {column.casefold() for column in columns}
    near = {form.name: len(names & set(re.findall(r"\w+", form.signature.casefold()))) for form in formats}
    order = [*USUAL, *(form.name for form in formats)]
    return sorted(formats, key=lambda form: (-near[form.name], order.index(form.name)))[:NUM_NEAREST]


def _length(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    """The number of characters of a column over all rows; 0 if it is not a text."""
    values = [row.get(name) for row in rows]
    return sum(len(value) for value in values if isinstance(value, str))
