"""The curves of a stage, written out: panels of 300 x 190, 44 for the numbers, 20 below the axis."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
import pytest

from rung.report.axes import Axes, thinned
from rung.report.curves import Line, Panel
from rung.report.plot import figure, is_smoothed, single

NAN = float("nan")


def line(label: str, values: Sequence[float], steps: Sequence[float] | None = None) -> Line:
    return Line(label, np.array(steps or range(1, len(values) + 1), float), np.array(values, float))


def parts(svg: str) -> list[str]:
    return svg.replace("><", ">\n<").splitlines()


def test_one_line_of_three_steps() -> None:
    """From 0 (1 is below .4 x 4) to 4.15 (4 and a twentieth of 3) over 142: 4 at 142 x .15 / 4.15 = 5.1."""
    drawn = single(Panel("loss", "nats", (line("loss", [4.0, 2.0, 1.0]),)))
    assert parts(drawn) == [
        '<svg class="picture" viewBox="0 0 300 190" role="img" aria-label="loss: loss">',
        '<text y="13">',
        '<tspan class="name">loss</tspan>',
        '<tspan class="note" dx="6">nats</tspan>',
        "</text>",
        '<text class="note" x="300" y="13" text-anchor="end">1</text>',
        '<line class="rule" x1="44" x2="300" y1="170.0" y2="170.0"/>',
        '<text class="note" x="38" y="174.0" text-anchor="end">0</text>',
        '<line class="rule" x1="44" x2="300" y1="135.8" y2="135.8"/>',
        '<text class="note" x="38" y="139.8" text-anchor="end">1</text>',
        '<line class="rule" x1="44" x2="300" y1="101.6" y2="101.6"/>',
        '<text class="note" x="38" y="105.6" text-anchor="end">2</text>',
        '<line class="rule" x1="44" x2="300" y1="67.3" y2="67.3"/>',
        '<text class="note" x="38" y="71.3" text-anchor="end">3</text>',
        '<line class="rule" x1="44" x2="300" y1="33.1" y2="33.1"/>',
        '<text class="note" x="38" y="37.1" text-anchor="end">4</text>',
        '<line class="axis" x1="44" x2="300" y1="170" y2="170"/>',
        '<text class="note" x="38" y="185" text-anchor="end">step</text>',
        '<text class="note" x="44.0" y="185" text-anchor="start">1</text>',
        '<line class="axis" x1="44.0" x2="44.0" y1="170" y2="173"/>',
        '<text class="note" x="172.0" y="185" text-anchor="middle">2</text>',
        '<line class="axis" x1="172.0" x2="172.0" y1="170" y2="173"/>',
        '<text class="note" x="300.0" y="185" text-anchor="end">3</text>',
        '<line class="axis" x1="300.0" x2="300.0" y1="170" y2="173"/>',
        '<svg x="41" y="25" width="262" height="148">',
        '<g transform="translate(3 3)">',
        "<g>",
        "<title>loss: 4 at step 1, 1 at step 3; lowest 1, highest 4</title>",
        '<path class="s0" d="M0.0 5.1L128.0 73.6L256.0 107.8"/>',
        '<circle class="f0" cx="0.0" cy="5.1" r="2.5"/>',
        '<circle class="f0" cx="128.0" cy="73.6" r="2.5"/>',
        '<circle class="f0" cx="256.0" cy="107.8" r="2.5"/>',
        "</g>",
        "</g>",
        "</svg>",
        "</svg>",
    ]


def test_two_lines_a_band_and_a_gap() -> None:
    """A row of names takes 17; the band goes along its lower edge and back along its upper one."""
    lines = (line("chosen", [0.0, 1.0, 2.0]), line("rejected", [0.0, -1.0, NAN]))
    band = line("low", [-1, 0, 1]), line("high", [1, 2, 3])
    drawn = parts(single(Panel("rewards", "mean", lines, band=band)))
    assert drawn[5:9] == [
        '<line class="s0" x1="0" x2="10" y1="27" y2="27" stroke-width="2.5"/>',
        '<text class="note" x="14" y="31">chosen 2</text>',
        '<line class="s1" x1="73" x2="83" y1="27" y2="27" stroke-width="2.5"/>',
        '<text class="note" x="87" y="31">rejected -1</text>',
    ]
    start = drawn.index('<svg x="41" y="42" width="262" height="131">')
    assert drawn[start + 2 : start + 14] == [
        '<path class="band f0" d="M0.0 119.3L128.0 90.9L256.0 62.5L256.0 5.7L128.0 34.1L0.0 62.5"/>',
        "<g>",
        "<title>chosen: 0 at step 1, 2 at step 3; lowest 0, highest 2</title>",
        '<path class="s0" d="M0.0 90.9L128.0 62.5L256.0 34.1"/>',
        '<circle class="f0" cx="0.0" cy="90.9" r="2.5"/>',
        '<circle class="f0" cx="128.0" cy="62.5" r="2.5"/>',
        '<circle class="f0" cx="256.0" cy="34.1" r="2.5"/>',
        "</g>",
        "<g>",
        "<title>rejected: 0 at step 1, -1 at step 2; lowest -1, highest 0</title>",
        '<path class="s1" d="M0.0 90.9L128.0 119.3"/>',
        '<circle class="f1" cx="0.0" cy="90.9" r="2.5"/>',
    ]


def test_a_line_of_another_name_than_the_title_is_named() -> None:
    for label in ("a", "z"):
        assert f'<text class="note" x="14" y="31">{label} 1</text>' in single(Panel("m", "", (line(label, [2, 1]),)))
    assert 'x="14"' not in single(Panel("m", "", (line("m", [2, 1]),)))


@pytest.mark.parametrize(("letters", "rows"), [(20, [27, 27, 44]), (21, [27, 44, 61])])
def test_names_go_on_in_the_next_row_where_one_is_full(letters: int, rows: list[int]) -> None:
    """22 characters take 14 + 22 x 5.9 = 143.8, two of them and 12 between 299.6 of 300; 23 take 311.4."""
    lines = tuple(line(name * letters, [0.0, 1.0]) for name in "abc")
    root = ElementTree.fromstring(single(Panel("p", "", lines)))
    marks = [each for each in root.findall("line") if each.attrib["class"].startswith("s")]
    assert [int(each.attrib["y1"]) for each in marks] == rows
    assert marks[0].attrib["x1"] == marks[2].attrib["x1"] == "0"
    inner = root.find("svg")
    assert inner is not None
    assert int(inner.attrib["y"]) == 20 + 17 * len(set(rows)) + 8 - 3


@pytest.mark.parametrize(("count", "dots"), [(12, 12), (13, 0)])
def test_few_points_are_dots(count: int, dots: int) -> None:
    assert single(Panel("p", "", (line("p", range(count)),))).count("<circle") == dots


@pytest.mark.parametrize(
    ("values", "noisy"),
    [([0.0, 1.0] * 20, True), (([0.0, 1.0] * 20)[:39], False), ([0.0] * 36 + [1.0, 0.0, 1.0, 0.0], False)],
    ids=["40 up and down", "39 are few", "4 times is not more than 4 times"],
)
def test_many_noisy_values_are_smoothed(values: list[float], noisy: bool) -> None:
    assert is_smoothed(Panel("p", "", (line("p", values),))) is noisy


def test_a_noisy_line_shows_the_means_of_a_twentieth_around_each_step() -> None:
    """40 values have a window of 3: 0 1 0 1 ... becomes 1/2, 1/3, 2/3, ..., of which the last, 1/2, is told."""
    drawn = single(Panel("p", "", (line("p", [0.0, 1.0] * 20),)))
    raw, smooth = re.findall(r'<path class="(?:raw )?s0" d="([^"]*)"', drawn)
    assert drawn.count('class="raw s0"') == 1
    heights = {round(float(y), 1) for y in re.findall(r" (-?[\d.]+)", smooth)}
    top, bottom = (min(map(float, re.findall(r" (-?[\d.]+)", raw))), max(map(float, re.findall(r" (-?[\d.]+)", raw))))
    expected = {round(bottom - (bottom - top) * share, 1) for share in (1 / 2, 1 / 3, 2 / 3)}
    assert all(any(abs(h - e) < 0.11 for e in expected) for h in heights)
    assert len(heights) == 3
    assert 'text-anchor="end">0.5</text>' in drawn[:300]


def test_a_longer_line_has_an_odd_window_of_a_twentieth() -> None:
    """120 values: 120 / 20 = 6, so that 7 are taken: the first mean is that of 4 values, two of them 1."""
    drawn = single(Panel("p", "", (line("p", [1.0, 0.0] * 60),)))
    smooth = re.findall(r'<path class="s0" d="M0\.0 ([\d.]+)L[\d.]+ ([\d.]+)', drawn)
    raw = re.findall(r'<path class="raw s0" d="M0\.0 ([\d.]+)L[\d.]+ ([\d.]+)', drawn)
    (first, second), (one, zero) = (tuple(map(float, each[0])) for each in (smooth, raw))
    assert first == pytest.approx((one + zero) / 2, abs=0.1)
    assert second == pytest.approx(zero + (one - zero) * 3 / 5, abs=0.1)


def test_panels_stand_three_in_a_row() -> None:
    panels = [Panel("p", "", (line("p", [1.0, 2.0]),))] * 4
    root = ElementTree.fromstring(figure(panels, "a <run>"))
    assert (root.attrib["viewBox"], root.attrib["aria-label"]) == ("-16 -16 988 440", "a <run>")
    moved = [g.attrib["transform"] for g in root if g.tag.endswith("}g")]
    assert moved == ["translate(0 0)", "translate(328 0)", "translate(656 0)", "translate(0 218)"]
    assert ElementTree.fromstring(figure(panels[:2], "x")).attrib["viewBox"] == "-16 -16 660 222"


@pytest.mark.parametrize(
    ("values", "shown", "expected"),
    [
        ([1.0, 4.0], [], (0.0, 4.15)),
        ([2.0, 5.0], [], (1.85, 5.15)),
        ([0.0, 1.0], [], (0.0, 1.05)),
        ([-1.0, 1.0], [], (-1.1, 1.1)),
        ([2.0, 2.0], [], (0.0, 3.1)),
        ([0.0, 0.0], [], (-0.55, 0.55)),
        ([-4.0, -4.0], [], (-6.2, -1.8)),
        ([0.0, 1.0] * 500 + [100.0], [], (0.0, 1.05)),
        ([0.0, 1.0] * 500 + [-100.0], [], (0.0, 1.05)),
        ([0.0, 1.0] * 500 + [100.0], [50.0], (0.0, 52.5)),
        ([0.0, 1.0] * 500 + [100.0], [-10.0], (-10.55, 1.55)),
        ([0.0, 1.0] * 500 + [4.0], [], (0.0, 4.2)),
        ([0.0] * 1000 + [100.0], [], (0.0, 105.0)),
        ([1.0, NAN, 4.0], [NAN, 2.0], (0.0, 4.15)),
    ],
)
def test_an_axis_holds_what_must_be_seen(values: list[float], shown: list[float], expected: tuple) -> None:
    """A twentieth of room, 0 where it is near, and without outliers four times as far away as the others."""
    axes = Axes(Panel("p", "", (line("p", values),)), [np.array(shown or values[:2])], width=300, height=190, top=28)
    assert axes.values == pytest.approx(expected)


def test_bounds_that_are_given_stay_and_one_step_has_room_on_both_sides() -> None:
    axes = Axes(Panel("p", "", (line("p", [7.0], [4]),), bounds=(0, 1)), [], width=300, height=190, top=28)
    assert (axes.values, axes.steps) == ((0, 1), (3.5, 4.5))
    assert axes.x(np.array([4.0])).tolist() == [128.0]
    assert axes.y(np.array([0.0, 0.25, 1.0])).tolist() == [142.0, 106.5, 0.0]


def test_steps_are_those_of_all_lines() -> None:
    lines = (line("a", [1, 2], [5, 10]), line("b", [1, 2], [2, 30]))
    assert Axes(Panel("p", "", lines), [np.array([1.0])], width=300, height=190, top=28).steps == (2, 30)


def test_a_long_line_keeps_the_lowest_and_the_highest_of_each_of_150_parts() -> None:
    assert thinned(np.zeros(300)).tolist() == list(range(300))
    kept = thinned(np.array([0.0, 5.0, -5.0, 0.0] * 150))
    assert kept.tolist() == sorted({0, 599} | {4 * k + 1 for k in range(150)} | {4 * k + 2 for k in range(150)})


def test_a_gap_of_a_long_line_stays_one() -> None:
    values = np.array([0.0, 5.0, -5.0, 0.0] * 150)
    values[8:12] = NAN
    values[13] = NAN
    assert [i for i in thinned(values).tolist() if 5 <= i < 18] == [5, 6, 8, 12, 14, 17]
