"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rung.report.content import Section, Table

_WIDEST = 200  # characters of a cell


def markdown(name: str, made: Sequence[Section]) -> str:
    """A document with a heading, sentences as a list and a table for each section."""
    return "\n".join([f"# {name}", *(_section(section) for section in made)])


def cell(text: str) -> str:
    r"""Text that cannot leave its cell or become a link or markup; cut at 200 characters.

    >>> cell("a|b\n[x](http://x)")
    'a\\|b [x]\\(http://x)'
    """
    text = " ".join(text.split())
    text = text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."
    for mark in ("\\", "`", "*", "<", "|"):
        text = text.replace(mark, "\\" + mark)
    return text.replace("](", "]\\(")


def _section(section: Section) -> str:
    sentences = "\n".join("- " + sentence.replace("<", "\\<") for sentence in section.sentences)
    table = _table(section.table) if section.table and section.table.rows else ""
    return "\n\n".join(filter(None, [f"\n## {section.title}", sentences, table])) + "\n"


def _table(table: Table) -> str:
    rule = "|".join(["---"] + ["---:"] * (len(table.headers) - 1))
    lines = [" | ".join(map(cell, row)) for row in (table.headers, *table.rows)]
    return "\n".join(["| " + lines[0] + " |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])
