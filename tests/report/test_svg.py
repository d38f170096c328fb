"""Pictures in one file, side by side, and numbers as labels."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from rung.report.svg import alone, number

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("count", "columns", "size", "places"),
    [
        (1, 3, (332, 222), [(16, 16)]),
        (2, 3, (660, 222), [(16, 16), (344, 16)]),
        (3, 3, (988, 222), [(16, 16), (344, 16), (672, 16)]),
        (4, 3, (988, 440), [(16, 16), (344, 16), (672, 16), (16, 234)]),
        (5, 2, (660, 658), [(16, 16), (344, 16), (16, 234), (344, 234), (16, 452)]),
    ],
)
def test_pictures_stand_in_rows_28_apart_and_16_from_the_edges(
    count: int, columns: int, size: tuple[int, int], places: list[tuple[int, int]]
) -> None:
    """Pictures of 300 x 190: two of them and the gap take 628, with both margins 660; two rows 408 and 440."""
    one = '<svg viewBox="0 0 300 190" class="picture"></svg>'
    svg = ElementTree.fromstring(alone([one] * count, columns, "a <run>"))
    assert svg.attrib["viewBox"] == f"0 0 {size[0]} {size[1]}"
    assert svg.attrib["width"] == str(size[0])
    assert svg.attrib["aria-label"] == "a <run>"
    found = [child for child in svg if "viewBox" in child.attrib]
    assert [(int(child.attrib["x"]), int(child.attrib["y"])) for child in found] == places
    assert {(child.attrib["width"], child.attrib["height"]) for child in found} == {("300", "190")}
    (background,) = svg.iter(f"{SVG}rect")
    assert (background.attrib["width"], background.attrib["height"]) == ("100%", "100%")
    assert "var(--paper)" in background.attrib["style"]


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (-2.5, "-2.5"),
        (0.12345, "0.123"),
        (999.0, "999"),
        (1000.0, "1000"),
        (1234.5, "1234"),
        (-9994.0, "-9994"),
        (9999.0, "10k"),
        (10_000.0, "10k"),
        (123_456.0, "123k"),
        (999_400.0, "999k"),
        (999_600.0, "1M"),
        (1e6, "1M"),
        (-1.5e6, "-1.5M"),
        (999.6e6, "1G"),
        (1e9, "1G"),
        (2.5e10, "25G"),
        (0.0001, "0.0001"),
        (0.00001, "1e-5"),
        (-2.5e-12, "-2.5e-12"),
    ],
)
def test_a_number_has_three_digits_and_from_ten_thousand_on_a_unit(value: float, label: str) -> None:
    assert number(value) == label


@pytest.mark.parametrize(
    ("value", "largest", "label"),
    [
        (0.0, 20_000, "0"),
        (2500.0, 20_000, "2.5k"),
        (2500.0, 10_000, "2.5k"),
        (2500.0, 9999, "2500"),
        (2500.0, -10_000, "2.5k"),
        (500_000.0, 1e6, "0.5M"),
        (500_000.0, 999_999, "500k"),
        (2.5e8, 1e9, "0.25G"),
        (1.2345678, 2.0, "1.23457"),
        (123_456.7, 200_000, "123.457k"),
    ],
)
def test_the_numbers_of_an_axis_have_the_unit_of_the_largest(value: float, largest: float, label: str) -> None:
    assert number(value, largest) == label


def test_a_picture_of_a_file_is_the_one_of_the_page() -> None:
    one = '<svg viewBox="0 0 300 190" class="picture"><g id="mine"/></svg>'
    (inner,) = re.findall(r"<svg x=.*", alone([one], 1, "run"))
    assert inner == f'<svg x="16" y="16" width="300" height="190" {one.removeprefix("<svg ")}'
