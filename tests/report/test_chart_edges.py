"""The picture of the final table, written out: 960 wide, 160 for labels, 24 a line, 44 above, 28 between panels."""

from xml.etree import ElementTree

import pytest
from helpers.edges import evaluation

from rung.evaluate import Estimate
from rung.lineage import Lineage, StageRecord
from rung.report.chart import chart, chart_file
from rung.report.records import Entry, Report

LINEAGE = Lineage(
    stages=(
        StageRecord(stage="a", start="x", outcome="promoted"),
        StageRecord(stage="b", start="a", outcome="kept"),
    )
)


def estimate(value: float | None, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value=value, low=low, high=high, n=2)


def entry(stage: str, **metrics: Estimate) -> Entry:
    scores = {name: [found.value] * 2 for name, found in metrics.items()}
    return Entry(stage, evaluation(scores).model_copy(update={"metrics": metrics}))


def report(*entries: Entry, metrics: list[str]) -> Report:
    return Report(name="r<", lineage=LINEAGE, metrics=metrics, test=entries)


def parts(svg: str) -> list[str]:
    return svg.replace("><", ">\n<").splitlines()


TWO = report(
    entry("a", hit=estimate(0.5, 0.25, 0.75), len=estimate(20.0, 10.0, 40.0)),
    entry("b", hit=estimate(1.0, 0.9, 1.25), len=estimate(None)),
    metrics=["hit", "len"],
)


def test_two_metrics_of_two_stages() -> None:
    """Panels of (960 - 160) / 2 less the gap of 28, from 160 and 560 on; lines at 44 + 12 and 44 + 36."""
    assert parts(chart(TWO)) == [
        '<svg class="picture" viewBox="0 0 960 100" role="img"'
        ' aria-label="r&lt;: hit, len by stage, with 95 % intervals">',
        '<g transform="translate(0 0)">',
        '<text class="note" x="0" y="32">filled: promoted</text>',
        '<text x="0" y="60.0">a</text>',
        '<line class="rule" x1="0" x2="932.0" y1="68.0" y2="68.0"/>',
        '<text x="0" y="84.0">b</text>',
        '<line class="rule" x1="0" x2="932.0" y1="92.0" y2="92.0"/>',
        '<text class="name" x="160.0" y="14">hit</text>',
        '<text class="note" x="160.0" y="32">0</text>',
        '<text class="note" x="532.0" y="32" text-anchor="end">100 %</text>',
        '<line class="axis" x1="160.0" x2="532.0" y1="38" y2="38"/>',
        "<g>",
        "<title>hit 50.0 %</title>",
        '<line class="interval" x1="253.0" x2="439.0" y1="56.0" y2="56.0"/>',
        '<circle class="solid" cx="346.0" cy="56.0" r="4.5"/>',
        "</g>",
        "<g>",
        "<title>hit 100.0 %</title>",
        '<line class="interval" x1="494.8" x2="532.0" y1="80.0" y2="80.0"/>',
        '<circle class="hollow" cx="532.0" cy="80.0" r="4.5"/>',
        "</g>",
        '<text class="name" x="560.0" y="14">len</text>',
        '<text class="note" x="560.0" y="32">0</text>',
        '<text class="note" x="932.0" y="32" text-anchor="end">40</text>',
        '<line class="axis" x1="560.0" x2="932.0" y1="38" y2="38"/>',
        "<g>",
        "<title>len 20</title>",
        '<line class="interval" x1="653.0" x2="932.0" y1="56.0" y2="56.0"/>',
        '<circle class="solid" cx="746.0" cy="56.0" r="4.5"/>',
        "</g>",
        "</g>",
        "</svg>",
    ]


def test_a_file_has_16_around_the_same_picture() -> None:
    root = ElementTree.fromstring(chart_file(TWO))
    assert (root.attrib["viewBox"], root.attrib["width"]) == ("-16 -16 992 132", "992")
    assert root.attrib["aria-label"] == "r<: hit, len by stage, with 95 % intervals"
    ground = root.find("{http://www.w3.org/2000/svg}rect")
    assert ground is not None
    assert (ground.attrib["x"], ground.attrib["y"]) == ("-16", "-16")


@pytest.mark.parametrize(
    ("count", "rows", "height"), [(1, [1], 76), (5, [5], 76), (6, [3, 3], 180), (7, [4, 3], 180), (11, [4, 4, 3], 284)]
)
def test_metrics_stand_in_rows_of_about_as_many(count: int, rows: list[int], height: int) -> None:
    """One line is 44 + 24 + 8 high, and there are 28 between the rows."""
    names = [f"m{i}" for i in range(count)]
    root = ElementTree.fromstring(chart(report(entry("a", **{n: estimate(0.5) for n in names}), metrics=names)))
    assert root.attrib["viewBox"] == f"0 0 960 {height}"
    groups = [group for group in root if group.attrib.get("transform")]
    assert [group.attrib["transform"] for group in groups] == [f"translate(0 {104 * i})" for i in range(len(rows))]
    titles = [[text.text for text in group.iter("text") if text.attrib.get("class") == "name"] for group in groups]
    assert [len(each) for each in titles] == rows
    assert [name for each in titles for name in each] == names


def test_a_row_that_is_not_full_has_columns_and_rules_as_wide_as_the_full_one() -> None:
    """7 metrics: (960 - 160) / 4 = 200 each; the rules of the second row end at 160 + 3 x 200 - 28."""
    names = [f"m{i}" for i in range(7)]
    root = ElementTree.fromstring(chart(report(entry("a", **{n: estimate(0.5) for n in names}), metrics=names)))
    first, second = (list(group.iter("line")) for group in root)
    assert [line.attrib["x2"] for line in (*first, *second) if line.attrib["class"] == "rule"] == ["932.0", "732.0"]
    assert [line.attrib["x1"] for line in second if line.attrib["class"] == "axis"] == ["160.0", "360.0", "560.0"]


def places(*found: Estimate | None) -> tuple[list[str | None], list[tuple[str, str, str]]]:
    """The numbers at the ends, and where each interval and dot stands; in a panel from 160 to 932."""
    some = entry("a", other=estimate(0.5))
    entries = [some if each is None else entry("a", m=each) for each in found]
    root = ElementTree.fromstring(chart(report(*entries, metrics=["m"])))
    notes = [text.text for text in root.iter("text") if text.attrib.get("class") == "note"][1:]
    groups = [group for group in root.iter("g") if group.find("circle") is not None]
    drawn = [(line, dot) for group in groups for line in group.iter("line") for dot in group.iter("circle")]
    return notes, [(line.attrib["x1"], dot.attrib["cx"], line.attrib["x2"]) for line, dot in drawn]


def test_numbers_beyond_0_and_1_have_an_axis_from_0_or_below_to_the_largest() -> None:
    """-2 to 6 over 772: 0 stands at 160 + 772 / 4, 4 at 160 + 772 x 6 / 8; what has no interval is a point."""
    ends, drawn = places(estimate(-2.0), estimate(4.0, 0.0, 6.0), None)
    assert ends == ["-2", "6"]
    assert drawn == [("160.0", "160.0", "160.0"), ("353.0", "739.0", "932.0")]
    ends, drawn = places(estimate(-4.0, -4.0, -2.0))
    assert ends == ["-4", "0"]
    assert drawn == [("160.0", "160.0", "546.0")]


def test_without_a_number_there_is_no_dot() -> None:
    assert places(estimate(None), estimate(0.0)) == (["0", "100 %"], [("160.0", "160.0", "160.0")])


def test_nothing_to_draw_is_no_picture() -> None:
    assert chart(report(metrics=["m"])) == ""
    assert chart_file(report(entry("a", hit=estimate(1.0)), metrics=["m"])) == ""
