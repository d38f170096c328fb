"""The page of a report: which cells are set as words, and which as numbers."""

import re

from rung.report.page import page
from rung.report.records import Section, Table


def cells(table: Table) -> list[tuple[str, bool]]:
    """The header cells of a table, each with whether it is set as words."""
    drawn = page("a run", [Section("One", (), table)], "<svg/>", {})
    return [(name, bool(words)) for words, name in re.findall(r'<th scope="col"( class="text")?>(.*?)</th>', drawn)]


def test_the_first_columns_are_words_keys_included() -> None:
    rows = (("a", "b", "c", "1", "2"),)
    headers = ("stage", "against", "metric", "gain", "p")
    assert cells(Table(headers, rows, num_texts=3, num_keys=2)) == [("metric", True), ("gain", False), ("p", False)]
    assert cells(Table(headers[:3], (("a", "1", "2"),), num_texts=1)) == [
        ("stage", True),
        ("against", False),
        ("metric", False),
    ]
