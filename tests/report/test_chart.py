"""The chart of the scores: where its plots, rows and labels stand, its ticks, and what is told at the pointer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from helpers.evaluations import evaluation
from rung.artifacts.lineage import Lineage, StageRecord
from rung.report import Entry, Report
from rung.report.chart import chart

SVG = "{http://www.w3.org/2000/svg}"
STAGES = ("sft", "dapo", "grpo")


class Text(NamedTuple):
    """A text of the chart, and where it is anchored."""

    text: str
    x: float
    y: float


def drawn(metrics: dict[str, Sequence[float | None]], stages: Sequence[str] = STAGES) -> ElementTree.Element:
    """The chart of some stages with equal scores; `sft` was promoted."""
    lineage = Lineage().with_stage(StageRecord(stage="sft", start="x", outcome="promoted"))
    entries = [Entry(stage, evaluation(metrics)) for stage in stages]
    made = chart(Report(name="run", lineage=lineage, metrics=list(metrics), test=entries))
    return ElementTree.fromstring(made)


def halves(count: int) -> dict[str, Sequence[float | None]]:
    return {f"m{i}": [0.0, 1.0] * 5 for i in range(count)}


def texts(svg: ElementTree.Element) -> list[Text]:
    return [Text(t.text or "", float(t.attrib["x"]), float(t.attrib["y"])) for t in svg.iter(f"{SVG}text")]


def plots(svg: ElementTree.Element) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of each plot."""
    found = []
    for path in svg.iter(f"{SVG}path"):
        if path.attrib["d"].rstrip().endswith("z") and "fill: none" in path.attrib.get("style", ""):
            corners = re.findall(r"[ML] (\S+) (\S+)", path.attrib["d"])
            xs, ys = ([float(corner[i]) for corner in corners] for i in (0, 1))
            found.append((min(xs), min(ys), max(xs), max(ys)))
    return found


def dots(svg: ElementTree.Element) -> list[tuple[float, float]]:
    groups = [group for group in svg.iter(f"{SVG}g") if group.find(f"{SVG}title") is not None]
    uses = [next(group.iter(f"{SVG}use")) for group in groups]
    return [(float(use.attrib["x"]), float(use.attrib["y"])) for use in uses]


@pytest.mark.parametrize(
    ("count", "height", "expected"),
    [
        (1, 116, [(160, 44, 932, 116)]),
        (2, 116, [(160, 44, 532, 116), (560, 44, 932, 116)]),
        (4, 116, [(160 + 200 * i, 44, 332 + 200 * i, 116) for i in range(4)]),
        (5, 116, [(160 + 160 * i, 44, 292 + 160 * i, 116) for i in range(5)]),
        (
            8,
            260,
            [(160 + 200 * i, top, 332 + 200 * i, top + 72) for top in (44, 188) for i in range(4)],
        ),
    ],
)
def test_plots_stand_beside_the_names_five_in_a_row(
    count: int, height: int, expected: list[tuple[float, float, float, float]]
) -> None:
    """Three rows of 24 pixels below a heading of 44; 28 between plots, to the right of them and between the rows."""
    svg = drawn(halves(count))
    assert svg.attrib["viewBox"] == f"0 0 960 {height}"
    assert [pytest.approx(box, abs=0.1) for box in expected] == plots(svg)


def test_six_metrics_stand_in_two_rows_of_three() -> None:
    svg = drawn(halves(6))
    assert svg.attrib["viewBox"] == "0 0 960 260"
    assert [sum(top == box[1] for box in plots(svg)) for top in (44, 188)] == [3, 3]


def test_names_metrics_and_the_key_have_places_of_their_own() -> None:
    svg = drawn(halves(7))
    found = texts(svg)
    assert [text for text in found if text.text == "hollow: not promoted"] == [Text("hollow: not promoted", 0, 38)]
    titles = [(text.x, text.y) for text in found if text.text.startswith("m")]
    assert titles == [(box[0], pytest.approx(box[1] - 20.5, abs=0.2)) for box in plots(svg)]
    rows = [(text.text, text.x) for text in found if text.text in STAGES]
    assert rows == [(stage, 0) for stage in STAGES] * 2


@pytest.mark.parametrize("count", [1, 3, 12])
def test_a_name_stands_at_the_height_of_its_dot_and_rows_are_as_far_apart(count: int) -> None:
    """The plot has a quarter of a row above the first one."""
    stages = [f"stage {i}" for i in range(count)]
    svg = drawn(halves(1), stages)
    ((_, top, _, bottom),) = plots(svg)
    assert bottom - top == 24 * count
    pitch = 24 * count / (count + 0.25)
    heights = [y for _, y in dots(svg)]
    assert heights == pytest.approx([top + pitch * (i + 0.75) for i in range(count)], abs=0.1)
    names = {text.text: text.y for text in texts(svg) if text.text in stages}
    assert [names[stage] - height for stage, height in zip(stages, heights, strict=True)] == pytest.approx(
        [4.9] * count, abs=0.3
    )


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([0.0, 1.0] * 5, ["0", "50 %", "100 %"]),
        ([0.0, 0.2] * 50, ["0", "50 %", "100 %"]),  # shares are comparable at a glance
        ([14.0, 14.0] * 9, ["0", "5", "10"]),
        ([25.0, 25.0] * 9, ["0", "10", "20"]),
        ([20.0, 30.0, 40.0] * 9, ["0", "20"]),
        ([3000.0, 2900.0] * 40, ["0", "1000", "2000"]),
        ([-3.0, -3.1] * 40, ["-2", "0"]),
        ([55.0, 56.0] * 40, ["0", "20", "40"]),
        ([2.9, 2.9] * 40, ["0", "1", "2"]),
    ],
)
def test_scores_are_labelled_at_a_few_round_numbers_above_the_plot(scores: list[float], labels: list[str]) -> None:
    svg = drawn({"m": scores})
    ((left, top, right, _),) = plots(svg)
    ticks = [text for text in texts(svg) if text.text not in (*STAGES, "m", "hollow: not promoted")]
    assert [text.text for text in ticks] == labels
    assert all(left - 0.1 <= text.x <= right + 0.1 for text in ticks)
    assert [text.y for text in ticks] == pytest.approx([top - 6] * len(ticks), abs=0.2)


def test_the_chart_is_told_for_readers_of_the_screen_and_at_the_pointer() -> None:
    svg = drawn({"share": [0.0, 1.0, 1.0], "tokens": [1000.0, 2000, 3000]}, ["sft"])
    assert svg.attrib["aria-label"] == "run: share, tokens by stage, with 95 % intervals"
    assert [title.text for title in svg.iter(f"{SVG}title")] == ["share 66.7 %", "tokens 2000"]


def test_a_dot_has_a_ring_of_two_pixels_and_one_that_was_not_promoted_nothing_inside() -> None:
    svg = drawn(halves(1))
    circles = [path for marks in svg.iter(f"{SVG}defs") for path in marks.iter(f"{SVG}path") if "C" in path.attrib["d"]]
    assert len(circles) == 2
    for circle in circles:
        reach = [abs(float(number)) for number in re.findall(r"-?[\d.]+", circle.attrib["d"])]
        assert max(reach) == 4
    groups = [group for group in svg.iter(f"{SVG}g") if group.find(f"{SVG}title") is not None]
    styles = [next(group.iter(f"{SVG}use")).attrib["style"] for group in groups]
    fills = ["c0", "paper", "paper"]
    assert styles == [f"fill: var(--{fill}); stroke: var(--c0); stroke-width: 2" for fill in fills]


def test_a_metric_that_one_stage_lacks_leaves_its_row_empty() -> None:
    lineage = Lineage().with_stage(StageRecord(stage="sft", start="x", outcome="promoted"))
    entries = [
        Entry("sft", evaluation({"a": [1.0, 0.0]})),
        Entry("dapo", evaluation({"a": [None, None], "b": [1.0, 0.0]})),
        Entry("grpo", evaluation({"a": [1.0, 0.0], "b": [1.0, 0.0]})),
    ]
    svg = ElementTree.fromstring(chart(Report(name="run", lineage=lineage, metrics=["a", "b"], test=entries)))
    (left, top, *_), (other, *_) = plots(svg)
    pitch = 72 / 3.25
    rows = [(x > other, round((y - top) / pitch - 0.75)) for x, y in dots(svg)]
    assert rows == [(False, 0), (False, 2), (True, 1), (True, 2)]
    assert left < other
