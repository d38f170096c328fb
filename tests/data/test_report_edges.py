"""What is told of rows: counts that add up, five names a cause, and percentiles by nearest rank."""

import pytest

from rung.data.fingerprints import fingerprint
from rung.data.records import BadRow
from rung.data.report import DataReport, Tally, quantiles
from rung.errors import DataError


def filled(*lengths: int) -> DataReport:
    report = DataReport(rows=3, examples=2, encoded=1, warnings=["w"], labels=("b", "a"), formats={"text": 3})
    report.drop("empty", "a:1")
    report.notice("twice", "a:2")
    for length in lengths:
        report.measure("prompt", length)
    return report


def test_five_rows_are_named_and_all_are_counted() -> None:
    tally = Tally()
    for i in range(7):
        tally.add(f"a:{i}")
    assert (tally.count, tally.first) == (7, ["a:0", "a:1", "a:2", "a:3", "a:4"])


def test_two_reports_are_one_on_the_rows_of_both() -> None:
    other = DataReport(
        rows=10, examples=20, encoded=31, warnings=["v"], labels=("c", "a"), formats={"text": 1, "gsm8k": 4}
    )
    for i in range(6):
        other.drop("empty", f"b:{i}")
    other.drop("long", "b:9")
    other.notice("twice", "b:7")
    other.measure("prompt", 8)
    other.measure("completion", 9)
    merged = filled(5, 6).merge(other)
    assert (merged.rows, merged.examples, merged.encoded, merged.num_dropped) == (13, 22, 32, 8)
    assert merged.formats == {"text": 4, "gsm8k": 4}
    assert merged.warnings == ["w", "v"]
    assert merged.labels == ("a", "b", "c")
    assert merged.lengths == {"prompt": [5, 6, 8], "completion": [9]}
    assert merged.dropped == {"empty": Tally(["a:1", *(f"b:{i}" for i in range(6))]), "long": Tally(["b:9"])}
    assert merged.noticed == {"twice": Tally(["a:2", "b:7"])}


def test_a_merge_leaves_both_as_they_were() -> None:
    one, other = filled(5), filled(6)
    one.merge(other)
    assert (one, other) == (filled(5), filled(6))


def test_a_report_is_told_in_lines() -> None:
    report = filled(1, 2, 3)
    for i in range(6):
        report.drop("long", f"b:{i}")
    assert report.lines() == [
        "3 rows, 2 examples, 1 encoded, format text (3)",
        "2 labels",
        "dropped 1: empty (a:1)",
        "dropped 6: long (b:0, b:1, b:2, b:3, b:4, ...)",
        "noticed 1: twice (a:2)",
        "prompt tokens: p50 2, p90 3, p99 3, max 3",
        "w",
    ]
    assert DataReport(rows=1, examples=1).lines() == ["1 rows, 1 examples"]
    two = DataReport(rows=1, examples=1, formats={"text": 1, "gsm8k": 2})
    assert two.lines() == ["1 rows, 1 examples, format text (1), gsm8k (2)"]


def test_a_report_is_json_too() -> None:
    assert filled(4).as_dict() == {
        "rows": 3,
        "examples": 2,
        "encoded": 1,
        "formats": {"text": 3},
        "dropped": {"empty": {"count": 1, "first": ["a:1"]}},
        "noticed": {"twice": {"count": 1, "first": ["a:2"]}},
        "warnings": ["w"],
        "tokens": {"prompt": {"p50": 4, "p90": 4, "p99": 4, "max": 4}},
        "labels": ["b", "a"],
        "columns": [],
        "mixture": [],
        **fingerprint([]),
    }


@pytest.mark.parametrize(
    ("count", "expected"), [(1, (1, 1, 1, 1)), (2, (1, 2, 2, 2)), (10, (5, 9, 10, 10)), (200, (100, 180, 198, 200))]
)
def test_percentiles_are_the_nearest_rank(count: int, expected: tuple[int, ...]) -> None:
    assert tuple(quantiles(range(count, 0, -1)).values()) == expected


def test_the_share_of_bad_rows_is_that_of_reading_and_of_encoding() -> None:
    """1 of 10 rows is not read; of the 9 others, 3 are not encoded: 4 of 10. Over-long rows do not count."""
    report = DataReport(rows=10, unreadable=1, tried=9)
    for cause in ("empty", "rejected", "rejected", "rejected"):
        report.refuse(cause, "a:1")
    report.drop("long", "a:2")
    assert report.bad_share == pytest.approx(0.4)
    assert (report.num_dropped, report.bad) == (5, {"empty": 1, "rejected": 3})
    report.check_bad_share("a:1", BadRow("rejected"), 0.4)
    with pytest.raises(DataError, match=r"a:1: rejected; 40.0% of the rows are bad \(3: rejected\)"):
        report.check_bad_share("a:1", BadRow("rejected"), 0.39)
    both = report.merge(DataReport(rows=10))
    assert (both.bad_share, both.bad) == (pytest.approx(0.05 + 0.95 * 3 / 9), report.bad)
