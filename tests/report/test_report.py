"""The report of a run: its tables, its sentences, and the same in Markdown, in a page and on a terminal."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from rich.console import Console

from helpers.evaluations import evaluation, scores_before_and_after
from rung.comparison import Goal
from rung.errors import CheckpointError
from rung.evaluate import Evaluation
from rung.gate import GateConfig, decide
from rung.lineage import Lineage, StageRecord
from rung.report import Entry, Report, read, render, sections, write

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
    assert 0 < strict < decision.gain.low


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
    svg = ElementTree.fromstring(re.search(r"<svg.*?</svg>", html, re.DOTALL).group())  # type: ignore[union-attr]
    assert len(svg.findall(".//circle")) == 10
    assert len(svg.findall(".//circle[@class='hollow']")) == 2, "the control was not promoted"


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
