"""Renders a report for the terminal: outcome, scores and gates, but not examples and curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from textwrap import wrap
from typing import TYPE_CHECKING

from rung.report.records import Section, Table, told_keys
from rung.utils.console import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table as RichTable

_INDENT = 2
_BETWEEN = 2  # characters between two columns: one of padding, one of rich's table box


def render(made: Sequence[Section]) -> Rendered:
    """The part of a report that is printed by rich: the sections of numbers."""
    return Rendered(tuple(_printable(section) for section in made if section.kind == "numbers"))


def _printable(section: Section) -> Section:
    """The section without control characters: labels of rewards and reasons of gates come from a config."""
    table = section.table
    if table is not None:
        rows = tuple(tuple(map(printable, row)) for row in table.rows)
        table = replace(table, headers=tuple(map(printable, table.headers)), rows=rows)
    sentences = tuple(map(printable, section.sentences))
    return replace(section, title=printable(section.title), sentences=sentences, table=table)


@dataclass(frozen=True, slots=True)
class Rendered:
    """Sections that can be printed by rich; tables are fitted to the width of the console.

    The sections have no control characters.
    """

    made: tuple[Section, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields headings, sentences and tables; a table that is wider than the console is split into several."""
        from rich.padding import Padding
        from rich.text import Text

        for section in self.made:
            if section.title:
                yield Text(f"\n{section.title}", style="bold")
            for sentence in section.sentences:
                yield Padding(Text(sentence.replace("`", ""), style="dim"), (0, 0, 0, _INDENT))
            if section.table and section.table.rows:
                yield from _tables(section.table, options.max_width)


def _tables(table: Table, width: int) -> Iterator[RenderableType]:
    table = _narrowed(table, width)
    if not table.num_keys:
        for part in _cut(table, width):
            yield from ("", _drawn(part, width))
        return
    from rich.text import Text

    numbered = list(enumerate(table.rows))
    for keys, several in groupby(numbered, key=lambda each: each[1][: table.num_keys]):
        places, rows = zip(*several, strict=True)
        strong = frozenset(places.index(i) for i in table.strong if i in places)
        yield Text(f"\n{told_keys(table, keys)}")
        rest = tuple(row[table.num_keys :] for row in rows)
        part = Table(table.headers[table.num_keys :], rest, table.num_texts - table.num_keys, strong=strong)
        for piece in _cut(part, width):
            yield _drawn(piece, width)


def _narrowed(table: Table, width: int) -> Table:
    """The table, without its optional columns if not all columns fit; keys are above their rows and need no width."""
    if sum(_widths(table)[table.num_keys :]) <= width:
        return table
    kept = [i for i, header in enumerate(table.headers) if header not in table.optional]
    return _columns(table, kept)


def _cut(table: Table, width: int) -> list[Table]:
    """The table split into parts that fit the width, each with the first column and a similar number of others."""
    widths = _widths(table)
    count = len(widths) - 1
    num_parts = -(-count // _fitting(widths, width)) if count else 1
    ends = [1 + count * i // num_parts for i in range(num_parts + 1)]
    return [_columns(table, [0, *range(start, end)]) for start, end in pairwise(ends)]


def _fitting(widths: Sequence[int], width: int) -> int:
    """The number of columns that always fit beside the first one, whichever columns they are."""
    count = len(widths) - 1
    while count > 1 and widths[0] + sum(sorted(widths[1:])[-count:]) > width:
        count -= 1
    return count


def _columns(table: Table, kept: Sequence[int]) -> Table:
    texts, keys = (sum(i < number for i in kept) for number in (table.num_texts, table.num_keys))
    headers = tuple(table.headers[i] for i in kept)
    return Table(headers, tuple(tuple(row[i] for i in kept) for row in table.rows), texts, keys, table.strong)


def _widths(table: Table) -> list[int]:
    """The width of each column with the space beside it; a header that is longer than its cells is wrapped."""
    columns = zip(table.headers, *table.rows, strict=True)
    return [max(*map(len, header.split()), *map(len, cells)) + _BETWEEN for header, *cells in columns]


def _drawn(table: Table, width: int) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="")
    widths = _widths(table)
    folds = sum(max(len(header) + _BETWEEN, own) for header, own in zip(table.headers, widths, strict=True)) > width
    for i, (header, own) in enumerate(zip(table.headers, widths, strict=True)):
        # Without this, rich would break cells instead of headers.
        folded = "\n".join(wrap(header, own - _BETWEEN)) if folds else header
        side = "left" if i < table.num_texts else "right"
        drawn.add_column(Text(folded), justify=side, no_wrap=i > 0, overflow="fold", vertical="bottom")
    for i, row in enumerate(table.rows):
        drawn.add_row(*(Text(cell) for cell in row), style="bold" if i in table.strong else None)
    return drawn
