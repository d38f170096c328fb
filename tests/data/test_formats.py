"""Every known form of rows becomes the example that it means, and a row that lies about its form is named."""

import pytest

from rung.data.load import load_examples
from rung.errors import DataError


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def one(row, **spec):
    examples, _ = load_examples([row], **spec)
    (example,) = examples
    return example


ALPACA = (
    "Below is an instruction that describes a task{}. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n{}### Response:\n"
)
INPUT = "### Input:\nb a\n\n"
CASES = {
    "text": ({"text": "once"}, "text", {"text": "once"}, {}),
    "messages": (
        {"messages": [user("hi"), assistant("yes?")], "topic": "x"},
        "messages",
        {"messages": (user("hi"), assistant("yes?"))},
        {"topic": "x"},
    ),
    "bedrock with system": (
        {"system": "Be brief.", "messages": [user("hi"), assistant("yes?")]},
        "messages",
        {"messages": (system("Be brief."), user("hi"), assistant("yes?"))},
        {},
    ),
    "content blocks": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
                assistant("y"),
            ]
        },
        "messages",
        {"messages": (user("hi"), assistant("y"))},
        {},
    ),
    "prompt-completion": (
        {"prompt": "2+2=", "completion": "4", "level": 1},
        "prompt-completion",
        {"prompt": "2+2=", "completion": "4"},
        {"level": 1, "ground_truth": "4"},
    ),
    "conversational prompt-completion": (
        {"prompt": [user("2+2?")], "completion": [assistant("4")]},
        "prompt-completion",
        {"prompt": (user("2+2?"),), "completion": (assistant("4"),)},
        {"ground_truth": "4"},
    ),
    "preference": (
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 2},
        "preference",
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 2.0},
        {},
    ),
    "preference with the prompt inside both sides": (
        {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]},
        "preference",
        {"prompt": (user("a"),), "chosen": (assistant("b"),), "rejected": (assistant("c"),)},
        {},
    ),
    "preference over several shared turns": (
        {
            "chosen": [user("a"), assistant("b"), user("c"), assistant("d")],
            "rejected": [user("a"), assistant("b"), user("c"), assistant("e")],
        },
        "preference",
        {"prompt": (user("a"), assistant("b"), user("c")), "chosen": (assistant("d"),), "rejected": (assistant("e"),)},
        {},
    ),
    "preference that repeats its prompt": (
        {"prompt": [user("a")], "chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]},
        "preference",
        {"prompt": (user("a"),), "chosen": (assistant("b"),), "rejected": (assistant("c"),)},
        {},
    ),
    "unpaired": (
        {"prompt": "a", "completion": "b", "label": False},
        "unpaired",
        {"prompt": "a", "completion": "b", "label": False},
        {},
    ),
    "unpaired messages": (
        {"messages": [user("a"), assistant("b")], "label": True},
        "unpaired",
        {"prompt": (user("a"),), "completion": (assistant("b"),), "label": True},
        {},
    ),
    "prompt": ({"prompt": [user("a")], "answer": "4"}, "prompt", {"prompt": (user("a"),)}, {"answer": "4"}),
    "bedrock reinforcement": (
        {"messages": [user("a")], "reference_answer": "b", "ground_truth": "4"},
        "prompt",
        {"prompt": (user("a"),)},
        {"reference_answer": "b", "ground_truth": "4"},
    ),
    "bedrock reinforcement without ground truth": (
        {"messages": [user("a")], "reference_answer": "b"},
        "prompt",
        {"prompt": (user("a"),)},
        {"reference_answer": "b", "ground_truth": "b"},
    ),
    "verl": (
        {
            "data_source": "gsm8k",
            "prompt": [user("a")],
            "reward_model": {"style": "rule", "ground_truth": "4"},
            "extra_info": {"index": 3},
        },
        "prompt",
        {"prompt": (user("a"),)},
        {
            "data_source": "gsm8k",
            "reward_model": {"style": "rule", "ground_truth": "4"},
            "extra_info": {"index": 3},
            "ground_truth": "4",
        },
    ),
    "classification": (
        {"text": "where is my card", "category": "card_arrival"},
        "prompt-completion",
        {"prompt": "where is my card", "completion": "card_arrival"},
        {"category": "card_arrival", "ground_truth": "card_arrival"},
    ),
    "gsm8k": (
        {"question": "How many?", "answer": "500 * 2 = <<500*2=1000>>1000\n#### 1,000"},
        "prompt-completion",
        {"prompt": "How many?", "completion": "500 * 2 = <<500*2=1000>>1000\n#### 1,000"},
        {"answer": "1000", "ground_truth": "1000"},
    ),
    "alpaca without input": (
        {"instruction": "Name {a} tea.", "input": "", "output": "Sencha", "text": "### all of it"},
        "prompt-completion",
        {"prompt": ALPACA.format("", "Name {a} tea.", ""), "completion": "Sencha"},
        {"text": "### all of it", "ground_truth": "Sencha"},
    ),
    "alpaca with input": (
        {"instruction": "Sort.", "input": "b a", "output": "a b"},
        "prompt-completion",
        {
            "prompt": ALPACA.format(", paired with an input that provides further context", "Sort.", INPUT),
            "completion": "a b",
        },
        {"ground_truth": "a b"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_row_becomes_the_example_that_it_means(name):
    row, kind, fields, columns = CASES[name]
    example = one(row)
    assert example.kind == kind
    assert {field: getattr(example, field) for field in fields} == fields
    assert dict(example.columns) == columns


def test_labelled_solutions_become_every_right_one_against_every_wrong_one():
    def said(solution, is_correct):
        return {"is_correct": is_correct, "solution": solution}

    row = {
        "question": "q",
        "ground_truth": "x\nA: 18",
        "m1": said("r1", True),
        "m2": said("w1", False),
        "m3": said("r2", True),
        "m4": said("w2", False),
    }
    all_wrong = row | {"question": "p", "m1": said("w3", False), "m3": said("w4", False)}
    read, report = load_examples([row, all_wrong])
    examples = [e for e in read if e.kind == "preference"]
    assert [(e.completion, e.label) for e in read if e.kind == "unpaired"] == [(f"w{i}", False) for i in (3, 1, 4, 2)]
    assert not report.dropped
    assert [(e.chosen, e.rejected) for e in examples] == [("r1", "w1"), ("r1", "w2"), ("r2", "w1"), ("r2", "w2")]
    assert len({e.group for e in examples}) == 1
    assert [e.source.partition("#")[2] for e in examples] == ["1", "2", "3", "4"], "the pairs of a row are counted"
    assert examples[0].columns["answer"] == "18"


def test_a_prompt_at_the_head_of_every_text_is_taken_off():
    rows = [{"prompt": f"Q{i} A:", "chosen": f"Q{i} A: yes", "rejected": f"Q{i} A: no"} for i in range(3)]
    examples, report = load_examples(rows)
    assert [(e.chosen, e.rejected) for e in examples] == [(" yes", " no")] * 3
    assert sum(tally.count for tally in report.noticed.values()) == 3


def test_an_answer_that_begins_with_its_prompt_by_chance_is_left_whole():
    rows = [
        {"prompt": "a", "chosen": "all", "rejected": "any"},
        {"prompt": "b", "chosen": "yes", "rejected": "no"},
    ]
    assert load_examples(rows)[0][0].chosen == "all"


def test_the_label_set_is_collected():
    rows = [{"text": text, "intent": label} for text, label in [("a", "x"), ("b", "y"), ("c", "x")]]
    assert load_examples(rows)[1].labels == ("x", "y")


def test_rows_with_different_columns_get_the_union_of_them():
    examples, _ = load_examples([{"prompt": "a", "answer": "1"}, {"prompt": "b", "hint": "h"}])
    assert [dict(e.columns) for e in examples] == [{"answer": "1", "hint": None}, {"answer": None, "hint": "h"}]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": [user("a")], "chosen": "b", "rejected": "c"}, "mixed"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "`chosen` equals `rejected`"),
        ({"chosen": "b", "rejected": "c"}, "without a `prompt`"),
        ({"chosen": [user("x"), assistant("b")], "rejected": [user("y"), assistant("c")]}, "share no leading message"),
        (
            {"prompt": [user("a")], "chosen": [user("x"), assistant("b")], "rejected": [assistant("c")]},
            "prompt differs",
        ),
        ({"prompt": " ", "completion": "b"}, "`prompt` is empty"),
        ({"prompt": "a", "completion": ""}, "`completion` is empty"),
        ({"messages": [user("a"), assistant(" ")]}, "has an empty assistant turn"),
        ({"messages": [assistant("a")]}, "`messages` begins with an assistant turn"),
        (
            {"system": "s", "messages": [system("t"), user("a"), assistant("b")]},
            "both a `system` column and a system message",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, assistant("b")]}, "have images"),
        ({"question": "q", "answer": "#### many"}, "no number"),
        ({"text": "a\ud800"}, "surrogate"),
        ({"instruction": "a", "input": "", "output": " "}, "`output` is empty"),
        ({"instruction": "a", "input": 3, "output": "b"}, "`input` is not a string"),
        ({"instruction": "a", "output": "b", "history": [["c", "d"]]}, "both `history` and `instruction`"),
    ],
)
def test_a_bad_row_is_named_with_its_cause(row, said):
    with pytest.raises(DataError, match=said) as caught:
        load_examples([row])
    assert caught.value.what.startswith("rows, row 1: ")
