"""The calls of a turn are those that TRL reads, in every format it knows; a broken call is a mistake, not a text."""

from __future__ import annotations

import copy
import json
import runpy
from itertools import takewhile
from typing import Any

import pytest

from helpers.repository import ROOT
from rung.agents.parsing import ParsedTurn, TurnParser
from rung.errors import ConfigError
from rung.tiny.tokenizers import byte

SWEEP: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks" / "chat_templates.py"))
TEMPLATES: dict[str, str] = SWEEP["templates"]()
USER = [{"role": "user", "content": "Question number one?"}]
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "integer", "description": "a number"},
                "b": {"type": "object", "description": "more"},
                "c": {"type": "string", "description": "a post code"},
            },
        },
    },
}
TOOLS = [SWEEP["TOOL"], ADD]
NESTED = {"a": 3, "b": {"x": [1, {"y": "z"}]}, "c": "75001"}
CALLS = [SWEEP["CALL"], {"id": "call12346", "type": "function", "function": {"name": "add", "arguments": NESTED}}]
F = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


def read(text: str, parser: TurnParser | None = None, prefix: str = "") -> ParsedTurn:
    parser = parser or TurnParser(byte())
    tokenizer: Any = parser._tokenizer
    ids, before = (tokenizer(each, add_special_tokens=False)["input_ids"] for each in (text, prefix))
    return parser.parse(ids, before, TOOLS)


def parser_of(name: str) -> TurnParser:
    return TurnParser(SWEEP["tokenizer_for"](TEMPLATES[name]))


def common_length(one: str, other: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def with_calls() -> list[str]:
    from trl.chat_template_utils import add_response_schema

    found = []
    for name, text in TEMPLATES.items():
        tokenizer = SWEEP["tokenizer_for"](text)
        try:
            add_response_schema(tokenizer)
        except ValueError:
            continue
        if "tool_calls" in tokenizer.response_template["fields"]:
            found.append(name)
    return found


def test_calls_are_those_of_trl_in_every_chat_template_that_it_can_read() -> None:
    import jinja2
    from trl.chat_template_utils import add_response_schema, parse_response

    compared = 0
    for name in with_calls():
        tokenizer = SWEEP["tokenizer_for"](TEMPLATES[name])
        theirs, parser = add_response_schema(copy.deepcopy(tokenizer)), TurnParser(tokenizer)
        for calls in (CALLS[:1], CALLS[1:], CALLS):
            for content in ("", "Let me look."):
                chat = [*USER, {"role": "assistant", "content": content, "tool_calls": calls}]
                try:
                    asked = tokenizer.apply_chat_template(USER, tools=TOOLS, tokenize=False, add_generation_prompt=True)
                    whole = tokenizer.apply_chat_template(chat, tools=TOOLS, tokenize=False)
                except jinja2.TemplateError:  # Llama 3 writes one call only
                    assert name.startswith("llama3")
                    continue
                start = common_length(asked, whole)
                prefix, ids = (
                    tokenizer(part, add_special_tokens=False)["input_ids"] for part in (whole[:start], whole[start:])
                )
                ours, expected = parser.parse(ids, prefix, TOOLS), parse_response(theirs, ids, prefix, TOOLS)
                made = [
                    {"type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in ours.calls
                ]
                assert made == expected["tool_calls"] == ours.message.get("tool_calls"), name
                assert len(made) == (1 if name == "gptoss" else len(calls)), name
                assert ours.message["content"] == expected["content"].strip(), name
                assert not ours.mistakes, name
                compared += 1
        assert getattr(tokenizer, "response_template", None) is None
    assert compared > 100


@pytest.mark.parametrize(
    ("text", "calls", "content"),
    [
        (F, [("f", {"a": 1})], ""),
        (f"x{F}y{F}<|eos|>", [("f", {"a": 1})] * 2, "x\ny"),
        ('<tool_call>\n{"name": "f", "arguments": "{\\"a\\": 1}"}\n</tool_call>', [("f", {"a": 1})], ""),
        ('<tool_call>{"name": "f"}</tool_call>', [("f", {})], ""),
        ('<tool_call>{"name": "f", "arguments": null}</tool_call>', [("f", {})], ""),
        ('<tool_call>{"name": "f"}', [("f", {})], ""),
        (
            '<tool_call>{"name": "f", "arguments": {"a": "</tool_call> <tool_call>{}"}}</tool_call> z',
            [("f", {"a": "</tool_call> <tool_call>{}"})],
            "z",
        ),
        (f"<tool_call>{json.dumps({'name': 'f', 'arguments': {'a': F}})}</tool_call>", [("f", {"a": F})], ""),
        (f"<think>I would {F}</think> yes<|eos|>", [], "yes"),
        ("hello </tool_call>", [], "hello </tool_call>"),
        ('{"name": "f", "arguments": {}}', [], '{"name": "f", "arguments": {}}'),
        ("<|eos|>", [], ""),
        ("", [], ""),
    ],
)
def test_the_plain_format(text, calls, content) -> None:
    turn = read(text)
    assert [(call.name, call.arguments) for call in turn.calls] == calls
    assert turn.message["content"] == content
    assert turn.mistakes == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '<tool_call>{"name": "f", "arg',
            "not valid JSON: Unterminated string starting at character 14; it is not closed",
        ),
        ('<tool_call>{"name": "f", "arg</tool_call>', "not valid JSON: Unterminated string"),
        ('<tool_call>{"name": "f"}<|eos|>', "it is not closed"),
        ('<tool_call>{"name": "f"} } </tool_call>', "there is more text after its end"),
        ("<tool_call></tool_call>", "not valid JSON: Expecting value at character 0"),
        ("<tool_call>[1]</tool_call>", "not an object with `name` and `arguments`"),
        ("<tool_call>null</tool_call>", "not an object with `name` and `arguments`"),
        ('<tool_call>{"name": 3}</tool_call>', "the `name` of the call is not a string"),
        ('<tool_call>{"arguments": {}}</tool_call>', "the `name` of the call is not a string"),
        (
            '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
            "the `arguments` of the call to `f` are not an object",
        ),
        (
            '<tool_call>{"name": "f", "arguments": "{"}</tool_call>',
            "the `arguments` of the call to `f` are not valid JSON",
        ),
        ('<tool_call>{"name": "f", "arguments": {"a": "\\ud800"}}</tool_call>', "an unpaired surrogate"),
        ("<tool_call>" + "[" * 200 + "]" * 200 + "</tool_call>", "too many levels"),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", "too many levels"),
    ],
)
def test_the_model_is_told_of_a_broken_call_and_the_good_one_behind_it_is_made(text, says) -> None:
    turn = read(text)
    assert turn.calls == ()
    assert len(turn.mistakes) == 1
    assert says in turn.mistakes[0]
    assert turn.message["content"] == text.removesuffix("<|eos|>")
    if text.endswith("</tool_call>"):
        assert [call.name for call in read(text + F).calls] == ["f"]


@pytest.mark.parametrize(
    ("name", "text", "calls", "mistakes"),
    [
        ("qwen3", f"{F}<|im_end|>", 1, 0),
        ("qwen3_training", f"{F}<|im_end|>", 1, 0),
        ("qwen3", '<tool_call>{"type":"function"</tool_call><|im_end|>', 0, 1),
        ("qwen3", "Hello.<|im_end|>", 0, 0),
        ("qwen3_5_nothink", "<tool_call>\n<function=f>\n</function>\n</tool_call><|im_end|>", 1, 0),
        ("qwen3_5_nothink", f"{F}<|im_end|>", 0, 1),
        ("qwen3_5_nothink", "<tool_call>\n<function=f>\n<parameter=a>\n1\n</tool_call><|im_end|>", 0, 1),
        ("qwen3_5_nothink", "<tool_call>\n<function=f>\n<parameter=a>\n1", 0, 1),
        ("llama3_1", '{"name": "f", "parameters": {"a": 1}}<|eot_id|>', 1, 0),
        ("llama3_1", '{"name": "f", "parameters": {"a": "}<|eot_id|>"}}<|eot_id|>', 1, 0),
        ("llama3_1", '{"name": "f", "parameters": {"a": 1}<|eot_id|>', 0, 1),
        ("llama3_1", '{"name": "f", "arguments": {"a": 1}}<|eot_id|>', 0, 1),
        ("llama3_1", '{"name": "Bob", "age": 3}<|eot_id|>', 0, 0),
    ],
)
def test_formats_of_chat_templates(name, text, calls, mistakes) -> None:
    parser = TurnParser(SWEEP["tokenizer_for"](training(name))) if name.endswith("_training") else parser_of(name)
    turn = read(text, parser)
    assert (len(turn.calls), len(turn.mistakes)) == (calls, mistakes)


def training(name: str) -> str:
    from rung.data.templates import ChatTemplate, training_template

    found = training_template(ChatTemplate(TEMPLATES[name.removesuffix("_training")]))
    assert found is not None
    return found.text


def test_tags_that_are_special_tokens_are_read_and_the_end_of_the_turn_is_no_text() -> None:
    tokenizer = byte()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<tool_call>", "</tool_call>", "<|end|>"]})
    turn = read(f"Well.{F}<|end|>", TurnParser(tokenizer))
    assert [call.name for call in turn.calls] == ["f"]
    assert turn.message["content"] == "Well."


def test_the_prompt_may_open_the_reasoning_and_a_call_may_have_an_id() -> None:
    turn = read('I think.</think>\n<tool_call>{"id": "7", "name": "f"}</tool_call>', prefix="<|assistant|><think>\n")
    assert dict(turn.message) == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "I think.",
        "tool_calls": [{"id": "7", "type": "function", "function": {"name": "f", "arguments": {}}}],
    }
    assert turn.calls[0].id == "7"


def test_a_response_template_of_the_tokenizer_comes_first_and_a_wrong_one_is_named() -> None:
    tokenizer = byte()
    tokenizer.response_template = {
        "start_anchor": "<|assistant|>",
        "fields": {
            "content": {"content": "text"},
            "tool_calls": {
                "open": "[CALLS]",
                "content": "json",
                "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{args}"}},
                "transform_each": True,
            },
        },
    }
    turn = read('Now [CALLS][{"name": "f", "args": {}}, {"name": "g", "args": {"a": "x"}}]', TurnParser(tokenizer))
    assert [(call.name, call.arguments) for call in turn.calls] == [("f", {}), ("g", {"a": "x"})]
    tokenizer.response_template = {"fields": {}}
    with pytest.raises(ConfigError, match="`response_template` that cannot be used"):
        TurnParser(tokenizer)


@pytest.mark.parametrize("name", ["qwen3", "nemotron_3_nano", "gemma4"])
@pytest.mark.parametrize(
    "unit", ["a", "<think>", "<tool_call>", F, '<tool_call>["</tool_call>"', "<tool_call><function=f>", "["]
)
def test_a_long_turn_is_read_in_linear_time(name, unit) -> None:
    """In quadratic time each of these turns would take minutes."""
    text = unit * (500_000 // len(unit))
    parser = parser_of(name)
    parser._tokenizer = _Decoded(parser._tokenizer, text)  # type: ignore[assignment]
    assert parser.parse([1], (), ()).message["role"] == "assistant"


class _Decoded:
    """A tokenizer whose ids stand for a text, since a byte-level tokenizer takes longer than reading does."""

    def __init__(self, tokenizer: Any, text: str):
        self._tokenizer, self._text = tokenizer, text

    def decode(self, ids: list[int]) -> str:
        return self._text

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)
