"""TAT-QA: every question of a table is a prompt with table and paragraphs, its answer a text with its scale."""

from copy import deepcopy

import pytest

from rung.data.load import load_examples
from rung.data.records import as_prompt
from rung.data.splits import split
from rung.errors import DataError

ROW = {
    "table": {"uid": "t1", "table": [["", "2019", "2018"], ["Sales ", "$  1,496.5", "1,202.9"]]},
    "paragraphs": [{"uid": "p1", "order": 1, "text": "In millions."}, {"uid": "p2", "order": 2, "text": "Net."}],
    "questions": [
        {"question": "Sales?", "answer": ["$  1,496.5"], "answer_type": "span", "scale": "million", "derivation": ""},
        {"question": "Growth?", "answer": 24.41, "answer_type": "arithmetic", "scale": "percent"},
    ],
}
CONTEXT = " | 2019 | 2018\nSales | $  1,496.5 | 1,202.9\n\nIn millions.\n\nNet."


def with_answer(answer, scale=""):
    row = deepcopy(ROW)
    row["questions"][1] |= {"answer": answer, "scale": scale}
    return row


def test_a_question_is_asked_behind_its_table_and_paragraphs():
    first, second = load_examples([ROW])[0]
    assert first.prompt == f"{CONTEXT}\n\nQuestion: Sales?\nAnswer:\n"
    assert (first.kind, first.completion, first.source) == ("prompt-completion", "$  1,496.5 million", "rows:1#1")
    assert (second.completion, second.source) == ("24.41 percent", "rows:1#2")


def test_what_a_reward_needs_stays_with_the_question():
    asked = as_prompt(load_examples([ROW])[0][1])
    assert dict(asked.columns) == {
        "answer": 24.41, "answer_type": "arithmetic", "scale": "percent", "ground_truth": "24.41 percent"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "scale", "told"),
    [
        (["a", "b, c"], "", "a; b, c"),
        (["73,260", "57,768"], "thousand", "73,260 thousand; 57,768 thousand"),
        (["$3.0 million"], "million", "$3.0 million"),
        ("12%", "percent", "12%"),
        (["a", ""], "", "a"),
        (0, "million", "0 million"),
        ("3", "", "3"),
        (5, None, "5"),
    ],
)
def test_the_gold_answer_is_told_with_its_scale_once(answer, scale, told):
    assert load_examples([with_answer(answer, scale)])[0][1].completion == told


def test_a_split_keeps_the_questions_of_a_table_together():
    rows = [deepcopy(ROW) for _ in range(40)]
    for i, row in enumerate(rows):
        row["table"]["table"][0][1] = str(1980 + i)
    parts = split(load_examples(rows)[0], {"train": 0.5, "test": 0.5}).values()
    tables = [{example.source.partition("#")[0] for example in part} for part in parts]
    assert [len(part) for part in parts] == [2 * len(part) for part in tables]
    assert all(tables)


def broken(**changes):
    return deepcopy(ROW) | changes


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (with_answer([]), r"`questions` has an empty `answer` \(question 2\)"),
        (with_answer([" "]), r"`questions` has an empty `answer` \(question 2\)"),
        (with_answer(None), r"`answer` is neither a string, a number nor a list of these \(question 2\)"),
        (with_answer([True]), "`answer` is neither"),
        (with_answer(5, "dozen"), r"`questions` has an unknown `scale` \('dozen' in question 2"),
        (broken(questions=[{"answer": "a"}]), r"`questions\[1\].question` is not a string"),
        (broken(questions=["a"]), r"`questions`: an entry is not an object \(number 1\)"),
        (broken(questions=[]), "`questions` is not a list with at least one question"),
        (broken(table={"uid": "t", "table": []}), r"`table.table` is not a list of rows"),
        (broken(table={"uid": "t", "table": ["a"]}), r"`table.table` is not a list of rows"),
        (broken(paragraphs=None), "`paragraphs` is not a list"),
        (broken(paragraphs=[{"text": ""}]), r"`paragraphs\[1\].text` is empty"),
    ],
)
def test_a_broken_table_is_named_with_its_row_and_key(row, said):
    with pytest.raises(DataError, match=said) as caught:
        load_examples([ROW, row])
    assert caught.value.what.startswith("rows, row 2: ")
