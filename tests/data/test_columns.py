"""`columns:` gives columns other names, makes one of several by a template, and names what is missing."""

import json
from pathlib import Path
from typing import Any

import pytest

from rung.data.load import load_examples
from rung.errors import ConfigError, DataError
from rung.utils.yaml_file import parse_yaml


def loaded(folder: Path, rows: list[dict[str, Any]], **spec: Any) -> list[Any]:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_examples({"path": "rows.jsonl", **spec}, base=folder)[0]


def test_one_column_may_be_read_as_two(tmp_path: Path) -> None:
    (example,) = loaded(tmp_path, [{"q": "2+2?", "ans": "4"}], columns={"prompt": "q", "question": "q", "gold": "ans"})
    assert (example.prompt, dict(example.columns)) == ("2+2?", {"question": "2+2?", "gold": "4"})
    columns = {"prompt": "q", "group": "q", "completion": "ans"}
    (example,) = loaded(tmp_path, [{"q": "2+2?", "ans": "4"}], columns=columns)
    assert (example.prompt, example.completion, example.columns["q"]) == ("2+2?", "4", "2+2?")


def test_two_columns_may_change_their_names(tmp_path: Path) -> None:
    (example,) = loaded(
        tmp_path, [{"prompt": "4", "completion": "2+2?"}], columns={"prompt": "completion", "completion": "prompt"}
    )
    assert (example.prompt, example.completion) == ("2+2?", "4")


def test_a_template_makes_a_column_of_others(tmp_path: Path) -> None:
    row = {"context": "Ulm is a city.", "question": "What is Ulm?", "year": 854, "answers": "a city"}
    template = "{context} {{{year}}}\n\nQuestion: {question}"
    (example,) = loaded(tmp_path, [row], columns={"prompt": template, "completion": "answers"})
    assert example.prompt == "Ulm is a city. {854}\n\nQuestion: What is Ulm?"
    assert example.completion == "a city"
    assert example.columns["context"] == "Ulm is a city."
    rows = [row, row | {"question": "Where is Ulm?"}, row | {"year": 855}]
    grouped = loaded(tmp_path, rows, columns={"prompt": "question", "group": "{context} {year}"})
    groups = [one.group for one in grouped]
    assert groups[0] == groups[1] != groups[2]


def test_a_column_that_a_template_needs_is_named(tmp_path: Path) -> None:
    rows = [{"q": "2+2?", "ans": "4"}, {"q": "2+2?", "ans": "4", "story": "a"}]
    with pytest.raises(DataError, match=r"row 1: the row has no column `story` \(`columns:` names it; .* q, ans\)"):
        loaded(tmp_path, rows, columns={"prompt": "{story} {q}"})
    for value, found in ((None, "null"), (["a"], "list")):
        with pytest.raises(DataError, match=rf"row 2: `q` is part of a template, .*found {found}"):
            loaded(tmp_path, [{"q": "a", "ans": "4"}, {"q": value, "ans": "5"}], columns={"prompt": "Q: {q}"})


@pytest.mark.parametrize(
    ("columns", "what", "remedy"),
    [
        (
            {"prompt": "Ticket Text", "completion": "category"},
            "`category` as `completion`",
            "did you mean `Category`? ",
        ),
        (
            {"prompt": "Ticket Text", "completion": "CATEGORY"},
            "`CATEGORY` as `completion`",
            "did you mean `Category`? ",
        ),
        ({"prompt": "{Tickt Text}?"}, "`Tickt Text` as `prompt`", "did you mean `Ticket Text`? "),
        ({"group": "page"}, "`page` as `group`", "known: Category, Ticket Text"),
        (
            {"Ticket Text": "prompt", "Category": "completion"},
            "`prompt` as `Ticket Text`",
            "write `prompt: Ticket Text`",
        ),
    ],
)
def test_a_column_that_no_row_has_is_a_mistake_of_the_config(
    tmp_path: Path, columns: dict[str, str], what: str, remedy: str
) -> None:
    rows = [{"Ticket Text": "a", "Category": "b"}, {"Ticket Text": "c", "Category": "d"}]
    with pytest.raises(ConfigError, match=rf"rows\.jsonl: `columns` reads {what}, but no row has") as caught:
        loaded(tmp_path, rows, columns=columns)
    assert caught.value.remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{q", "the template of `prompt` is not valid"),
        ("q}", "the template of `prompt` is not valid"),
        ("{} {q}", "a brace without the name of a column"),
        ("{q:>9}", "a brace without the name of a column"),
        ("{q!r}", "a brace without the name of a column"),
    ],
)
def test_a_template_that_is_not_valid_is_refused_before_a_row_is_read(template: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load_examples({"path": "none.jsonl", "columns": {"prompt": template}})
    assert "{{" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "text", "delimiter"),
    [
        ("a.tsv", "prompt\tcompletion\n2+2?\t4\n", None),
        ("a.csv", "prompt;completion\n2+2?;4\n", ";"),
        ("a.csv", "prompt\tcompletion\n2+2?\t4\n", "tab"),
        ("a.csv", 'prompt|completion\n"2+2?"|4\n', "|"),
    ],
)
def test_fields_are_separated_by_the_delimiter(tmp_path: Path, name: str, text: str, delimiter: str | None) -> None:
    (tmp_path / name).write_text(text)
    for place in (name, "."):
        (example,), _ = load_examples({"path": place, "delimiter": delimiter}, base=tmp_path)
        assert (example.prompt, example.completion) == ("2+2?", "4")


@pytest.mark.parametrize(
    ("name", "text", "delimiter", "remedy"),
    [
        ("a.csv", "prompt;completion\n2+2?;4\n", None, '";"'),
        ("a.csv", 'prompt;completion\n"2+2; quick?";4\n', None, '";"'),
        ("a.csv", "prompt\tcompletion\n2+2?\t4\n", None, "tab"),
        ("a.csv", "prompt|completion\n2+2?|4\n", None, '"|"'),
        ("a.csv", "prompt,completion\n2+2?,4\n", ";", '","'),
        ("a.tsv", "prompt,completion\n2+2?,4\n", None, '","'),
        ("a.csv", "prompt, long;completion\n2+2?;4\n", None, '";"'),
        ("a.csv", 'prompt, long;completion\n"a";4\n"b" ,c;4\n', None, None),
        ("a.csv", 'prompt, long;completion\n"a, b";4\n', None, '";"'),
    ],
)
def test_a_delimiter_that_was_forgotten_is_told(
    tmp_path: Path, name: str, text: str, delimiter: str | None, remedy: str | None
) -> None:
    """By a header of one field, else if every row fits with one of the usual characters."""
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        load_examples({"path": name, "delimiter": delimiter}, base=tmp_path)
    told = f"set `delimiter: {remedy}` beside `path`"
    assert (caught.value.remedy == told) is (remedy is not None), caught.value


def test_a_delimiter_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt^completion\n2+2?^4\n")
    with pytest.raises(DataError, match=r"its columns \(prompt\^completion\) match no known format") as caught:
        load_examples("a.csv", base=tmp_path)
    assert caught.value.remedy.startswith("set `delimiter` to the character between the fields, or tell which column")
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(DataError, match="`delimiter` is set, but the file is not CSV or TSV"):
        load_examples({"path": "a.jsonl", "delimiter": ";"}, base=tmp_path)
    with pytest.raises(ConfigError, match="`delimiter` is ';;'"):
        load_examples({"path": "a.csv", "delimiter": ";;"}, base=tmp_path)
    with pytest.raises(ConfigError, match="`delimiter` is set, but owner/name is not a file"):
        load_examples({"name": "owner/name", "delimiter": ";"})


def test_columns_that_nothing_reads_are_listed() -> None:
    rows = [{"prompt": "a", "completion": "b", "level": 1, "note": None}, {"prompt": "c", "completion": "d", "id": 7}]
    assert load_examples(rows)[1].columns == ("id", "level")
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": []}
    assert load_examples([{"question": "a", "answer": "b #### 4", "level": 1}])[1].columns == ("level",)
    assert load_examples([chat | {"source": "x", "chat_template_kwargs": {"a": 1}}])[1].columns == ("source",)


RATED = [
    {"prompt": "a", "response": "good", "helpfulness": 4, "correctness": 3},
    {"prompt": "a", "response": "bad", "helpfulness": 1, "correctness": 3},
    {"prompt": "a", "response": "so", "helpfulness": 2, "correctness": 3},
    {"prompt": "b", "response": "alone", "helpfulness": 2, "correctness": 3},
]


def test_answers_to_one_prompt_become_a_pair_by_a_rating(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in RATED))
    (pair,), report = load_examples({"path": "rows.jsonl", "pairs_by": "helpfulness"}, base=tmp_path)
    assert (pair.kind, pair.prompt, pair.chosen, pair.rejected, pair.margin) == ("preference", "a", "good", "bad", 3.0)
    cause = "no pair: the prompt has no other answer with another `helpfulness`"
    assert report.dropped[cause].first == ["rows.jsonl:4"]
    with pytest.raises(DataError, match="no example is left"):
        load_examples({"path": "rows.jsonl", "pairs_by": "correctness"}, base=tmp_path)
    with pytest.raises(DataError, match=r"rows.jsonl, row 1: `level` is not a finite number") as caught:
        load_examples({"path": "rows.jsonl", "pairs_by": "level"}, base=tmp_path)
    assert "helpfulness" in caught.value.remedy


def test_labelled_answers_to_one_prompt_become_a_pair(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": c, "label": label} for c, label in (("y", False), ("x", True), ("z", False))]
    (pair,) = loaded(tmp_path, rows, pairs_by="label")
    assert (pair.chosen, pair.rejected, pair.margin) == ("x", "y", None)
    with pytest.raises(DataError, match="no example is left"):
        loaded(tmp_path, [row | {"completion": "x"} for row in rows], pairs_by="label")
    with pytest.raises(DataError, match="`pairs_by` needs rows with one answer, but this row is prompt data"):
        loaded(tmp_path, [{"prompt": "a", "level": 1}], pairs_by="level")


@pytest.mark.parametrize(
    ("spec", "what", "remedy"),
    [
        ({"columns": "completion:Category"}, "`columns` is 'completion:Category'", "with a space after each colon"),
        ({"columns": ["Category"]}, r"`columns` is \['Category'\]", "`columns: {prompt: <a column>, completion:"),
        ({"columns": {"prompt": None}}, "the entry `prompt` is None", "`columns: {prompt: <a column>, completion:"),
        ({"columns": {"prompt": 0}}, "the entry `prompt` is 0", 'write `prompt: "0"`'),
        ({"share": 0.7}, "`share` is 0.7", "write `share: {to: 0.7}`; the rest of the rows is `share: {from: 0.7}`"),
        ({"share": "70 %"}, "`share` is '70 %'", "write `share: {to: 0.7}`"),
    ],
)
def test_a_value_of_another_form_is_told_the_right_one(spec: dict[str, Any], what: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=f"data: .*{what}") as caught:
        load_examples({"path": "none.jsonl", **spec})
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    "text", ["columns: {prompt: Ticket, completion:Category}", "gate: {metric: a, completion:Category}"]
)
def test_an_entry_without_a_space_after_its_colon_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="line 1: the entry `completion:Category` has no space") as caught:
        parse_yaml(text, "a.yaml")
    assert caught.value.remedy == "write `completion: Category`"
    kept = {"trl:think": {"weight": 2}, "./judge.py:fields": None, "a": "b:c"}
    assert parse_yaml("{trl:think: {weight: 2}, ./judge.py:fields: null, a: b:c}", "a.yaml") == kept
