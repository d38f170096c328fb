"""What a report says, number by number: limits of p, signs of gains, which stage is held against which."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from helpers.edges import evaluation
from rung.artifacts.lineage import Lineage, StageRecord
from rung.evaluation.comparison import Comparison, compare
from rung.evaluation.evaluate import Estimate, Evaluation
from rung.evaluation.gate import Decision
from rung.report.content import is_share, measured, predecessors, sections
from rung.report.curves import Curves, Line, Panel
from rung.report.records import Entry, Report, Section, Table
from rung.reward.decorator import Goal

Scores = Sequence[float | None]


def scored(*scores: float | None, **more: Scores) -> Evaluation:
    always = {"output_tokens": [10.0] * len(scores), "truncated": [0.0] * len(scores)}
    return evaluation({"m": list(scores), **more, **always})


def lineage(*outcomes: str) -> Lineage:
    """Stages a, b, c and so on, each from the one before it."""
    made = Lineage()
    for name, outcome in zip("abcdefgh", outcomes, strict=False):
        made = made.with_stage(StageRecord.model_validate({"stage": name, "start": "x", "outcome": outcome}))
    return made


def report(*entries: Entry, outcomes: Sequence[str] = (), goals: dict[str, Goal] | None = None) -> Report:
    outcomes = outcomes or ["promoted"] * len(entries)
    return Report(name="r", lineage=lineage(*outcomes), metrics=["m"], goals=goals or {}, test=entries)


def section(made: Sequence[Section], title: str) -> Section:
    return next(each for each in made if each.title == title)


def table(made: Section) -> Table:
    assert made.table is not None
    return made.table


def row(before: Scores, after: Scores, goals: dict[str, Goal] | None = None) -> tuple[str, ...]:
    made = sections(report(Entry("a", scored(*before)), Entry("b", scored(*after)), goals=goals))
    return table(section(made, "Gains")).rows[0]


def test_a_gain_is_in_points_of_a_share_and_in_its_own_unit_else() -> None:
    assert row([0.0] * 30, [1.0] * 30)[:4] == ("b", "a", "m", "+100.0 [+100.0, +100.0]")
    assert row([0.0] * 30, [2.0] * 30)[3] == "+2.0 [+2.0, +2.0]"
    assert row([0.25] * 30, [0.25] * 30)[3] == "0.0 [0.0, 0.0]"
    assert row([2.0] * 30, [2.04] * 30)[3] == "0.0 [0.0, 0.0]"
    assert row([2.0] * 30, [1.94] * 30)[3] == "-0.1 [-0.1, -0.1]"


def test_a_p_has_four_digits_and_is_never_0() -> None:
    """McNemar of 5 flips is 2 / 32, of 14 2 / 2^14 = .00012, of 15 half of that."""
    assert row([0.0] * 5, [1.0] * 5)[4] == ".0625"
    assert row([0.0] * 14, [1.0] * 14)[4] == ".0001"
    assert row([0.0] * 15, [1.0] * 15)[4] == "< .0001"
    assert row([0.0, 1.0], [1.0, 0.0])[4] == "1.0000"
    assert row([0.0, None], [None, 1.0])[3:6] == ("not scored", "", "")


def test_a_ratio_is_told_where_less_is_better() -> None:
    assert row([1.0, 1.0], [1.0, 0.0])[7] == ""
    assert row([1.0] * 4, [0.0] * 4, {"m": "min"})[6:] == ("4 / 0", "0.00 [0.00, 0.00]")
    assert row([0.0] * 4, [1.0] * 4, {"m": "min"})[6:] == ("0 / 4", "")
    assert row([2.0] * 4, [5.0] * 4, {"m": "min"})[7] == "2.50 [2.50, 2.50]"


def test_all_p_values_of_the_table_are_adjusted_together() -> None:
    """b against a: 6 flips, p = 2 / 64; c against b: none, p = 1; c against a 2 / 64: Holm's 3 x .03125 = .0938."""
    none, all_ = [0.0] * 6, [1.0] * 6
    made = sections(report(Entry("a", scored(*none)), Entry("b", scored(*all_)), Entry("c", scored(*all_))))
    found = table(section(made, "Gains"))
    assert (found.num_texts, found.num_keys) == (3, 2), "stage, against and metric are words"
    assert [each[:2] + each[4:6] for each in found.rows] == [
        ("b", "a", ".0312", ".0938"),
        ("c", "b", "1.0000", "1.0000"),
        ("c", "a", ".0312", ".0938"),
    ]
    assert found.strong == frozenset()
    alone = sections(report(Entry("a", scored(*none)), Entry("b", scored(*all_))))
    assert table(section(alone, "Gains")).strong == {0}


def test_a_stage_is_held_against_the_promoted_one_before_it_that_was_asked_alike() -> None:
    other = scored(1.0).model_copy(update={"hash": "else"})
    entries = [Entry("a", scored(1.0)), Entry("b", scored(1.0)), Entry("c", other), Entry("d", scored(1.0))]
    found = report(*entries, outcomes=["promoted", "kept", "promoted", "kept"])
    held = [[each.stage for each in predecessors(found, entry, entries)] for entry in entries]
    assert held == [[], ["a"], [], ["a"]]
    last = report(*entries, outcomes=["promoted", "promoted", "promoted", "promoted"])
    assert [each.stage for each in predecessors(last, entries[3], entries)] == ["b", "a"]
    assert [each.stage for each in predecessors(last, entries[1], entries)] == ["a"]


def test_a_stage_asked_in_two_ways_is_not_held_against_itself() -> None:
    entries = [Entry("a", scored(1.0)), Entry("a", scored(1.0))]
    assert predecessors(report(*entries[:1]), entries[1], entries) == []


def test_a_share_lies_within_0_and_1() -> None:
    assert is_share("m", [Entry("a", scored(0.0, 1.0, None))])
    assert not is_share("m", [Entry("a", scored(0.0, 1.5))])
    assert not is_share("m", [Entry("a", scored(0.5)), Entry("b", scored(-0.1))])


def test_a_count_of_calls_is_no_share_even_if_no_item_has_more_than_one() -> None:
    assert not is_share("num_calls", [Entry("a", scored(0.0, num_calls=[1.0]))])


def estimates(**found: Estimate) -> list[tuple[str, ...]]:
    base = scored(0.5, 0.5, n=[3.0, 3.0])
    made = measured(base.model_copy(update={"metrics": found}))
    return list(table(made).rows)


def test_an_estimate_has_its_interval_and_says_what_was_lost() -> None:
    def one(**fields: float | None) -> Estimate:
        return Estimate.model_validate({"value": 0.5, "low": None, "high": None, "n": 7, **fields})

    assert estimates(m=one()) == [("m, %", "50.0", "7")]
    assert estimates(m=one(low=0.25, high=0.75)) == [("m, %", "50.0 [25.0, 75.0]", "7")]
    assert estimates(m=one(low=-0.25, high=1.75)) == [("m, %", "50.0 [0.0, 100.0]", "7")]
    assert estimates(m=one(lost=0.1)) == [("m, %", "50.0 (n = 7)", "7")]
    assert estimates(m=one(value=None)) == [("m, %", "not scored", "7")]
    assert estimates(n=one(value=3.0, low=-1.0, high=7.0)) == [("n", "3.0 [-1.0, 7.0]", "7")]


def test_a_failure_is_told_in_one_printable_line() -> None:
    lost = Estimate(value=0.5, low=None, high=None, n=1, failure="a `b`\n\x1b[31m" + "c" * 300)
    (told,) = measured(scored(0.5).model_copy(update={"metrics": {"m": lost}})).sentences
    assert told == "`m` failed on items: a 'b' [31m" + "c" * (160 - len("a 'b' [31m"))


def test_the_table_says_what_a_set_of_its_size_can_show() -> None:
    """280 sqrt(.25 / 49) = 20 points for 49 items."""
    made = sections(report(Entry("a", scored(*[1.0] * 49))))
    assert section(made, "Test").sentences[0] == (
        "49 items, 95 % intervals. With a quarter of the answers changing, a difference of 20.0 points shows."
    )
    assert table(section(made, "Test")).headers == ("stage", "m, %")
    assert table(section(made, "Output tokens")).rows == (("a", "10.0", "10.0", "0.0", "10.0", "10.0", "10.0", "0.0"),)


def test_the_outcome_tells_stages_without_a_gate() -> None:
    assert table(sections(report(outcomes=["baseline", "trained"]))[0]).rows == (
        ("a", "x", "baseline"),
        ("b", "x", "trained"),
    )
    assert sections(report(outcomes=["baseline", "trained"]))[0].sentences == (
        "The final policy is that of stage `b`.",
    )
    made = sections(report(outcomes=["promoted", "kept"]))
    assert made[0].sentences == ("The final policy is that of stage `a`.",)
    assert table(made[0]).rows == (("a", "x", "promoted"), ("b", "x", "kept"))
    assert sections(report(outcomes=["kept"]))[0].sentences == ("No stage was promoted.",)


def gated(reads: int, needed: int | None = None, goal: Goal = "max") -> Report:
    before, after = [0.0, 1.0, 0.5, 0.5, None], [1.0, 0.5, 0.5, 0.75, 1.0]
    gain: Comparison = compare(scored(*before), scored(*after), "m", {"m": goal})
    decision = Decision(outcome="promoted", reasons=("one", "two"), gain=gain, items_needed=needed)
    record = StageRecord(stage="b", start="a", outcome="promoted", decision=decision, reads={"validation": reads})
    made = lineage("promoted").with_stage(record)
    entries = [Entry("a", scored(*before)), Entry("b", scored(*after))]
    return Report(name="r", lineage=made, metrics=["m"], goals={"m": goal}, validation=entries)


def test_a_gate_tells_its_reasons_and_more_than_one_reading() -> None:
    once = section(sections(gated(1)), "Gates").sentences
    assert once == ("`b`: promoted. one. two.",)
    twice = section(sections(gated(2, needed=50)), "Gates").sentences
    assert twice[0] == "`b`: promoted (about 50 items would settle it). one. two."
    assert twice[1] == "Validation was read 2 times; at alpha / 2 the lower bounds of the gains are:"
    assert twice[2].startswith("`b`: `m` ")


def test_examples_are_those_that_moved_the_worst_first() -> None:
    """1 -> .5 lost; 0 -> 1 and .5 -> .75 gained; .5 -> .5 and what was not scored before do not move."""
    assert [each[:2] for each in table(sections(gated(1))[-1]).rows] == [
        ("-0.5", "question 1"),
        ("+1", "question 0"),
        ("+0.25", "question 3"),
    ]
    assert [each[:2] for each in table(sections(gated(1, goal="min"))[-1]).rows] == [
        ("-1", "question 0"),
        ("-0.25", "question 3"),
        ("+0.5", "question 1"),
    ]


def test_five_examples_of_each_kind_are_shown() -> None:
    before, after = scored(*[0.0] * 6, *[1.0] * 7), scored(*[1.0] * 6, *[0.0] * 7)
    gain = compare(before, after, "m", {})
    record = StageRecord(
        stage="b", start="a", outcome="kept", decision=Decision(outcome="kept", reasons=("x",), gain=gain)
    )
    made = Report(
        name="r",
        lineage=lineage("promoted").with_stage(record),
        metrics=["m"],
        validation=[Entry("a", before), Entry("b", after)],
    )
    found = sections(made)[-1]
    assert found.title == "Examples: b (m, validation)"
    assert [each[0] for each in table(found).rows] == ["-1"] * 5 + ["+1"] * 5
    assert table(found).headers == ("change", "asked", "expected", "a", "b")


@pytest.mark.parametrize(("count", "noisy"), [(39, False), (40, True)])
def test_training_says_what_is_smoothed_and_what_never_moved(count: int, noisy: bool) -> None:
    import numpy as np

    line = Line("loss", np.arange(count, dtype=float), np.array([0.0, 1.0] * 20)[:count])
    curves = Curves((Panel("loss", "", (line,)),), {"beta": 0.1})
    made = sections(Report(name="r", lineage=lineage("promoted"), metrics=[], curves={"a": curves}))[-1]
    assert (made.title, made.picture) == ("Training: a", "a/curves.svg")
    assert made.sentences[0].startswith("Thin: each step") is noisy
    assert made.sentences[0].endswith("The last value stands beside each name. All metrics: `a/metrics.jsonl`.")
    assert made.sentences[1] == "Never moved: `beta` 0.1."


def test_a_label_tells_the_shots_where_there_are_some() -> None:
    assert Entry("a", scored(1.0)).label == "a"
    assert Entry("a", scored(1.0).model_copy(update={"num_shots": 4})).label == "a, 4 shots"
