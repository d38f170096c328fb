"""The report of a run: its tables, its sentences, and the same in Markdown, in a page and on a terminal."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Console

from helpers.evaluations import evaluation, scores_before_and_after
from rung.artifacts.lineage import Lineage, StageRecord
from rung.config.gate import GateConfig
from rung.errors import CheckpointError
from rung.evaluation.evaluate import Evaluation
from rung.evaluation.gate import decide
from rung.report import Entry, Report, read, render, sections, write
from rung.report.chart import chart, paint
from rung.reward.decorator import Goal

SVG = "{http://www.w3.org/2000/svg}"
GOALS: dict[str, Goal] = {"dangerous": "min"}
EVIL = "<script>alert(1)</script> | [x](http://x) `a` \x1b[31m\nnext"


def scored(correct: list[float], num_shots: int = 0, text: str = "take one") -> Evaluation:
    scores = {"correct": correct, "dangerous": [1 - each for each in correct]}
    return evaluation(scores, num_shots=num_shots, completions=[text] * len(correct))


def pharmacy_report() -> Report:
    """Prompting with 0 and 4 shots, SFT, a control that does not help, and DAPO, on 200 items each time."""
    zero, sft = scored([0.0] * 200), scored([1.0] * 100 + [0.0] * 100)
    control = scored([1.0] * 98 + [0.0] * 102)
    dapo = scored([0.0] * 10 + [1.0] * 150 + [0.0] * 40, text=EVIL)
    gate = GateConfig.model_validate({"metric": "correct", "guards": [{"metric": "dangerous", "tolerance": 0.02}]})
    entries = [
        Entry("prompting", zero),
        Entry("prompting", scored([0.0] * 200, 4)),
        Entry("sft", sft),
        Entry("longer", control),
        Entry("dapo", dapo),
    ]
    lineage = Lineage().with_stage(StageRecord(stage="prompting", start="tiny:base", outcome="promoted"))
    for name, start, before, after in [
        ("sft", "prompting", zero, sft),
        ("longer", "sft", sft, control),
        ("dapo", "sft", sft, dapo),
    ]:
        decision = decide(gate, before, after, GOALS)
        record = StageRecord(
            stage=name, start=start, outcome=decision.outcome, decision=decision, reads={"validation": 1}
        )
        lineage = lineage.with_stage(record)
    return Report(
        name="pharmacy",
        lineage=lineage,
        metrics=["correct", "dangerous"],
        goals=GOALS,
        test=entries,
        validation=entries,
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("run")
    write(folder, pharmacy_report())
    return (folder / "report.md").read_text(), (folder / "report.html").read_text()


def xs(line: Line2D) -> list[float]:
    return np.asarray(line.get_xdata()).tolist()


def table(title: str) -> list[tuple[str, ...]]:
    (section,) = [section for section in sections(pharmacy_report()) if section.title.startswith(title)]
    assert section.table is not None
    return list(section.table.rows)


def test_every_stage_is_shown_with_its_interval():
    rows = {row[0]: row[1] for row in table("Test")}
    assert list(rows) == ["prompting", "prompting, 4 shots", "sft", "longer", "dapo"]
    assert rows["sft"] == "50.0 [43.1, 56.9]"
    assert rows["prompting"] == "0.0 [0.0, 1.9]"


def test_a_stage_is_compared_with_the_promoted_one_before_it_and_the_last_with_all():
    against = [(row[0], row[1]) for row in table("Gains") if row[2] == "correct"]
    assert against == [("sft", "prompting"), ("longer", "sft"), ("dapo", "sft"), ("dapo", "prompting")]


def test_gains_show_interval_p_and_flips_and_up_is_better():
    """SFT to DAPO: 60 turn right, 10 turn wrong, so McNemar's p is far below .0001; errors fall from 100 to 50."""
    row = next(row for row in table("Gains") if row[:3] == ("dapo", "sft", "dangerous"))
    gain, p, _, flips, ratio = row[3:]
    assert gain.startswith("+25.0 [")
    assert (p, flips) == ("< .0001", "60 / 10")
    assert ratio.startswith("0.50 [")


def test_what_every_comparison_shares_is_said_once():
    """A caveat that holds everywhere is one sentence, one that holds for some names them."""
    few = [evaluation({"correct": scores}) for scores in ([0.0] * 8, [1.0] * 8)]
    many = [evaluation({"correct": scores}) for scores in ([0.0, None] * 20, [1.0] * 40)]
    for (before, after), expected in (
        (few, "All of them: only 8 independent items, so the interval is too narrow."),
        (many, "`correct`, dpo against sft: 20 items without a score in one of the two are left out."),
    ):
        lineage = Lineage()
        for stage in ("sft", "dpo"):
            lineage = lineage.with_stage(StageRecord(stage=stage, start="x", outcome="promoted"))
        entries = [Entry("sft", before), Entry("dpo", after)]
        made = sections(Report(name="x", lineage=lineage, metrics=["correct", "truncated"], test=entries))
        (gains,) = [section for section in made if section.title == "Gains"]
        assert gains.sentences[1:] == (expected,)


def test_the_interval_of_a_graded_share_ends_at_0_and_1():
    """Student's interval of seven zeros and a half would begin below 0."""
    report = Report(
        name="x", lineage=Lineage(), metrics=["style"], test=[Entry("sft", evaluation({"style": [0.5] + [0.0] * 7}))]
    )
    (row,) = next(section for section in sections(report) if section.title == "Test").table.rows  # type: ignore[union-attr]
    assert row[1].startswith("6.2 [0.0, ")


def test_outcomes_and_reasons_are_told():
    report = pharmacy_report()
    assert [record.outcome for record in report.lineage.stages] == ["promoted", "promoted", "inconclusive", "promoted"]
    markdown = "\n".join(sentence for section in sections(report) for sentence in section.sentences)
    assert "The final policy is that of stage `dapo`." in markdown
    assert re.search(r"`longer`: inconclusive \(about \d+ items would settle it\)", markdown)
    assert "Validation was read 3 times; at alpha / 3" in markdown


def test_the_bound_at_a_share_of_alpha_is_below_that_of_the_gate():
    report = pharmacy_report()
    gates = next(section for section in sections(report) if section.title == "Gates")
    strict = float(re.search(r"`dapo`: `correct` ([+-]\d+\.\d+)", gates.sentences[-1]).group(1))  # type: ignore[union-attr]
    decision = report.lineage.stages[-1].decision
    assert decision is not None
    assert decision.gain.low is not None
    assert 0 < strict < 100 * decision.gain.low


def test_the_worst_losses_and_best_gains_stand_side_by_side():
    rows = table("Examples: dapo")
    assert [row[0] for row in rows] == ["-1"] * 5 + ["+1"] * 5
    assert rows[0][1:4] == ("question 0", "answer 0", "take one")


def test_what_a_model_wrote_stays_text(written):
    markdown, html = written
    assert "<script" not in html
    assert "\\<script>" in markdown
    assert "](http" not in markdown
    widths = {line.count(" | ") for line in markdown.splitlines() if line.startswith("| -1")}
    assert widths == {4}, "a bar in an answer opens no cell"
    console = Console(record=True, width=200, force_terminal=False)
    console.print(render(sections(pharmacy_report())))
    assert "\x1b[31m" not in console.export_text()


def test_the_terminal_shows_scores_and_gates():
    console = Console(record=True, width=200, force_terminal=False)
    console.print(render(sections(pharmacy_report())))
    text = console.export_text()
    assert "50.0 [43.1, 56.9]" in text
    assert "The final policy is that of stage dapo." in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_terminal_shows_every_score_and_p_value_whole_at_any_width(width: int):
    made = sections(pharmacy_report())
    console = Console(record=True, width=width, force_terminal=False)
    console.print(render(made))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert "\u2026" not in text, "nothing is cut"
    shown = {section.title: section.table for section in made}
    test, gains = shown["Test"], shown["Gains"]
    assert test is not None
    assert gains is not None
    assert all(cell in text for row in test.rows for cell in row)
    assert all(cell in text for row in gains.rows for cell in row[2:6])
    assert text.count("dapo against sft") == 1
    assert ("after / before" in text) == (width > 60)


def test_what_was_written_is_read_back_for_the_terminal(tmp_path):
    made = write(tmp_path, pharmacy_report())
    assert read(tmp_path) == made
    (tmp_path / "report.json").write_text("[{}]")
    with pytest.raises(CheckpointError, match=r"report\.json"):
        read(tmp_path)


def test_curves_stand_beside_the_markdown_and_in_the_page(tmp_path):
    rows = [{"step": step, "loss": 1 / step, "entropy": 2.0} for step in range(1, 101)]
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write(tmp_path, pharmacy_report())
    markdown, html = ((tmp_path / f"report.{kind}").read_text() for kind in ("md", "html"))
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", markdown)
    assert pictures == ["scores.svg", "sft/curves.svg"]
    for picture in pictures:
        assert ElementTree.parse(tmp_path / picture).getroot().tag.endswith("svg")
    assert "Never moved: `entropy` 2." in markdown
    assert html.count('class="picture"') == 2
    assert "Training: sft" in html


def test_the_page_is_whole_and_loads_nothing(written):
    _, html = written

    class Reader(HTMLParser):
        depth, sources = 0, ()

        def handle_starttag(self, tag, attrs):
            self.depth += tag != "meta"
            self.sources += tuple(value for name, value in attrs if name in ("src", "href"))

        def handle_endtag(self, tag):
            self.depth -= 1

        def handle_startendtag(self, tag, attrs):
            pass

    reader = Reader()
    reader.feed(html)
    assert (reader.depth, reader.sources) == (0, ())


def test_every_stage_and_metric_has_a_dot_with_its_interval_filled_where_it_was_promoted(written):
    """Of 200 items SFT has 100 right, the control 98 and DAPO 150; Wilson's interval of none ends at 1.88 %."""
    report = pharmacy_report()
    figure = Figure(dpi=72)
    paint(figure, report, ["correct", "dangerous"], 1)
    correct, dangerous = figure.axes
    assert [axes.get_title("left") for axes in figure.axes] == ["correct", "dangerous"]
    assert [axes.get_xlim() for axes in figure.axes] == [(0, 1)] * 2
    assert [label.get_text() for label in correct.get_yticklabels()] == [
        *("prompting", "prompting, 4 shots", "sft", "longer", "dapo")
    ]
    assert correct.yaxis_inverted(), "the first stage is on top"
    for axes, values in (correct, [0, 0, 0.5, 0.49, 0.75]), (dangerous, [1, 1, 0.5, 0.51, 0.25]):
        assert [np.asarray(line.get_ydata()).tolist() for line in axes.lines] == [[i, i, i] for i in range(5)]
        assert [xs(line)[1] for line in axes.lines] == values
        assert [line.get_markevery() for line in axes.lines] == [[1]] * 5, "the dot is at the value"
    estimates = [entry.evaluation.metrics["correct"] for entry in report.final]
    ends = [(xs(line)[0], xs(line)[2]) for line in correct.lines]
    assert ends == [(estimate.low, estimate.high) for estimate in estimates]
    assert ends[0] == (0, pytest.approx(0.0188, abs=1e-4))
    filled = [same_color(line.get_markerfacecolor(), line.get_color()) for line in correct.lines]
    assert filled == [True, True, True, False, True], "the control was not promoted"
    svg = ElementTree.fromstring(re.search(r"<svg.*?</svg>", written[1], re.DOTALL).group())  # type: ignore[union-attr]
    assert svg.attrib["role"] == "img"
    assert svg.attrib["aria-label"] == "pharmacy: correct, dangerous by stage, with 95 % intervals"
    dots = [group for group in svg.iter(f"{SVG}g") if group.find(f"{SVG}title") is not None]
    assert [group.find(f"{SVG}title").text for group in dots] == [  # type: ignore[union-attr]
        *("correct 0.0 %", "correct 0.0 %", "correct 50.0 %", "correct 49.0 %", "correct 75.0 %"),
        *("dangerous 100.0 %", "dangerous 100.0 %", "dangerous 50.0 %", "dangerous 51.0 %", "dangerous 25.0 %"),
    ]
    fills = [next(group.iter(f"{SVG}use")).attrib["style"].partition(";")[0] for group in dots]
    assert fills.count("fill: var(--paper)") == 2
    assert fills.count("fill: var(--c0)") == 8
    zero, half, most = (float(next(dots[i].iter(f"{SVG}use")).attrib["x"]) for i in (0, 2, 4))
    assert (half - zero) / (most - zero) == pytest.approx(0.5 / 0.75, abs=0.002)
    line = next(dots[2].iter(f"{SVG}path")).attrib["d"]
    low, middle, high = (float(x) for x in re.findall(r"[ML] (\S+)", line))
    assert middle == half
    pixels = (half - zero) / 0.5
    assert [zero + pixels * end for end in ends[2]] == pytest.approx([low, high], abs=0.2)


def test_a_metric_that_is_no_share_is_drawn_from_0_and_one_without_a_value_not_at_all():
    evaluations = [evaluation({"tokens": scores, "empty": [None] * 3}) for scores in ([20.0, 30, 40], [-5.0, -6, -4])]
    entries = [Entry(f"stage {i}", each) for i, each in enumerate(evaluations)]
    figure = Figure(dpi=72)
    paint(figure, Report(name="x", lineage=Lineage(), metrics=["tokens"], test=entries[:1]), ["tokens", "empty"], 2)
    tokens, empty = figure.axes
    assert tokens.get_xlim() == (0, pytest.approx(entries[0].evaluation.metrics["tokens"].high))
    assert not empty.lines
    figure = Figure(dpi=72)
    paint(figure, Report(name="x", lineage=Lineage(), metrics=["tokens"], test=entries[1:]), ["tokens"], 1)
    assert figure.axes[0].get_xlim() == (pytest.approx(entries[1].evaluation.metrics["tokens"].low), 0)


def test_a_score_without_an_interval_is_a_dot_alone():
    figure = Figure(dpi=72)
    report = Report(name="x", lineage=Lineage(), metrics=["tokens"], test=[Entry("sft", evaluation({"tokens": [5.0]}))])
    assert report.test[0].evaluation.metrics["tokens"].low is None
    paint(figure, report, ["tokens"], 1)
    (dot,) = figure.axes[0].lines
    assert np.isnan(xs(dot)).tolist() == [True, False, True]
    drawn = ElementTree.fromstring(chart(report))
    (group,) = (group for group in drawn.iter(f"{SVG}g") if group.find(f"{SVG}title") is not None)
    assert len(list(group.iter(f"{SVG}use"))) == 1


def test_many_metrics_stand_in_rows_of_about_as_many_each():
    figure = Figure(dpi=72)
    names = [f"m{i}" for i in range(7)]
    entries = [Entry("sft", evaluation({name: [0.0, 1.0] for name in names}))]
    report = Report(name="x", lineage=Lineage(), metrics=names, test=entries)
    paint(figure, report, names, 2)
    tops = [round(axes.get_position().y1, 6) for axes in figure.axes]
    assert [tops.count(top) for top in dict.fromkeys(tops)] == [4, 3]
    drawn = chart(report)
    assert [drawn.count(f">{name}<") for name in names] == [1] * 7
    assert chart(replace(report, metrics=["other"])) == ""


def test_a_run_without_a_test_set_shows_validation_and_one_without_evaluations_its_stages():
    report = pharmacy_report()
    titles = [section.title for section in sections(Report(name="x", lineage=report.lineage, metrics=["correct"]))]
    assert titles == ["Outcome", "Gates"]
    validated = Report(name="x", lineage=report.lineage, metrics=["correct"], validation=report.validation)
    assert "Validation" in [section.title for section in sections(validated)]


def test_a_metric_that_scored_nothing_says_so():
    before, after = (
        evaluation({"correct": scores}) for scores in ([None] * 30, scores_before_and_after(10, 10, 5, 5)[1])
    )
    lineage = Lineage()
    for stage in ("sft", "dpo"):
        lineage = lineage.with_stage(StageRecord(stage=stage, start="x", outcome="promoted"))
    entries = [Entry("sft", before), Entry("dpo", after)]
    made = sections(Report(name="x", lineage=lineage, metrics=["correct"], test=entries))
    assert [row[1] for row in made[1].table.rows] == ["not scored", "66.7 [48.8, 80.8]"]  # type: ignore[union-attr]
    assert made[2].table.rows[0][3] == "not scored"  # type: ignore[union-attr]
