"""The report in the terminal: the outcome, the scores and the gates; examples stay in the files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rung.report.content import Report, Section, sections

if TYPE_CHECKING:
    from rich.console import Group


def render(report: Report) -> Group:
    """What a rich console prints; text of a model never gets there, since it may hold control characters."""
    from rich.console import Group

    return Group(*(part for section in sections(report) for part in _parts(section)))


def _parts(section: Section) -> list:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if section.kind == "examples":
        return []
    parts: list = [Text(f"\n{section.title}", style="bold")]
    parts += [Text(f"  {sentence.replace('`', '')}", style="dim") for sentence in section.sentences]
    if section.table and section.table.rows:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for i, header in enumerate(section.table.headers):
            table.add_column(header, justify="right" if i else "left", no_wrap=not i)
        for row in section.table.rows:
            table.add_row(*map(Text, row))
        parts.append(table)
    return parts
