"""The picture of a panel: where its texts, its plot and its legend stand, its limits and ticks, what is smoothed."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from rung.report.curves import Line, Panel, smoothed
from rung.report.plot import figures, is_smoothed, paint

SVG = "{http://www.w3.org/2000/svg}"
NAN = float("nan")


class Text(NamedTuple):
    """A text of a picture, where it is anchored, and at which of its ends."""

    text: str
    x: float
    y: float
    anchor: str


def line(*values: float, label: str = "loss", first: int = 1) -> Line:
    return Line(label, np.arange(first, first + len(values), dtype=float), np.array(values, float))


def panel(*lines: Line, title: str = "loss", unit: str = "", band: tuple[Line, Line] | None = None) -> Panel:
    return Panel(title, unit, lines, band=band)


def drawn(shown: Panel) -> ElementTree.Element:
    return ElementTree.fromstring(figures([shown], "a stage")[0])


def texts(svg: ElementTree.Element) -> list[Text]:
    found = []
    for text in svg.iter(f"{SVG}text"):
        anchor = re.findall(r"text-anchor: (\w+)", text.attrib["style"])[0]
        found.append(Text(text.text or "", float(text.attrib["x"]), float(text.attrib["y"]), anchor))
    return found


def plot(svg: ElementTree.Element) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the plot."""
    corners = re.findall(r"[ML] (\S+) (\S+)", next(svg.iter(f"{SVG}path")).attrib["d"])
    xs, ys = ([float(corner[i]) for corner in corners] for i in (0, 1))
    return min(xs), min(ys), max(xs), max(ys)


def painted(shown: Panel) -> Axes:
    figure = Figure(dpi=72)
    paint(figure, shown)
    (axes,) = figure.axes
    return axes


def limits(*values: float) -> tuple[float, float]:
    return painted(panel(line(*values))).get_ylim()


def test_a_title_stands_at_the_top_left_its_unit_at_the_top_right_and_step_below_the_y_axis() -> None:
    svg = drawn(panel(line(1, 2, label="chosen"), line(2, 4, label="rejected"), title="rewards", unit="mean"))
    assert svg.attrib["viewBox"] == "0 0 300 190"
    found = {text.text: text for text in texts(svg)}
    assert found["rewards"] == ("rewards", 0, 13, "start")
    assert found["mean"] == ("mean", 300, 13, "end")
    assert found["step"] == ("step", 38, 185, "end")
    assert plot(svg) == (44, 45, 300, 170)


@pytest.mark.parametrize(
    ("lengths", "columns", "top"),
    [
        ([6, 6], 3, 45),  # one row of the legend
        ([6, 6, 6], 3, 45),
        ([6, 6, 6, 6], 3, 62),
        ([18, 18], 2, 45),  # with a space and a digit 20 characters: 150 pixels each
        ([19, 19], 1, 62),
        ([6, 19], 1, 62),
        ([60, 60, 60], 1, 79),
    ],
)
def test_a_legend_has_as_many_columns_as_fit_and_the_plot_begins_below_it(
    lengths: list[int], columns: int, top: int
) -> None:
    """A character takes 6.2 pixels, an entry 26 more, a row 17; the plot ends 20 above the lower edge in any case."""
    names = [f"{i}{'x' * (length - 1)}" for i, length in enumerate(lengths)]
    svg = drawn(panel(*(line(1, i + 2, label=name) for i, name in enumerate(names)), title="p"))
    assert plot(svg) == (44, top, 300, 170)
    entries = [text for text in texts(svg) if text.text.startswith(tuple(names))]
    assert [text.text for text in sorted(entries, key=lambda text: text.text)] == [
        f"{n} {i + 2}" for i, n in enumerate(names)
    ]
    assert len({text.x for text in entries}) == min(columns, len(names))
    rows = sorted({text.y for text in entries})
    assert len(rows) == -(-len(names) // columns)
    assert all(after - before >= 11 for before, after in pairwise(rows)), "lines do not overlap"
    assert 22 < rows[0] < rows[-1] + 1 < top, "between the title and the plot"


def test_a_line_with_the_name_of_its_panel_needs_no_legend_and_another_does() -> None:
    alone = drawn(panel(line(1, 2), unit="nats"))
    assert plot(alone) == (44, 28, 300, 170)
    assert Text("nats: 2", 300, 13, "end") in texts(alone)
    other = drawn(panel(line(1, 2, label="eval_loss")))
    assert plot(other) == (44, 45, 300, 170)
    assert "eval_loss 2" in [text.text for text in texts(other)]
    assert Text("", 300, 13, "end") not in texts(other)


def test_every_text_lies_inside_the_picture_and_none_on_another() -> None:
    names = ["chosen", "rejected", "margins"]
    svg = drawn(panel(*(line(*np.linspace(-1500, 15_000 * i, 40), label=name) for i, name in enumerate(names, 1))))
    spans = []
    for text in texts(svg):
        size = 13 if text.text == "loss" else 11
        width = 0.6 * size * len(text.text)
        left = text.x - {"start": 0, "middle": width / 2, "end": width}[text.anchor]
        assert left >= 0
        assert size <= text.y <= 190
        spans.append((text, left, left + width, text.y - 0.7 * size, text.y))
    for i, (one, left, right, top, bottom) in enumerate(spans):
        for other, left2, right2, top2, bottom2 in spans[:i]:
            assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top, (one, other)


def test_steps_and_values_are_labelled_at_round_numbers_beside_their_axes() -> None:
    svg = drawn(panel(line(*np.linspace(0, 9, 40))))
    below = [text for text in texts(svg) if text.anchor == "middle"]
    assert [text.text for text in below] == [str(step) for step in range(5, 41, 5)]
    assert [text.x for text in below] == pytest.approx(
        [44 + 256 * (step - 1) / 39 for step in range(5, 41, 5)], abs=0.1
    )
    assert all(170 < text.y < 190 for text in below)
    beside = [text for text in texts(svg) if text.anchor == "end" and text.y not in (13, 185)]
    assert [(text.text, text.x) for text in beside] == [(str(value), 38) for value in range(0, 9, 2)]
    middles = [170 - 142 * value / 9.45 for value in range(0, 9, 2)]
    assert [text.y for text in beside] == pytest.approx([middle + 4.1 for middle in middles], abs=0.2)


@pytest.mark.parametrize(
    ("last", "labels"),
    [
        (3, ["1", "2", "3"]),
        (9, ["1", "2", "3", "4", "5", "6", "7", "8", "9"]),
        (10, ["2", "4", "6", "8", "10"]),
        (41, ["5", "10", "15", "20", "25", "30", "35", "40"]),
        (43, ["10", "20", "30", "40"]),
        (20_000, ["2.5k", "5k", "7.5k"]),
    ],
)
def test_an_axis_of_steps_has_about_eight_whole_numbers(last: int, labels: list[str]) -> None:
    svg = drawn(panel(Line("loss", np.array([1.0, last]), np.array([0.0, 1.0]))))
    found = [text.text for text in texts(svg) if text.anchor == "middle"]
    assert found == labels if last < 1000 else found == ["5k", "10k", "15k", "20k"]


@pytest.mark.parametrize(
    ("high", "labels"),
    [
        (1.0, ["0", "0.5", "1"]),
        (0.9, ["0", "0.2", "0.4", "0.6", "0.8"]),
        (4.0, ["0", "1", "2", "3", "4"]),
        (11.0, ["0", "5", "10"]),
        (4000.0, ["0", "1000", "2000", "3000", "4000"]),
        (45_000.0, ["0", "10k", "20k", "30k", "40k"]),
    ],
)
def test_an_axis_of_values_has_about_five_numbers_in_one_unit(high: float, labels: list[str]) -> None:
    svg = drawn(panel(line(0, high)))
    assert [text.text for text in texts(svg) if text.x == 38 and text.y != 185] == labels


def test_the_unit_of_an_axis_is_that_of_its_largest_number_below_0_too() -> None:
    svg = drawn(panel(line(-20_000, 900)))
    found = [text.text for text in texts(svg) if text.x == 38 and text.y != 185]
    assert found == ["-20k", "-15k", "-10k", "-5k", "0"]


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ((40, 100), 37, 103),  # from .4 of the highest on, the axis does not begin at 0; 5 % of room on both sides
        ((39.9, 100), 0, 100 + 60.1 * 0.05),
        ((0, 100), 0, 105),
        ((-1, 100), -1 - 101 * 0.05, 100 + 101 * 0.05),
        ((3, 3), 0, 4.65),  # one value stands in the middle of an axis as long as itself
        ((-2, -2), -3.1, -0.9),
        ((0, 0), -0.55, 0.55),
        ((8, 8, NAN), 0, 12.4),
    ],
)
def test_a_y_axis_holds_all_values_with_some_room(values: tuple[float, ...], low: float, high: float) -> None:
    assert limits(*values) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("spike", "high"),
    [(4.0, 4.2), (4.001, 1.05)],
)
def test_of_a_smoothed_line_values_are_cut_off_above_four_times_the_range_of_the_others(
    spike: float, high: float
) -> None:
    values = [0.0, 1.0] * 500
    values[701] = spike
    shown = panel(line(*values))
    assert is_smoothed(shown)
    assert painted(shown).get_ylim() == pytest.approx((0, high))


def test_a_line_that_only_has_peaks_shows_them_whole() -> None:
    values = np.zeros(1000)
    values[[100, 400, 800]] = 6
    shown = panel(line(*values))
    assert is_smoothed(shown)
    assert painted(shown).get_ylim() == pytest.approx((0, 6.3))


@pytest.mark.parametrize(("spikes", "far"), [(9, True), (12, False)])
@pytest.mark.parametrize("height", [50, -50])
def test_one_percent_of_the_values_on_either_side_may_be_far(spikes: int, far: bool, height: int) -> None:
    values = np.array([0.0, 1.0] * 500)
    values[80 * np.arange(spikes)] = height
    low, high = painted(panel(line(*values))).get_ylim()
    assert (max(-low, high) < 5) == far


@pytest.mark.parametrize(("swings", "noisy"), [(4, False), (5, True)])
def test_a_line_is_noisy_if_it_moves_more_than_four_times_its_range(swings: int, noisy: bool) -> None:
    values = [float(i % 2) for i in range(swings)] + [float((swings) % 2)] * (40 - swings)
    assert np.abs(np.diff(values)).sum() == swings
    assert is_smoothed(panel(line(*values))) is noisy


def test_only_finite_values_make_a_line_long() -> None:
    values = [0.0, 1.0] * 20
    assert is_smoothed(panel(line(*values, NAN)))
    assert not is_smoothed(panel(line(*values[1:], NAN, NAN)))


@pytest.mark.parametrize(("count", "window"), [(40, 3), (59, 3), (79, 3), (80, 5), (119, 5), (120, 7), (200, 11)])
def test_a_mean_is_over_a_twentieth_of_the_values(count: int, window: int) -> None:
    values = np.random.default_rng(0).random(count)
    raw, mean = painted(panel(line(*values))).lines
    assert_allclose(np.asarray(raw.get_ydata(), float), values)
    assert_allclose(np.asarray(mean.get_ydata(), float), smoothed(values, window))


def test_a_gap_in_a_smoothed_line_stays_a_gap() -> None:
    values = np.array([0.0, 1.0] * 30)
    values[30] = NAN
    _, mean = painted(panel(line(*values))).lines
    assert np.flatnonzero(np.isnan(np.asarray(mean.get_ydata(), float))).tolist() == [30]


def test_a_short_line_beside_a_noisy_one_is_drawn_once() -> None:
    """A twentieth of 39 values is less than 3 around each one: there is nothing to smooth."""
    noisy, short = line(*[0.0, 1.0] * 20), line(*range(39), label="eval_loss")
    axes = painted(panel(noisy, short))
    assert [artist.get_color() for artist in axes.lines] == ["C0", "C0", "C1"]
    assert [artist.get_alpha() for artist in axes.lines] == [0.3, None, None]
    assert [artist.get_linewidth() for artist in axes.lines] == [
        1,
        axes.lines[1].get_linewidth(),
        axes.lines[1].get_linewidth(),
    ]


def test_the_band_is_smoothed_like_its_line_lies_inside_the_plot_and_has_its_colour() -> None:
    values = np.array([10.0, 20.0] * 30)
    low, high = line(*(values - 5), label="low"), line(*(values + 5), label="high")
    axes = painted(panel(line(*values), band=(low, high)))
    (band,) = axes.collections
    assert band.get_alpha() == 0.16
    assert np.asarray(band.get_facecolor())[0, :3].tolist() == pytest.approx(
        [0x1F / 255, 0x77 / 255, 0xB4 / 255], abs=0.01
    )
    (path,) = band.get_paths()
    box = path.get_extents()
    expected = smoothed(values - 5, 3).min(), smoothed(values + 5, 3).max()
    assert (box.y0, box.y1) == pytest.approx(expected)
    whole = line(1, 2, 3), (line(-4, -5, -6), line(7, 8, 30))
    assert painted(panel(whole[0], band=whole[1])).get_ylim() == pytest.approx((-6 - 1.8, 30 + 1.8))


@pytest.mark.parametrize(("count", "kept"), [(299, 299), (300, 300), (301, 300), (5000, 300)])
def test_a_band_has_at_most_300_points_among_them_both_ends(count: int, kept: int) -> None:
    values = np.linspace(1, 2, count)
    shown = panel(line(*values), band=(line(*(values - 1)), line(*(values + 1))))
    (path,) = painted(shown).collections[0].get_paths()
    steps = sorted(set(np.asarray(path.vertices)[:, 0].tolist()))
    assert len(steps) == kept
    assert (steps[0], steps[-1]) == (1, count)


def test_dots_and_lines_reach_three_pixels_beyond_the_plot_and_no_further() -> None:
    svg = drawn(panel(line(1, 2)))
    left, top, right, bottom = plot(svg)
    boxes = {
        tuple(float(rect.attrib[side]) for side in ("x", "y", "width", "height")) for rect in svg.iter(f"{SVG}rect")
    }
    assert (left - 3, top - 3, right - left + 6, bottom - top + 6) in boxes


def test_a_line_is_told_from_its_first_to_its_last_finite_value() -> None:
    svg = drawn(panel(line(NAN, 5, 0.25, 9, NAN, first=10)))
    assert [title.text for title in svg.iter(f"{SVG}title")] == [
        "loss: 5 at step 11, 9 at step 13; lowest 0.25, highest 9"
    ]
    assert svg.attrib["aria-label"] == "a stage: loss: loss"


def test_lines_keep_the_order_of_the_panel_in_legend_and_colour() -> None:
    names = ["b", "a", "d", "c", "e"]
    axes = painted(panel(*(line(0, i, label=name) for i, name in enumerate(names)), title="x"))
    assert [artist.get_color() for artist in axes.lines] == [f"C{i}" for i in range(5)]
    svg = drawn(panel(*(line(0, i, label=name) for i, name in enumerate(names)), title="x"))
    assert [text.text for text in texts(svg)][-5:] == [f"{name} {i}" for i, name in enumerate(names)]


def test_only_the_axis_of_steps_is_ruled_and_only_values_have_lines_across() -> None:
    axes = painted(panel(line(1, 2)))
    assert {side: spine.get_visible() for side, spine in axes.spines.items()} == {
        "left": False,
        "right": False,
        "top": False,
        "bottom": True,
    }
    assert any(grid.get_visible() for grid in axes.get_ygridlines())
    assert not any(grid.get_visible() for grid in axes.get_xgridlines())


def test_a_single_step_stands_in_the_middle() -> None:
    assert painted(panel(line(2.0, first=7))).get_xlim() == (6.5, 7.5)
    assert painted(panel(line(2.0, 3.0, first=7))).get_xlim() == (7, 8)
