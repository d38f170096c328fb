"""A row of every published layout, as its authors write it, becomes what it means or is refused with what to do."""

import json
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from rung.data.load import load_examples
from rung.errors import DataError


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def said(speaker: str, text: str) -> dict[str, str]:
    return {"from": speaker, "value": text}


SYSTEM = {"role": "system", "content": "Be brief."}
ASKED, HI, WHAT = user("Hello?"), assistant("Hi."), assistant("What?")
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nSay hi.\n\n### Response:\n"
)
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
PAIR = {"prompt": (ASKED,), "chosen": (HI,), "rejected": (WHAT,)}
TEXTS = {"prompt": "Hello?", "chosen": "Hi.", "rejected": "What?"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}],
}
BEDROCK = {"schemaVersion": "bedrock-conversation-2024", "system": [{"text": "Be brief."}]}
NOVA = {
    **BEDROCK,
    "messages": [
        {"role": "user", "content": [{"text": "Hello?"}]},
        {
            "role": "assistant",
            "candidates": [
                {"content": [{"text": "What?"}], "preferenceLabel": "non-preferred"},
                {"content": [{"text": "Hi."}], "preferenceLabel": "preferred"},
            ],
        },
    ],
}
OPENAI = {
    "input": {"messages": [ASKED], "tools": TOOLS, "parallel_tool_calls": True},
    "preferred_output": [HI],
    "non_preferred_output": [WHAT],
}
ULTRAFEEDBACK = {
    "source": "evol_instruct",
    "instruction": "Hello?",
    "models": ["a", "b", "c"],
    "completions": [
        {"model": "a", "response": "Yes.", "overall_score": 10.0, "fine-grained_score": 3.5},
        {"model": "b", "response": "Hi.", "overall_score": 7.5, "fine-grained_score": 4.25},
        {"model": "c", "response": "What?", "overall_score": 8.0, "fine-grained_score": 2.0},
    ],
}
PANDALM = {
    "idx": 0, "instruction": "Say hi.", "input": "", "response1": "What?", "response2": "Hi.",
    "annotator1": 2, "annotator2": 2, "annotator3": 0,
}  # fmt: skip
SHP = {
    "post_id": "a", "history": "Hello?", "human_ref_A": "Hi.", "human_ref_B": "What?", "labels": 1,
    "score_A": 30, "score_B": 10, "score_ratio": 3.0,
}  # fmt: skip

# The name of the row in the table of layouts, the row, the format, and what the example must have.
READ: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "1 nova": (NOVA, "nova-preference", PAIR | {"prompt": (SYSTEM, ASKED)}),
    "2 openai": (OPENAI, "openai-preference", PAIR | {"tools": tuple(TOOLS)}),
    "3 sharegpt preference": (
        {"conversations": [said("human", "Hello?")], "chosen": said("gpt", "Hi."), "rejected": said("gpt", "What?")},
        "sharegpt-preference",
        PAIR,
    ),
    "4 kto_tag of llama-factory": (
        {"conversations": [said("human", "Hello?"), said("gpt", "Hi.")], "kto_tag": True},
        "kto-tag",
        {"prompt": (ASKED,), "completion": (HI,), "label": True},
    ),
    "4 kto_tag of messages": (
        {"messages": [SYSTEM, ASKED, WHAT], "kto_tag": False},
        "kto-tag",
        {"prompt": (SYSTEM, ASKED), "completion": (WHAT,), "label": False},
    ),
    "4 kto_tag of alpaca": (
        {"instruction": "Say hi.", "input": "", "output": "Hi.", "kto_tag": True},
        "kto-tag",
        {"prompt": ALPACA, "completion": "Hi.", "label": True},
    ),
    "4 messages and label": (
        {"messages": [ASKED, HI], "label": True},
        "unpaired",
        {"prompt": (ASKED,), "completion": (HI,), "label": True},
    ),
    "5 bedrock converse": (
        {**BEDROCK, "messages": [{"role": "user", "content": [{"text": "Hel"}, {"text": "lo?"}]}, HI]},
        "messages",
        {"messages": (SYSTEM, ASKED, HI)},
    ),
    "6 reinforcement": (
        {"messages": [SYSTEM, ASKED], "reference_answer": {"answer": 4}},
        "rft",
        {"prompt": (SYSTEM, ASKED), "ground_truth": {"answer": 4}},
    ),
    "7 bedrock": (
        {"system": "Be brief.", "messages": [ASKED, HI]},
        "messages",
        {"messages": (SYSTEM, ASKED, HI)},
    ),
    "8 openai chat with a tool": (
        {"messages": [ASKED, CALL, {"role": "tool", "content": "9"}, HI], "tools": TOOLS},
        "messages",
        {"messages": (ASKED, CALL, {"role": "tool", "content": "9"}, HI), "tools": tuple(TOOLS)},
    ),
    "8 an empty system turn": (
        {"messages": [{"role": "system", "content": ""}, ASKED, HI]},
        "messages",
        {"messages": (ASKED, HI)},
    ),
    "8 messages as JSON text": (
        {"messages": json.dumps([ASKED, HI])},
        "messages",
        {"messages": (ASKED, HI)},
    ),
    "9 sharegpt": (
        {"conversations": [said("system", "Be brief."), said("human", "Hello?"), said("gpt", "Hi.")]},
        "sharegpt",
        {"messages": (SYSTEM, ASKED, HI)},
    ),
    "9 sharegpt with tools": (
        {
            "conversations": [
                said("human", "Hello?"),
                said("function_call", '{"name": "weather", "arguments": {"city": "Ulm"}}'),
                said("observation", "9"),
                said("gpt", "Hi."),
            ],
            "system": "Be brief.",
            "tools": json.dumps(TOOLS),
        },
        "sharegpt",
        {"messages": (SYSTEM, ASKED, CALL, {"role": "tool", "content": "9"}, HI), "tools": tuple(TOOLS)},
    ),
    "9 sharegpt with a turn of the tool": (
        {"conversations": [said("human", "Hello?"), said("gpt", "Let me see."), said("tool", "9"), said("gpt", "Hi.")]},
        "sharegpt",
        {"messages": (ASKED, assistant("Let me see."), {"role": "tool", "content": "9"}, HI)},
    ),
    "9 pairs of human and assistant": (
        {"conversation_id": 1, "conversation": [{"human": "Hello?", "assistant": "Hi."}], "system": "Be brief."},
        "sharegpt",
        {"messages": (SYSTEM, ASKED, HI)},
    ),
    "9 conversation with roles": ({"conversation": [ASKED, HI]}, "sharegpt", {"messages": (ASKED, HI)}),
    "10 hh": (
        {"chosen": "\n\nHuman: Hello?\n\nAssistant: Hi.", "rejected": "\n\nHuman: Hello?\n\nAssistant: What?"},
        "hh-rlhf",
        PAIR,
    ),
    "11 alpaca preference": (
        {"instruction": "Say hi.", "input": "", "chosen": "Hi.", "rejected": "What?"},
        "alpaca-preference",
        TEXTS | {"prompt": ALPACA},
    ),
    "12 trl": ({"prompt": "Hello?", "chosen": "Hi.", "rejected": "What?"}, "preference", TEXTS),
    "12 ultrafeedback_binarized": (
        {
            "prompt": "Hello?",
            "prompt_id": "1",
            "chosen": [ASKED, HI],
            "rejected": [ASKED, WHAT],
            "score_chosen": 8.0,
            "score_rejected": 3.0,
        },
        "preference",
        PAIR,
    ),
    "12 sides alone": ({"chosen": [ASKED, HI], "rejected": [ASKED, WHAT]}, "preference", PAIR),
    "12 ms-swift": ({"messages": [SYSTEM, ASKED, HI], "rejected_response": "What?"}, "swift-preference", {
        **PAIR, "prompt": (SYSTEM, ASKED),
    }),
    "14 trl unpaired": (
        {"prompt": "Hello?", "completion": "Hi.", "label": False},
        "unpaired",
        {"prompt": "Hello?", "completion": "Hi.", "label": False},
    ),
    "14 the label is a number": (
        {"prompt": "Hello?", "completion": "Hi.", "label": 1},
        "unpaired",
        {"prompt": "Hello?", "completion": "Hi.", "label": True},
    ),
    "14 the label is a digit": (
        {"prompt": "Hello?", "completion": "Hi.", "label": "0"},
        "unpaired",
        {"prompt": "Hello?", "completion": "Hi.", "label": False},
    ),
    "14 the prompt is in the completion": (
        {"completion": [ASKED, HI], "label": True},
        "unpaired",
        {"prompt": (ASKED,), "completion": (HI,), "label": True},
    ),
    "16 ultrafeedback": (ULTRAFEEDBACK, "ultrafeedback", TEXTS | {"margin": 2.25}),
    "17 shp": (SHP, "shp", TEXTS | {"margin": 3.0}),
    "17 shp, B preferred": (
        SHP | {"human_ref_A": "What?", "human_ref_B": "Hi.", "labels": 0},
        "shp",
        TEXTS | {"margin": 3.0},
    ),
    "18 helpsteer": (
        {"prompt": "Hello?", "response": "Hi.", "helpfulness": 4, "correctness": 4, "coherence": 4, "verbosity": 1},
        "helpsteer",
        {"prompt": "Hello?", "completion": "Hi.", "helpfulness": 4},
    ),
    "19 pandalm": (PANDALM, "pandalm", TEXTS | {"prompt": ALPACA}),
    "20 verl": (
        {"data_source": "gsm8k", "prompt": [ASKED], "reward_model": {"ground_truth": "4"}, "extra_info": {"index": 1}},
        "verl",
        {"prompt": (ASKED,), "ground_truth": "4", "extra_info": {"index": 1}},
    ),
    "21 gsm8k solutions": (
        {
            "question": "Hello?",
            "ground_truth": "A: 1,000",
            "6B": {"is_correct": True, "solution": "Hi."},
            "175B": {"is_correct": False, "solution": "What?"},
        },
        "gsm8k-solutions",
        TEXTS | {"answer": "1000"},
    ),
    "22 gsm8k": (
        {"question": "Hello?", "answer": "So.\n#### 1,000"},
        "gsm8k",
        {"prompt": "Hello?", "completion": "So.\n#### 1,000", "ground_truth": "1000"},
    ),
    "24 humaneval": (
        {"task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f", "canonical_solution": "    return 1\n",
         "test": "assert f() == 1"},
        "humaneval",
        {"prompt": "def f():\n", "completion": "    return 1\n", "ground_truth": "assert f() == 1", "entry_point": "f"},
    ),
    "24 code": (
        {"problem": "Write f.", "tests": ["assert f() == 1"]},
        "problem",
        {"prompt": "Write f.", "ground_truth": ["assert f() == 1"]},
    ),
    "24 maths, answer": (
        {"problem": "2+2?", "answer": 4},
        "problem",
        {"prompt": "2+2?", "completion": "4", "ground_truth": "4"},
    ),
    "24 maths, solution": (
        {"problem": "1/2?", "level": "Level 1", "type": "Algebra", "solution": r"It is $\boxed{\frac{1}{2}}$."},
        "problem",
        {"prompt": "1/2?", "completion": r"It is $\boxed{\frac{1}{2}}$.", "ground_truth": r"\frac{1}{2}"},
    ),
    "25 big-bench-hard": (
        {"canary": "GUID", "examples": [{"input": "not ( True ) is", "target": "False"}]},
        "big-bench-hard",
        {"prompt": "not ( True ) is", "completion": "False", "ground_truth": "False", "canary": "GUID"},
    ),
    "26 alpaca": (
        {"instruction": "Say hi.", "input": "", "output": "Hi."},
        "alpaca",
        {"prompt": ALPACA, "completion": "Hi."},
    ),
    "26 seed task": (
        {"id": "seed_task_0", "name": "hi", "instruction": "Say hi.", "instances": [{"input": "", "output": "Hi."}]},
        "alpaca-seed",
        {"prompt": ALPACA, "completion": "Hi.", "name": "hi"},
    ),
    "27 banking77": (
        {"text": "Hello?", "category": "greeting"},
        "classification",
        {"prompt": "Hello?", "completion": "greeting", "ground_truth": "greeting"},
    ),
    "28 trl prompt-completion": (
        {"prompt": [ASKED], "completion": [HI]},
        "prompt-completion",
        {"prompt": (ASKED,), "completion": (HI,)},
    ),
    "28 response": (
        {"prompt": "Hello?", "response": "Hi."},
        "prompt-completion",
        {"prompt": "Hello?", "completion": "Hi.", "ground_truth": "Hi."},
    ),
    "29 text": ({"text": "Hello?"}, "text", {"text": "Hello?"}),
    "29 prompt": ({"prompt": "Hello?"}, "prompt", {"prompt": "Hello?"}),
}  # fmt: skip


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
        {"messages": [ASKED, HI], "rejected_response": "Hi."},
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
