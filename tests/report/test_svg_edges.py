"""Numbers and ticks of a picture, and Markdown, written out."""

import pytest

from rung.report.markdown import cell, markdown
from rung.report.records import Section, Table, told_keys
from rung.report.svg import number, ticks, within


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, "0"),
        (1, "1"),
        (-0.5, "-0.5"),
        (999.4, "999"),
        (12345.6, "12.3k"),
        (10_000, "10k"),
        (-20_000, "-20k"),
        (1e6, "1M"),
        (2.5e6, "2.5M"),
        (1e9, "1G"),
        (3e12, "3e3G"),
        (6e-5, "6e-5"),
        (1e-12, "1e-12"),
        (0.12345, "0.123"),
    ],
)
def test_a_number_has_three_digits_and_a_unit_from_10000_on(value: float, told: str) -> None:
    assert number(value) == told


@pytest.mark.parametrize(
    ("value", "largest", "told"),
    [(500, 20_000, "0.5k"), (500, 2000, "500"), (1234.5, 2000, "1234.5"), (1, -3e6, "1e-6M"), (0, 3e6, "0")],
)
def test_the_numbers_of_an_axis_have_one_unit_and_six_digits(value: float, largest: float, told: str) -> None:
    assert number(value, largest) == told


@pytest.mark.parametrize(
    ("low", "high", "most", "found"),
    [
        (0, 10, 11, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (0, 10, 10, [0, 2, 4, 6, 8, 10]),
        (0, 10, 5, [0, 5, 10]),
        (0, 10, 2, [0, 10]),
        (1, 10, 2, [5, 10]),
        (-3, 3, 3, [-2, 0, 2]),
        (0.1, 0.3, 3, [0.1, 0.2, 0.3]),
        (11, 19, 1, [15]),
        (1, 9, 1, [5]),
        (6, 14, 1, [10]),
    ],
)
def test_ticks_are_as_many_as_fit(low: float, high: float, most: int, found: list[float]) -> None:
    assert ticks(low, high, most) == pytest.approx(found)


def test_a_picture_on_a_page_has_its_own_size() -> None:
    assert within("b", 30.5, 20, "a") == (
        '<svg class="picture" viewBox="0 0 30.5 20" role="img" aria-label="a">b</svg>'
    )


def test_a_cell_is_cut_at_200_characters_and_cannot_be_left() -> None:
    assert cell("x" * 200) == "x" * 200
    assert cell("x" * 201) == "x" * 197 + "..."
    assert cell("a  b\n\tc") == "a b c"
    assert cell(r"\`*<|") == r"\\\`\*\<\|"
    assert cell("[a](b) [c]") == r"[a]\(b) [c]"


def test_a_document() -> None:
    table = Table(("stage", "p"), (("a|b", ".1"), ("c", "")), num_texts=1, strong=frozenset({1}))
    made = [
        Section("One", ("x < y", "`z`"), table),
        Section("Two", kind="curves", panels=(), picture="no.svg"),
        Section("Three", (), Table(("a", "b"), (), num_texts=2)),
    ]
    assert markdown("run", made, "scores.svg") == (
        "# run\n\n![scores by stage](scores.svg)\n\n## One\n\n- x \\< y\n- `z`\n\n"
        "| stage | p |\n|---|---:|\n| a\\|b | .1 |\n| **c** |  |\n\n\n## Two\n\n\n## Three\n"
    )
    assert markdown("run", []) == "# run"


def test_keys_are_told_with_the_headers_behind_the_first() -> None:
    table = Table(("stage", "against", "on", "gain"), (), num_keys=3)
    assert told_keys(table, ("b", "a", "test", "1")) == "b against a on test"
    assert told_keys(Table(("stage", "gain"), (), num_keys=1), ("b", "1")) == "b"
