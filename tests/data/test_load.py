"""What a config says about data is done to every row, and every row is accounted for."""

import json

import pytest

from rung.data.load import load_examples
from rung.data.records import as_prompt
from rung.errors import ConfigError, DataError, UserError

GOOD = [{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(99)]
BAD = {"prompt": "", "completion": "c"}


def written(tmp_path, rows):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": "rows.jsonl"}


def test_a_bad_row_is_an_error_by_default(tmp_path):
    with pytest.raises(DataError, match=r"rows\.jsonl, row 100: `prompt` is empty") as caught:
        load_examples(written(tmp_path, [*GOOD, BAD]), base=tmp_path)
    assert "on_bad_row: skip" in caught.value.remedy


def test_all_bad_rows_are_named_at_once(tmp_path):
    rows = [GOOD[0], BAD, GOOD[1], BAD]
    with pytest.raises(DataError, match=r"row 2: .*; also bad: rows 4 \(.*\)"):
        load_examples(written(tmp_path, rows), base=tmp_path)
    with pytest.raises(DataError, match=r"row 2: .*; also bad: rows 3 \(.*, 7 \(.*\) and 3 more"):
        load_examples(written(tmp_path, [GOOD[0], *[BAD] * 9]), base=tmp_path)


def test_a_skipped_row_is_counted_by_cause(tmp_path):
    examples, report = load_examples(written(tmp_path, [*GOOD, BAD]), base=tmp_path, on_bad_row="skip")
    assert len(examples) == 99
    assert report.as_dict()["dropped"] == {"`prompt` is empty": {"count": 1, "first": ["rows.jsonl:100"]}}
    assert (report.rows, report.examples) == (100, 99)


def test_a_line_that_cannot_be_read_is_a_bad_row(tmp_path):
    written(tmp_path, GOOD)
    with (tmp_path / "rows.jsonl").open("ab") as file:
        file.write(b'{"prompt": "cut of')
    examples, report = load_examples("rows.jsonl", base=tmp_path, on_bad_row="skip")
    assert len(examples) == 99
    assert list(report.dropped) == ["the line is not valid JSON"]


def test_a_quarantined_row_is_kept_aside(tmp_path):
    aside = tmp_path / "run" / "bad.jsonl"
    _, report = load_examples(written(tmp_path, [*GOOD, BAD]), base=tmp_path, on_bad_row="quarantine")
    report.write_quarantine(aside)
    assert [json.loads(line)["row"] for line in aside.read_text().splitlines()] == [BAD]
    before = sorted(tmp_path.rglob("*"))
    _, report = load_examples("rows.jsonl", base=tmp_path, on_bad_row="skip")
    report.write_quarantine(aside.with_name("none.jsonl"))
    assert report.num_dropped == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_too_many_bad_rows_are_an_error_in_any_case(tmp_path):
    spec = written(tmp_path, [*GOOD, BAD, BAD, BAD])
    with pytest.raises(DataError, match=r"row 100: .*3 of 102 rows are bad"):
        load_examples(spec, base=tmp_path, on_bad_row="skip")
    assert len(load_examples(spec, base=tmp_path, on_bad_row="skip", max_bad_share=0.05)[0]) == 99


def test_mapped_columns_take_the_place_of_ours(tmp_path):
    written(tmp_path, [{"instruction": "a", "output": "b", "prompt": "unused", "document": 7}])
    columns = {"prompt": "instruction", "completion": "output", "group": "document"}
    (example,), _ = load_examples({"path": "rows.jsonl", "columns": columns}, base=tmp_path)
    assert (example.prompt, example.completion) == ("a", "b")
    assert dict(example.columns) == {"document": 7, "ground_truth": "b"}
    with pytest.raises(ConfigError, match=r"no row has a column `title`"):
        load_examples({"path": "rows.jsonl", "columns": {"prompt": "title"}}, base=tmp_path)


def test_a_group_column_decides_what_splits_keep_whole(tmp_path):
    rows = [{"prompt": f"p{i}", "document": i // 10} for i in range(100)]
    examples, _ = load_examples(written(tmp_path, rows) | {"columns": {"group": "document"}}, base=tmp_path)
    assert len({e.group for e in examples}) == 10


def test_a_format_can_be_set(tmp_path):
    spec = written(tmp_path, [{"text": "a", "label": "x"}, {"text": "b", "label": None}])
    examples, _ = load_examples(spec | {"format": "text"}, base=tmp_path)
    assert [e.text for e in examples] == ["a", "b"]
    with pytest.raises(ConfigError, match="there is no format `txt`"):
        load_examples(spec | {"format": "txt"}, base=tmp_path)


def test_shares_of_one_salt_are_disjoint_and_whole(tmp_path):
    spec = written(tmp_path, GOOD)
    parts = [
        {e.id for e in load_examples(spec | {"share": {"salt": "s", "from": low, "to": high}}, base=tmp_path)[0]}
        for low, high in [(0, 0.5), (0.5, 1)]
    ]
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == 99


def test_a_limit_is_a_seeded_sample_and_not_the_first_rows(tmp_path):
    spec = written(tmp_path, GOOD) | {"limit": 10}
    first, again, other = ([e.source for e in load_examples(spec, base=tmp_path, seed=s)[0]] for s in (0, 0, 1))
    assert first == again != other
    assert len(first) == 10
    assert first != [f"rows.jsonl:{i}" for i in range(1, 11)]


@pytest.mark.parametrize(
    ("spec", "what", "remedy"),
    [
        (
            {"path": "x", "limmit": 3},
            "data: unknown key `limmit`",
            "did you mean `limit`? known: columns, delimiter, format, limit, ",
        ),
        ({"limit": 3}, "data: neither `path` nor `name` is set", "set either `path` (a file, "),
        ({"path": "x", "name": "y/z"}, "data: `path` and `name` are both set", "set either `path` (a file, "),
        ({"path": "x", "limit": 0}, "data: `limit` is 0", "it must be greater than 0"),
    ],
)
def test_a_spec_that_cannot_work_is_an_error_with_advice(spec, what, remedy):
    with pytest.raises(ConfigError) as caught:
        load_examples(spec)
    assert caught.value.what == what
    assert caught.value.remedy.startswith(remedy)


def test_no_rows_are_an_error():
    with pytest.raises(DataError, match="no rows"):
        load_examples([])


def test_examples_pass_through():
    examples, _ = load_examples(GOOD)
    assert load_examples(examples)[0] == examples


def test_ids_depend_on_the_content_alone(tmp_path):
    mine, _ = load_examples(GOOD)
    theirs, _ = load_examples(written(tmp_path, [dict(reversed(row.items())) for row in GOOD]), base=tmp_path)
    assert [e.id for e in mine] == [e.id for e in theirs]
    assert len({e.id for e in mine}) == 99


def test_exact_duplicates_are_counted_and_kept():
    examples, report = load_examples([*GOOD, GOOD[0]])
    assert len(examples) == 100
    assert report.noticed["an exact duplicate of an earlier row"].first == ["rows:100"]


def test_reports_of_two_sources_add_up():
    (_, one), (_, two) = load_examples([*GOOD, BAD], on_bad_row="skip"), load_examples([{"text": "a", "label": "x"}])
    both = one.merge(two)
    assert (both.rows, both.examples, both.num_dropped, both.labels) == (101, 100, 1, ("x",))
    assert one.rows == 100


def test_an_example_becomes_a_prompt_with_its_gold_answer():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (told,), _ = load_examples([{"messages": turns}])
    asked = as_prompt(told)
    assert (asked.kind, asked.prompt, asked.columns["ground_truth"], asked.id) == ("prompt", (turns[0],), "b", told.id)
    (pair,), _ = load_examples([{"prompt": "a", "completion": "b"}])
    assert as_prompt(pair).columns["ground_truth"] == "b"
    (text,), _ = load_examples([{"text": "a"}])
    with pytest.raises(ValueError, match="raw text"):
        as_prompt(text)


def test_a_task_is_data_like_any_other():
    tasks = pytest.importorskip("rung.tiny.tasks")
    name = sorted(tasks.names())[0]
    examples, report = load_examples({"path": f"task:{name}", "limit": 5})
    assert len(examples) == 5
    assert all(e.source.startswith(f"task:{name}:") for e in examples)
    assert report.num_dropped == 0
    with pytest.raises(UserError):
        load_examples("task:nothing/here")
