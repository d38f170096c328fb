"""Loading: how many bad rows are too many, what is renamed, what is told of the rows."""

import json

import pytest

from rung.data.load import load_examples
from rung.data.splits import between, sample
from rung.errors import ConfigError, DataError

GOOD = {"prompt": "2 + 2?", "completion": " 4"}
BAD = {"prompt": "", "completion": " 4"}


def rows(good: int, bad: int) -> list[dict[str, str]]:
    return [{"prompt": f"{i} + 2?", "completion": f" {i + 2}"} for i in range(good)] + [BAD] * bad


def test_as_many_bad_rows_as_allowed_are_left_out() -> None:
    """1 of 50 is the 2 % that are allowed, 2 of 50 are not."""
    examples, report = load_examples(rows(49, 1), on_bad_row="skip")
    assert (len(examples), report.rows, report.num_dropped) == (49, 50, 1)
    with pytest.raises(DataError, match=r"row 49.*2 of 50 rows are bad"):
        load_examples(rows(48, 2), on_bad_row="skip")
    assert len(load_examples(rows(3, 3), on_bad_row="skip", max_bad_share=0.5)[0]) == 3
    with pytest.raises(DataError, match="3 of 5 rows are bad"):
        load_examples(rows(2, 3), on_bad_row="skip", max_bad_share=0.5)


def test_one_bad_row_is_an_error_unless_it_may_be_left_out() -> None:
    with pytest.raises(DataError, match=r"rows, row 50"):
        load_examples(rows(49, 1))


def test_the_cause_of_most_bad_rows_is_told() -> None:
    several = [GOOD, {"prompt": "a", "completion": ""}, BAD, BAD]
    with pytest.raises(DataError, match=r"row 2: .*3 of 4 rows are bad \(2: .*prompt"):
        load_examples(several, on_bad_row="skip")


def test_bad_rows_go_to_the_quarantine_with_place_and_cause(tmp_path) -> None:
    file = tmp_path / "new" / "bad.jsonl"
    load_examples(rows(49, 1), on_bad_row="quarantine")[1].write_quarantine(file)
    (line,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert line["row"] == BAD
    assert line["source"].endswith("50")
    assert "prompt" in line["cause"]


def test_a_limit_is_a_sample_by_the_seed_of_the_rows_in_the_share(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(40, 0)))
    whole = load_examples("a.jsonl", base=tmp_path)[0]
    spec = {"path": "a.jsonl", "share": {"from": 0.25, "to": 0.75, "salt": "s"}}
    half = between(whole, 0.25, 0.75, "s")
    assert 3 < len(half) < 40
    assert load_examples(spec, base=tmp_path)[0] == half
    few, report = load_examples({**spec, "limit": 3}, base=tmp_path, seed=5)
    assert few == sample(half, 3, 5)
    assert report.examples == 3
    with pytest.raises(DataError, match="no example is left"):
        load_examples({**spec, "share": {"from": 0.5, "to": 0.5}}, base=tmp_path)


def test_columns_are_renamed_and_the_rest_stays(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"q": "why?", "a": "so", "prompt": "no", "kind": 3, "doc": "d1"}))
    spec = {"path": "a.jsonl", "columns": {"prompt": "q", "completion": "a", "group": "doc"}}
    (example,) = load_examples(spec, base=tmp_path)[0]
    assert (example.prompt, example.completion) == ("why?", "so")
    assert dict(example.columns) == {"ground_truth": "so", "kind": 3, "doc": "d1"}


def test_a_group_column_keeps_rows_together(tmp_path) -> None:
    lines = [{**GOOD, "prompt": f"{i}?", "doc": i // 2} for i in range(4)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    groups = [e.group for e in load_examples({"path": "a.jsonl", "columns": {"group": "doc"}}, base=tmp_path)[0]]
    assert groups[0] == groups[1] != groups[2] == groups[3]
    with pytest.raises(ConfigError, match="no row has a column `page`"):
        load_examples({"path": "a.jsonl", "columns": {"group": "page"}}, base=tmp_path)


def test_a_second_row_of_equal_content_is_noticed_and_kept() -> None:
    examples, report = load_examples([GOOD, {**GOOD, "prompt": "3?"}, GOOD])
    assert len(examples) == report.examples == 3
    ((what, tally),) = report.noticed.items()
    assert "duplicate" in what
    assert (tally.count, tally.first) == (1, ["rows:3"])


def test_rows_see_the_same_columns_as_each_other() -> None:
    first, second = load_examples([{**GOOD, "unit": "mg"}, {**GOOD, "dose": 2}])[0]
    assert dict(first.columns) == {"ground_truth": " 4", "unit": "mg", "dose": None}
    assert dict(second.columns) == {"ground_truth": " 4", "unit": None, "dose": 2}


def test_no_rows_and_something_else_than_rows_are_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        load_examples([])
    with pytest.raises(DataError, match=r"rows, row 2 is not a mapping \(found str\)"):
        load_examples([GOOD, "no"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "spec", [{"path": "a.jsonl", "name": "a/b"}, {}, {"path": "a.jsonl", "kind": "x"}, {"path": "a", "columns": 3}]
)
def test_a_spec_names_one_place_and_no_other_key(spec) -> None:
    with pytest.raises(ConfigError, match=r"^data"):
        load_examples(spec)
