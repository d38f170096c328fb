"""Renders a report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rung.report.records import Section, Table

_WIDEST = 200  # maximum number of characters in a cell


def markdown(name: str, made: Sequence[Section], picture: str = "") -> str:
    """The report as a Markdown document; a section is a heading, a list of sentences, and a table or a picture.

    `picture` is the file of the picture below the title; empty for none.
    """
    head = [f"# {name}", *([f"\n![scores by stage]({picture})"] if picture else [])]
    return "\n".join([*head, *(_section(section) for section in made)])


def cell(text: str) -> str:
    r"""The text of a table cell, escaped so that it is not read as Markdown, and cut at 200 characters.

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
    picture = f"![{section.title}]({section.picture})" if section.panels else ""
    table = _table(section.table) if section.table and section.table.rows else ""
    return "\n\n".join(filter(None, [f"\n## {section.title}", sentences, picture, table])) + "\n"


def _table(table: Table) -> str:
    rule = "|".join(["---"] * table.num_texts + ["---:"] * (len(table.headers) - table.num_texts))
    lines = [_line(table.headers), f"|{rule}|"]
    lines += [_line(row, bold=i in table.strong) for i, row in enumerate(table.rows)]
    return "\n".join(lines)


def _line(row: Sequence[str], *, bold: bool = False) -> str:
    cells = [f"**{cell(text)}**" if bold and text else cell(text) for text in row]
    return f"| {' | '.join(cells)} |"
