"""The report on a console: columns that just fit, and tables that are cut."""

import io

import pytest
from rich.console import Console

from rung.report.records import Section, Table
from rung.report.terminal import render


def shown(width: int, *made: Section) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    console.print(render(made))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def styled(width: int, *made: Section) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="standard")
    console.print(render(made))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


THREE = Table(("stage", "aa", "bb", "cc"), (("sft", "11", "22", "33"), ("dapo", "1", "2", "3")))
WIDE = ["", "stage  aa  bb  cc", "─────────────────", "sft    11  22  33", "dapo    1   2   3"]


def test_a_table_as_wide_as_the_console_is_whole() -> None:
    """stage takes 5 + 2 and each number 2 + 2: 19 in all."""
    assert shown(20, Section("", table=THREE)) == shown(19, Section("", table=THREE)) == WIDE


@pytest.mark.parametrize(
    ("width", "parts"),
    [
        (18, [["aa"], ["bb", "cc"]]),
        (15, [["aa"], ["bb", "cc"]]),
        (14, [["aa"], ["bb"], ["cc"]]),
        (11, [["aa"], ["bb"], ["cc"]]),
    ],
)
def test_a_wider_one_is_cut_into_parts_with_its_first_column(width: int, parts: list[list[str]]) -> None:
    heads = [line.split() for line in shown(width, Section("", table=THREE)) if "stage" in line]
    assert heads == [["stage", *part] for part in parts]


@pytest.mark.parametrize("width", [3, 6, 20])
def test_a_table_of_one_column_is_shown_at_any_width(width: int) -> None:
    lines = shown(width, Section("", table=Table(("stage",), (("sft",),))))
    assert "sft" in lines
    assert lines.count("sft") == 1


def test_parts_have_about_as_many_columns() -> None:
    """7 of 4 each beside one of 4: 20 hold 4, so that two parts of 3 and 4 are made."""
    table = Table(("s", *"abcdefg"), (("x1", *["11"] * 7),))
    heads = [line.split() for line in shown(20, Section("", table=table)) if line.startswith("s")]
    assert heads == [["s", "a", "b", "c"], ["s", "d", "e", "f", "g"]]


def test_columns_that_are_optional_go_first() -> None:
    table = Table(("stage", "aa", "bb"), (("sft", "11", "22"),), optional=("bb",))
    assert any("bb" in line for line in shown(15, Section("", table=table)))
    narrow = shown(14, Section("", table=table))
    assert not any("bb" in line for line in narrow)
    assert any("aa" in line for line in narrow)


def test_keys_stand_above_their_rows_and_the_bold_row_stays_the_bold_one() -> None:
    rows = (("b", "a", "m1", "+1"), ("b", "a", "m2", "+2"), ("c", "a", "m1", "+3"))
    table = Table(("stage", "against", "metric", "gain"), rows, num_texts=3, num_keys=2, strong=frozenset({1, 2}))
    lines = [line for line in shown(40, Section("Gains", ("`x` said",), table=table)) if line]
    assert lines[:2] == ["Gains", "  x said"]
    assert [line for line in lines if "against" in line] == ["b against a", "c against a"]
    assert not any("stage" in line for line in lines)
    bold = [line for line in styled(40, Section("", table=table)).splitlines() if "\x1b[1m" in line]
    assert ["m2" in line or "+3" in line for line in bold] == [True, True]


def test_numbers_stand_right_below_keys() -> None:
    rows = (("sft", "em", "1"), ("sft", "f1", "100"))
    lines = shown(60, Section("", table=Table(("stage", "metric", "n"), rows, num_texts=2, num_keys=1)))
    short, long = (next(line for line in lines if line.startswith(word)) for word in ("em", "f1"))
    assert (short.split(), long.split()) == (["em", "1"], ["f1", "100"])
    assert len(short) == len(long)


def test_words_stand_left_and_numbers_right() -> None:
    rows = (("a", "long word", "1"), ("bb", "w", "100"))
    lines = shown(60, Section("", table=Table(("k", "t", "n"), rows, num_texts=2)))
    short, long = (next(line for line in lines if line.startswith(word)) for word in ("a ", "bb"))
    assert long.index("w") == short.index("long word")
    assert len(short) == len(long)


def test_a_header_wider_than_its_cells_is_folded_where_room_is_short() -> None:
    """`one two` above `1` takes 7 + 2, or 3 + 2 on two lines; with the first column 3 + 9 = 12."""
    table = Table(("s", "one two"), (("x", "1"),))
    assert any("one two" in line for line in shown(12, Section("", table=table)))
    folded = shown(11, Section("", table=table))
    assert not any("one two" in line for line in folded)
    assert [line.split() for line in folded if "one" in line or "two" in line] == [["one"], ["s", "two"]]


def test_only_sections_of_numbers_are_shown_and_tables_of_nothing_are_not() -> None:
    assert shown(40, Section("Examples", ("x",), kind="examples"), Section("Curves", kind="curves")) == []
    assert shown(40, Section("Empty", table=Table(("a", "b"), ()))) == ["", "Empty"]
