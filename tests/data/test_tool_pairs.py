"""Pairs and chats with tool calls: what is trained, for the chat templates of well-known models."""

import runpy
from typing import Any

import pytest

from helpers.repository import ROOT
from rung.data.encode import encode, encode_prompt
from rung.data.load import load_examples
from rung.data.records import BadRow, as_prompt
from rung.data.report import DataReport
from rung.errors import DataError
from rung.tiny.tokenizers import CHAT_TEMPLATE

SWEEP: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks" / "chat_templates.py"))
TEMPLATES: dict[str, str] = SWEEP["templates"]() | {"tiny": CHAT_TEMPLATE}
SEVERAL_CALLS = ("qwen3", "qwen2_5", "glm4moe", "gemma4", "tiny")
FAMILIES = (*SEVERAL_CALLS, "llama3_1", "gptoss")  # these two write one call a turn
TOOL = SWEEP["TOOL"]
ASKED = {"role": "user", "content": "Weather in Ulm?"}
COLD, WARM = ({"role": "assistant", "content": text} for text in ("It is cold there.", "It is warm there."))


def calls(*cities: str, content: str = "", **more: Any) -> dict[str, Any]:
    made = [
        {"id": f"call0000{i}", "type": "function", "function": {"name": "weather", "arguments": {"city": city}}}
        for i, city in enumerate(cities)
    ]
    return {"role": "assistant", "content": content, "tool_calls": made, **more}


def result(content: str, number: int = 0) -> dict[str, Any]:
    return {"role": "tool", "name": "weather", "content": content, "tool_call_id": f"call0000{number}"}


def texts(name: str, row: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """The prompt, and the trained and the other text of each answer."""
    tokenizer = SWEEP["tokenizer_for"](TEMPLATES[name])
    stops = [i for i in tokenizer.convert_tokens_to_ids(list(SWEEP["MORE_STOPS"])) if i is not None]
    examples = load_examples([row | {"tools": [TOOL]}])[0]
    limits: dict[str, Any] = {"max_prompt_length": None, "max_length": None}
    (one,) = encode(examples, tokenizer, report=DataReport(), stop_ids=stops, **limits)

    def part(answer: Any, is_trained: bool) -> str:
        return tokenizer.decode([i for i, now in zip(answer.ids, answer.trained, strict=True) if now == is_trained])

    return tokenizer.decode(one.prompt_ids), [(part(answer, True), part(answer, False)) for answer in one.answers]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_chat_that_ends_with_a_call_trains_the_call(name: str) -> None:
    asked, ((trained, _),) = texts(name, {"messages": [ASKED, calls("Ulm")]})
    assert "The weather of a city" in asked
    assert trained.count("weather") == trained.count("Ulm") == 1


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("untrained", [1, 3])
def test_a_call_or_an_answer_with_weight_0_is_attended(name: str, untrained: int) -> None:
    chat = [ASKED, calls("Ulm"), result("Nine degrees."), COLD]
    chat[untrained] = {**chat[untrained], "weight": 0}
    _, ((trained, other),) = texts(name, {"messages": chat})
    assert ("Ulm" in trained, "It is cold there." in trained) == (untrained == 3, untrained == 1)
    assert "Nine degrees." in other


@pytest.mark.parametrize("name", SEVERAL_CALLS)
def test_parallel_calls_are_trained_and_their_results_are_not(name: str) -> None:
    results = [result("Nine degrees."), result("Four degrees.", 1)]
    _, ((trained, other),) = texts(name, {"messages": [ASKED, calls("Ulm", "Bonn"), *results, COLD]})
    assert all(trained.count(said) == 1 for said in ("Ulm", "Bonn", "It is cold there."))
    assert all(said in other and said not in trained for said in ("Nine degrees.", "Four degrees."))


@pytest.mark.parametrize("name", ["llama3_1", "gptoss"])
def test_parallel_calls_are_refused_where_a_template_writes_one(name: str) -> None:
    with pytest.raises(DataError, match=r"single tool-calls|leaves out"):
        texts(name, {"messages": [ASKED, calls("Ulm", "Bonn"), result("Nine."), result("Four.", 1), COLD]})


@pytest.mark.parametrize("name", FAMILIES)
def test_calls_of_both_sides_are_trained_and_results_of_both_are_not(name: str) -> None:
    row = {
        "chosen": [ASKED, calls("Ulm"), result("Nine degrees."), COLD],
        "rejected": [ASKED, calls("Bonn"), result("Four degrees."), WARM],
    }
    _, sides = texts(name, row)
    said = (("Ulm", "Nine degrees.", "It is cold there."), ("Bonn", "Four degrees.", "It is warm there."))
    for (trained, other), (city, told, answer) in zip(sides, said, strict=True):
        assert trained.count(city) == trained.count(answer) == 1
        assert told in other
        assert told not in trained


@pytest.mark.parametrize("name", FAMILIES)
def test_the_turns_that_both_sides_share_are_the_prompt_as_in_trl(name: str) -> None:
    from trl.data_utils import extract_prompt

    shared = [ASKED, calls("Ulm"), result("Nine degrees.")]
    row: dict[str, Any] = {"chosen": [*shared, COLD], "rejected": [*shared, WARM]}
    assert extract_prompt(row) == {"prompt": shared, "chosen": [COLD], "rejected": [WARM]}
    asked, ((chosen, _), (rejected, _)) = texts(name, row)
    assert asked.count("Nine degrees.") == 1
    assert "Ulm" not in chosen + rejected
    assert chosen.count(COLD["content"]) == rejected.count(WARM["content"]) == 1


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("with_prompt", [True, False])
def test_sides_may_differ_from_the_result_of_a_shared_call_on(name: str, with_prompt: bool) -> None:
    """As with TRL, the call is shared and not trained; it stands in the sides, where its end can be found."""
    shared = [ASKED, calls("Ulm")]
    chosen, rejected = [result("Nine degrees."), COLD], [result("No connection."), WARM]
    if with_prompt:
        row: dict[str, Any] = {"prompt": shared, "chosen": chosen, "rejected": rejected}
    else:
        row = {"chosen": [*shared, *chosen], "rejected": [*shared, *rejected]}
    _, sides = texts(name, row)
    for (trained, other), said, told in zip(sides, (COLD, WARM), ("Nine degrees.", "No connection."), strict=True):
        assert trained.count(said["content"]) == 1
        assert "Ulm" in other
        assert told in other
        assert "Ulm" not in trained


@pytest.mark.parametrize("name", SEVERAL_CALLS)
def test_sides_may_differ_in_the_second_result_of_parallel_calls(name: str) -> None:
    shared = [ASKED, calls("Ulm", "Bonn"), result("Nine degrees.")]
    row = {
        "chosen": [*shared, result("Four degrees.", 1), COLD],
        "rejected": [*shared, result("No connection.", 1), WARM],
    }
    _, ((chosen, _), (rejected, other)) = texts(name, row)
    assert COLD["content"] in chosen
    assert WARM["content"] in rejected
    assert all(said in other for said in ("Ulm", "Bonn", "Nine degrees.", "No connection."))


def test_a_text_before_a_call_in_the_prompt_does_not_make_the_call_trained() -> None:
    shared = [ASKED, calls("Ulm", content="Let me look it up.")]
    row = {"prompt": shared, "chosen": [result("Nine degrees."), COLD], "rejected": [result("No."), WARM]}
    for name in ("qwen3", "qwen2_5", "glm4moe", "tiny"):
        _, ((chosen, other), _) = texts(name, row)
        assert "tool_call" not in chosen
        assert "Let me look it up." in other


def test_a_weight_on_one_side_does_not_make_a_shared_turn_differ() -> None:
    shared = [ASKED, COLD, {"role": "user", "content": "Sure?"}]
    row = {"chosen": [*shared, COLD], "rejected": [ASKED, {**COLD, "weight": 0}, shared[2], WARM]}
    asked, ((chosen, _), (rejected, _)) = texts("tiny", row | {"tools": None})
    assert "Sure?" in asked
    assert (chosen, rejected) == ("It is cold there.<eos>", "It is warm there.<eos>")


def test_a_turn_of_the_prompt_is_not_trained_where_trls_template_writes_it_otherwise() -> None:
    """Qwen3 leaves out the reasoning of earlier turns, so that TRL's template is taken, with thoughts in every turn."""
    shared = [ASKED, {"role": "assistant", "content": "Do you mean today?"}, {"role": "user", "content": "Yes."}]
    thought = {**COLD, "reasoning_content": "A thought about it."}
    more = [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes it is."}]
    asked, ((chosen, other), (rejected, _)) = texts(
        "qwen3", {"chosen": [*shared, thought, *more], "rejected": [*shared, WARM]}
    )
    assert "Do you mean today?" in asked
    assert "Do you mean today?" not in chosen + rejected
    assert chosen.count("A thought about it.") == chosen.count("Yes it is.") == 1
    assert "Sure?" in other


@pytest.mark.parametrize("field", ["reasoning_content", "thinking"])
@pytest.mark.parametrize("name", ["qwen3", "glm4moe", "gptoss", "gemma4_v5"])
def test_reasoning_in_a_field_is_trained(name: str, field: str) -> None:
    _, ((trained, _),) = texts(name, {"messages": [ASKED, {**COLD, field: "A thought about it."}]})
    assert trained.count("A thought about it.") == trained.count("It is cold there.") == 1


@pytest.mark.parametrize("name", ["qwen2_5", "llama3_1", "tiny"])
def test_reasoning_in_a_field_is_refused_where_the_template_leaves_it_out(name: str) -> None:
    with pytest.raises(DataError, match=r"leaves out what the assistant says \('A thought about it.'\)"):
        texts(name, {"messages": [ASKED, {**COLD, "thinking": "A thought about it."}]})


@pytest.mark.parametrize("name", ["phi3", "gemma3", "deepseekv3"])
def test_tools_are_refused_by_a_template_without_them(name: str) -> None:
    with pytest.raises(DataError, match="leaves out the tools"):
        texts(name, {"messages": [ASKED, calls("Ulm"), result("Nine degrees."), COLD]})


def test_a_call_that_names_the_tool_does_not_hide_that_the_tools_are_left_out() -> None:
    shared = [ASKED, calls("Ulm"), result("Nine degrees.")]
    with pytest.raises(DataError, match=r"leaves out the tools \(it writes the same without them\)"):
        texts("deepseekv3", {"chosen": [*shared, COLD], "rejected": [*shared, WARM]})


def test_arguments_as_a_text_in_a_json_text_are_refused() -> None:
    """The template takes calls only as text, and writes them as JSON once more."""
    template = CHAT_TEMPLATE.replace(
        "function.arguments if function.arguments is string else", "(function.arguments ~ '')[:99] if 0 else"
    ).replace("{%- set function", "{{- '' + (call.function or call).arguments[:0] -}}{%- set function")
    tokenizer = SWEEP["tokenizer_for"](template)
    with pytest.raises(DataError, match="writes the arguments of a call as a text in quotes"):
        encode(load_examples([{"messages": [ASKED, calls("Ulm")]}])[0], tokenizer, max_prompt_length=None,
            max_length=None, report=DataReport())  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_an_item_with_earlier_calls_is_asked_with_them_and_with_its_tools(name: str) -> None:
    from rung.evaluation.fewshot import encode_question

    tokenizer = SWEEP["tokenizer_for"](TEMPLATES[name])
    items = [
        {"messages": [ASKED, calls("Ulm"), result("Nine degrees."), COLD], "tools": [TOOL]},
        {"prompt": [ASKED, calls("Ulm"), result("Nine degrees.")], "tools": [TOOL]},
    ]
    asked = [encode_question(load_examples([item])[0][0], (), tokenizer) for item in items]
    assert asked[0] == asked[1]
    text = tokenizer.decode(asked[0])
    assert all(text.count(said) == 1 for said in ("The weather of a city", "Weather in Ulm?", "Nine degrees."))
    assert "It is cold there." not in text
    assert as_prompt(load_examples([items[0]])[0][0]).columns["ground_truth"] == "It is cold there."


def test_nothing_is_asked_after_a_call_without_its_result() -> None:
    tokenizer = SWEEP["tokenizer_for"](CHAT_TEMPLATE)
    (example,), _ = load_examples([{"prompt": [ASKED, calls("Ulm")]}])
    assert example.prompt is not None
    with pytest.raises(BadRow, match="the prompt ends with a tool call"):
        encode_prompt(example.prompt, tokenizer)
    with pytest.raises(DataError, match="the prompt ends with a tool call"):
        texts("tiny", {"prompt": [ASKED, calls("Ulm")], "completion": [COLD]})


@pytest.mark.parametrize(
    "row", [{"messages": [ASKED, calls("Ulm")]}, {"prompt": [ASKED], "completion": [calls("Ulm")]}]
)
def test_a_turn_that_only_calls_tools_is_no_gold_answer(row: dict[str, Any]) -> None:
    """An empty gold answer would score every completion as wrong."""
    assert "ground_truth" not in as_prompt(load_examples([row])[0][0]).columns
