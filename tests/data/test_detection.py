"""The format of a data set is found by its columns, and a row that breaks it is named."""

import re
from itertools import pairwise

import pytest

from helpers.repository import ROOT
from rung.data.formats import Format, all_formats, detect
from rung.data.load import load_examples
from rung.data.read import Row
from rung.errors import DataError


def turn(name):
    return {"from": name, "value": name}


def said(role):
    return {"role": role, "content": "a"}


TOLD = "\n\nHuman: a\n\nAssistant: {}"
# A row as each format has it, with the column of another one beside it where rows are met like that.
ROWS = {
    "verl": {"data_source": "a", "prompt": [said("user")], "reward_model": {"ground_truth": "4"}},
    "rft": {"messages": [said("user")], "ground_truth": "4"},
    "gsm8k-solutions": {"question": "a", "ground_truth": "A: 4", "m": {"is_correct": True, "solution": "4"}},
    "tatqa": {"table": {}, "paragraphs": [], "questions": []},
    "big-bench-hard": {"canary": "a", "examples": [{"input": "a", "target": "b"}]},
    "nova-preference": {"messages": [said("user"), {"role": "assistant", "candidates": []}]},
    "openai-preference": {
        "input": {"messages": [said("user")]},
        "preferred_output": [said("assistant")],
        "non_preferred_output": [said("assistant")],
    },
    "swift-preference": {"messages": [said("user"), said("assistant")], "rejected_response": "c"},
    "sharegpt-preference": {"conversations": [turn("human")], "chosen": turn("gpt"), "rejected": turn("gpt")},
    "hh-rlhf": {"chosen": TOLD.format("b"), "rejected": TOLD.format("c"), "prompt": None},
    "ultrafeedback": {"instruction": "a", "completions": [{"response": "b", "overall_score": 1.0}]},
    "alpaca-preference": {"instruction": "a", "input": "", "chosen": "b", "rejected": "c"},
    "pandalm": {
        "instruction": "a",
        "input": "",
        "response1": "b",
        "response2": "c",
        "annotator1": 1,
        "annotator2": 1,
        "annotator3": 2,
    },
    "shp": {"history": "a", "human_ref_A": "b", "human_ref_B": "c", "labels": 1},
    "preference": {"prompt": TOLD.format(""), "chosen": TOLD.format("b"), "rejected": TOLD.format("c")},
    "ranking": {"prompt": "a", "completions": ["b", "c"]},
    "kto-tag": {"instruction": "a", "input": "", "output": "b", "kto_tag": False},
    "unpaired": {"prompt": "a", "completion": "b", "label": True},
    "messages": {"messages": [said("user"), said("assistant")], "text": None},
    "sharegpt": {"conversations": [turn("human"), turn("gpt")], "text": "a b"},
    "transcript": {"transcript": TOLD.format("b"), "text": None},
    "humaneval": {"prompt": "a", "test": "b", "entry_point": "c", "canonical_solution": "d"},
    "gsm8k": {"question": "a", "answer": "b #### 4"},
    "problem": {"problem": "a", "solution": "b", "answer": "4"},
    "helpsteer": {"prompt": "a", "response": "b", "helpfulness": 4, "correctness": 3},
    "prompt-completion": {"prompt": "a", "completion": "b", "instruction": "a", "output": "b"},
    "alpaca-seed": {"instruction": "a", "instances": [{"input": "", "output": "b"}]},
    "alpaca": {"instruction": "a", "input": "", "output": "b", "text": "a b"},
    "classification": {"text": "a", "label": "b"},
    "prompt": {"prompt": "a", "instruction": "a", "output": "b"},
    "text": {"text": TOLD.format("b")},
}


def test_the_error_names_the_best_candidate_and_the_first_row_that_breaks_it():
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 24
    with pytest.raises(DataError, match="preference") as caught:
        load_examples([*rows[:6], {"prompt": "a", "chosen": "b"}, *rows])
    assert "row 7" in caught.value.what


def test_a_row_that_lost_its_label_is_not_taken_for_raw_text():
    with pytest.raises(DataError, match=r"row 2: the row does not have the format classification"):
        load_examples([{"text": "a", "label": "x"}, {"text": "b", "label": None}])


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("alpaca", "output"),
        ("messages", "messages"),
        ("sharegpt", "conversations"),
        ("transcript", "transcript"),
        ("hh-rlhf", "rejected"),
        ("sharegpt-preference", "rejected"),
        ("sharegpt-preference", "conversations"),
        ("nova-preference", "messages"),
        ("openai-preference", "input"),
        ("openai-preference", "non_preferred_output"),
        ("swift-preference", "rejected_response"),
        ("ultrafeedback", "completions"),
        ("alpaca-preference", "instruction"),
        ("alpaca-preference", "chosen"),
        ("pandalm", "annotator2"),
        ("shp", "labels"),
        ("ranking", "completions"),
        ("kto-tag", "kto_tag"),
        ("unpaired", "label"),
        ("humaneval", "test"),
        ("problem", "problem"),
        ("helpsteer", "response"),
        ("alpaca-seed", "instances"),
    ],
)
def test_a_row_that_lost_a_column_is_not_taken_for_another_format(name, lost):
    """The rows have a text too, which alone would be raw text."""
    whole = ROWS[name] | {"text": "a b"}
    with pytest.raises(DataError, match=rf"row 2: the row does not have the format {name} "):
        load_examples([whole, whole | {lost: None}, whole])


def test_every_format_is_found_by_its_columns():
    assert list(ROWS) == [format.name for format in all_formats()]
    assert [detect([Row("x", 1, row)]).name for row in ROWS.values()] == list(ROWS)


def test_a_turn_alone_with_a_label_is_no_labelled_answer():
    row = {"messages": [said("assistant")], "label": True, "text": "a"}
    assert detect([Row("x", 1, row)]).name == "classification"


def test_no_two_formats_have_one_priority_and_a_users_own_comes_last():
    priorities = [each.priority for each in all_formats()]
    assert all(before < after for before, after in pairwise(priorities))
    assert Format("mine", "", lambda row: True, lambda row, source: []).priority > priorities[-1]


def test_every_format_has_its_line_in_the_documentation():
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w-]+)` \|.*\|.*\|.*\|$", page, re.MULTILINE)
    assert sorted(listed) == sorted(ROWS)


def test_columns_of_no_known_format_are_listed_beside_what_is_known():
    with pytest.raises(DataError, match="table, uid") as caught:
        load_examples([{"table": 1, "uid": 2}])
    assert "prompt, completion" in caught.value.remedy


def test_rows_spread_over_all_the_data_decide():
    rows = [Row("x", i, {"prompt": "a", "completion": "b" if i < 1900 else None}) for i in range(2000)]
    with pytest.raises(DataError, match="prompt-completion"):
        detect(rows)
