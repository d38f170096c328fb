"""A row of every published layout, as its authors write it, becomes what it means or is refused with what to do."""

import json
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from helpers.published_rows import (
    ALPACA,
    ASKED,
    BEDROCK,
    HI,
    NOVA,
    OPENAI,
    PANDALM,
    READ,
    SHP,
    ULTRAFEEDBACK,
    said,
)
from rung.data.load import load_examples
from rung.errors import DataError


@pytest.mark.parametrize("name", READ)
def test_a_published_row_becomes_what_it_means(name: str) -> None:
    row, form, expected = READ[name]
    (example,), report = load_examples([row])
    assert report.formats == {form: 1}
    assert {key: getattr(example, key, example.columns.get(key)) for key in expected} == expected


REFUSED = {
    "13 bare pair": (
        {"chosen": "Hi.", "rejected": "What?"},
        "`chosen` and `rejected` are texts without a `prompt` (name the column of the prompt: "
        "`columns: {prompt: NAME}`)",
        "on_bad_row: skip",
    ),
    "14 a text without a prompt": (
        {"completion": "Hi.", "label": True},
        "`completion` is a text without a `prompt`",
        "on_bad_row: skip",
    ),
    "15 stepwise": (
        {"prompt": "Hello?", "completions": ["Hi.", "What?"], "labels": [True, False]},
        "the rows have a label for each step of a solution",
        "use rows with one label per answer (`prompt`, `completion`, `label`)",
    ),
    "29 input_ids": (
        {"input_ids": [1, 2], "attention_mask": [1, 1], "labels": [-100, 2]},
        "the rows are token ids (`input_ids`)",
        "`tokenizer.decode` gives them back as a column `text`",
    ),
    "5 an image": (
        {**BEDROCK, "messages": [{"role": "user", "content": [{"image": {"format": "png"}}, {"text": "What?"}]}, HI]},
        "the rows have images or other media",
        "use data without media",
    ),
    "8 image_url": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}, HI]},
        "the rows have images or other media",
        "use data without media",
    ),
    "9 a column of videos": (
        {"conversations": [said("human", "<video>Hello?"), said("gpt", "Hi.")], "videos": ["a.mp4"]},
        "the rows have images or other media",
        "use data without media",
    ),
    "1 two preferred": (
        {"messages": [ASKED, NOVA["messages"][1] | {"candidates": [NOVA["messages"][1]["candidates"][1]] * 2}]},
        "`candidates` has not exactly one entry with `preferenceLabel: preferred` (found 2)",
        "on_bad_row: skip",
    ),
    "2 the output is no answer": (
        OPENAI | {"preferred_output": [ASKED]},
        "`preferred_output` does not consist of assistant turns",
        "on_bad_row: skip",
    ),
    "9 a call that is no JSON": (
        {"conversations": [said("human", "Hello?"), said("function_call", "weather()"), said("gpt", "Hi.")]},
        "`conversations`: a function_call turn is not JSON with `name` and `arguments` (turn 2)",
        "on_bad_row: skip",
    ),
    "12 ms-swift, equal sides": (
        {"messages": [ASKED, {"role": "assistant", "content": "What?"}, ASKED, HI], "rejected_response": "Hi."},
        "`chosen` equals `rejected`",
        "on_bad_row: skip",
    ),
    "16 no score": (
        ULTRAFEEDBACK | {"completions": [{"response": "a"}, {"response": "b"}]},
        "an entry of `completions` has neither `fine-grained_score` nor `overall_score`",
        "on_bad_row: skip",
    ),
    "17 another label": (SHP | {"labels": 2}, "`labels` is neither 1 (A is preferred) nor 0", "on_bad_row: skip"),
    "19 another vote": (PANDALM | {"annotator1": 3}, "a vote of an annotator is not 0 (tie), 1 or 2", "on_bad_row"),
    "26 an instance without output": (
        {"instruction": "Say hi.", "instances": [{"input": ""}]},
        "`output` is not a string",
        "on_bad_row: skip",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_row_that_cannot_be_used_is_refused_with_what_to_do(name: str) -> None:
    row, what, remedy = REFUSED[name]
    with pytest.raises(DataError) as caught:
        load_examples([row])
    assert caught.value.what.startswith("rows, row 1: " + what)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    "row",
    [
        PANDALM | {"annotator1": 0},
        PANDALM | {"annotator1": 1},
        ULTRAFEEDBACK | {"completions": [one | {"fine-grained_score": 4.0} for one in ULTRAFEEDBACK["completions"]]},
    ],
)
def test_a_tie_is_no_pair_and_is_counted(row: dict[str, Any]) -> None:
    good = PANDALM if "idx" in row else ULTRAFEEDBACK
    examples, report = load_examples([good, row])
    assert len(examples) == 1
    assert report.dropped[f"{next(iter(report.formats))}: the row has nothing to train on"].first == ["rows:2"]


def test_scores_of_old_copies_are_read_only_where_there_are_no_others() -> None:
    old = [{key: one[key] for key in ("response", "overall_score")} for one in ULTRAFEEDBACK["completions"]]
    (example,), _ = load_examples([ULTRAFEEDBACK | {"completions": old}])
    assert (example.chosen, example.rejected, example.margin) == ("Yes.", "Hi.", 2.5)


def test_a_seed_task_gives_one_example_per_instance() -> None:
    instances = [{"input": "a", "output": "b"}, {"input": "", "output": "c"}]
    first, second = load_examples([{"instruction": "Say hi.", "instances": instances}])[0]
    assert (first.source, second.source) == ("rows:1#1", "rows:1#2")
    assert (first.completion, second.prompt, second.completion) == ("b", ALPACA, "c")


def test_a_set_format_reads_what_detection_refuses(tmp_path) -> None:
    row = {"prompt": "Hello?", "completions": ["Hi.", "What?"], "labels": [True, False]}
    (tmp_path / "steps.jsonl").write_text(json.dumps(row))
    (example,), _ = load_examples({"path": "steps.jsonl", "format": "ranking"}, base=tmp_path)
    assert example.kind == "ranking"


def test_the_file_of_big_bench_hard_is_one_object(tmp_path) -> None:
    task = {"canary": "GUID", "examples": [{"input": "a", "target": "b"}, {"input": "c", "target": "d"}]}
    (tmp_path / "task.json").write_text(json.dumps(task, indent=2))
    examples, _ = load_examples("task.json", base=tmp_path)
    assert [(one.source, one.prompt, one.completion) for one in examples] == [
        ("task.json:1#1", "a", "b"),
        ("task.json:1#2", "c", "d"),
    ]


def test_the_file_of_clinc150_is_read_by_split(tmp_path) -> None:
    data = {"val": [["a", "greeting"]], "train": [["b", "goodbye"], ["c", "greeting"]], "oos_train": [["d", "oos"]]}
    (tmp_path / "data_full.json").write_text(json.dumps(data))
    examples, report = load_examples({"path": "data_full.json", "split": "train"}, base=tmp_path)
    assert [(one.prompt, one.completion) for one in examples] == [("b", "goodbye"), ("c", "greeting")]
    assert report.labels == ("goodbye", "greeting")
    for spec, what, remedy in (
        ("data_full.json", "data_full.json has several splits", "set `split` to one of: val, train, oos_train"),
        (
            {"path": "data_full.json", "split": "dev"},
            "data_full.json: `split: dev` is set, but the file has no list of this name",
            "the lists of the file are: val, train, oos_train",
        ),
    ):
        with pytest.raises(DataError) as caught:
            load_examples(spec, base=tmp_path)
        assert (caught.value.what, caught.value.remedy) == (what, remedy)


def test_nulls_of_arrow_are_taken_from_objects_in_lists_and_those_of_json_are_kept(tmp_path) -> None:
    """Two tools with different arguments: Arrow gives each call the arguments of both."""

    def called(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": name, "arguments": arguments}}],
        }

    rows = [
        {"messages": [ASKED, called("weather", {"city": "Ulm"})], "extra": {"a": 1}},
        {"messages": [ASKED, called("add", {"a": 1, "b": 2})], "extra": {"b": 2}},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "tools.parquet")
    examples, _ = load_examples("tools.parquet", base=tmp_path)
    calls = [one.messages[1]["tool_calls"][0]["function"] for one in examples]  # type: ignore[index]
    assert calls == [
        {"name": "weather", "arguments": {"city": "Ulm"}},
        {"name": "add", "arguments": {"a": 1, "b": 2}},
    ]
    assert examples[0].columns["extra"] == {"a": 1, "b": None}
    call = called("weather", {"city": "Ulm", "day": None})
    (example,), _ = load_examples([{"messages": [ASKED, call]}])
    assert example.messages[1]["tool_calls"][0]["function"]["arguments"] == {"city": "Ulm", "day": None}  # type: ignore[index]


def test_a_class_has_the_name_that_its_authors_gave_it(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["greeting", "goodbye"])}
    )
    made = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, 1]}, features=features)
    made.to_parquet(tmp_path / "data.parquet")
    examples, report = load_examples("data.parquet", base=tmp_path)
    assert [one.completion for one in examples] == ["goodbye", "greeting", "goodbye"]
    assert report.labels == ("goodbye", "greeting")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: made)
    hub, _ = load_examples("owner/name")
    assert [one.completion for one in hub] == ["goodbye", "greeting", "goodbye"]
