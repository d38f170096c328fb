"""What rows of chats may say: tools, calls, weights of turns, system messages, prefills, template variables."""

import datetime
import json

import pyarrow
import pyarrow.parquet
import pytest

from helpers.chats import (
    ASKED,
    BRIEF,
    ENDS_ONCE,
    HELLO,
    MARKED,
    SUM,
    TOOLS,
    TURNS,
    WEATHER,
    call,
    called,
    prompt,
    trained,
    whole,
)
from rung.data.encode import encode, encode_prompt
from rung.data.load import load_examples
from rung.data.report import DataReport
from rung.data.templates import dated
from rung.errors import DataError


@pytest.mark.parametrize(
    "row",
    [
        {"messages": called({"city": "Ulm"})},
        {"prompt": called({})[:1], "completion": called({"city": "Ulm"})[1:]},
        {"prompt": called({})[:1], "completion": called({"city": "Ulm"})[1:], "label": True},
    ],
)
@pytest.mark.parametrize("tools", [[WEATHER], json.dumps([WEATHER]), [json.dumps(WEATHER)]])
def test_tools_are_in_the_prompt_and_only_the_assistant_is_trained(build, row, tools) -> None:
    tokenizer = build(chat=TOOLS)
    texts, _ = trained([row | {"tools": tools}], tokenizer)
    assert texts == [['[weather {"city": "Ulm"}]<eos>9 degrees.<eos>']]
    expected = tokenizer.apply_chat_template(row.get("messages", called({}))[:1], tools=[WEATHER], tokenize=False)
    assert prompt(row | {"tools": tools}, tokenizer) == expected + "<turn>assistant\n"


def test_tools_are_in_prompts_to_sample_after_and_in_evaluation(build) -> None:
    from rung.evaluation.fewshot import encode_question

    tokenizer, row = build(chat=TOOLS), {"prompt": SUM[:1], "tools": [WEATHER]}
    assert '"weather"' in prompt(row, tokenizer)
    (example,), _ = load_examples([row])
    assert '"weather"' in tokenizer.decode(encode_question(example, (), tokenizer))
    assert example.columns["tools"] == [WEATHER]


def test_tools_that_a_template_does_not_write_are_refused(build) -> None:
    with pytest.raises(DataError, match=r"leaves out the tools \(it does not write `weather`\)"):
        trained([{"messages": HELLO, "tools": [WEATHER]}], build(chat=TURNS))


@pytest.mark.parametrize("tools", [3, "weather", [{"type": "function"}], [["weather"]]])
def test_tools_that_are_no_schemas_are_refused(build, tools) -> None:
    with pytest.raises(DataError, match="`tools`"):
        trained([{"messages": HELLO, "tools": tools}], build(chat=TOOLS))


@pytest.mark.parametrize("nothing", [None, [], ""])
def test_a_row_without_tools_is_a_plain_chat(build, nothing) -> None:
    assert trained([{"messages": HELLO, "tools": nothing}], build(chat=TOOLS))[0] == [["Hi.<eos>"]]


@pytest.mark.parametrize("arguments", [{"city": "Ulm"}, '{"city": "Ulm"}'])
def test_arguments_are_an_object_whether_given_as_one_or_as_json(build, arguments) -> None:
    assert trained([{"messages": called(arguments)}], build(chat=TOOLS))[0] == [
        ['[weather {"city": "Ulm"}]<eos>9 degrees.<eos>']
    ]


def test_arguments_are_text_for_a_template_that_joins_texts(build) -> None:
    template = TOOLS.replace(
        "{{ c.function.name }} {{ c.function.arguments | tojson }}", "{{ 'w' + c.function.arguments }}"
    )
    template = template.replace("'w'", "c.function.name")
    assert trained([{"messages": called({"city": "Ulm"})}], build(chat=template))[0] == [
        ['[weather{"city": "Ulm"}]<eos>9 degrees.<eos>']
    ]


def test_content_is_null_for_a_template_that_asks_for_it(build) -> None:
    template = TOOLS.replace("m.tool_calls or []", "(m.tool_calls if m.content is none else []) or []")
    template = template.replace("{{ m.content }}", "{{ m.content or '' }}")
    assert trained([{"messages": called({"city": "Ulm"})}], build(chat=template))[0] == [
        ['[weather {"city": "Ulm"}]<eos>9 degrees.<eos>']
    ]


def test_openais_older_function_call_is_a_tool_call(build) -> None:
    messages = called({})
    messages[1] = {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"a": 1}'}}
    assert trained([{"messages": messages}], build(chat=TOOLS))[0] == [['[weather {"a": 1}]<eos>9 degrees.<eos>']]


@pytest.mark.parametrize("calls", [[], None])
def test_an_answer_without_calls_is_an_answer(build, calls) -> None:
    """Templates ask whether the key is there."""
    template = TURNS.replace(
        "{{ m.content }}", "{% if m.tool_calls is defined %}[CALLS]{% else %}{{ m.content }}{% endif %}"
    )
    assert trained([{"messages": [HELLO[0], HELLO[1] | {"tool_calls": calls}]}], build(chat=template))[0] == [
        ["Hi.<eos>"]
    ]


@pytest.mark.parametrize("bad", ["weather", [{"type": "function"}], [call("Ulm")], [call([1])]])
def test_a_tool_call_without_a_name_or_an_object_is_refused(build, bad) -> None:
    messages = called({})
    messages[1]["tool_calls"] = bad
    with pytest.raises(DataError, match=r"tool call|tool_calls"):
        trained([{"messages": messages}], build(chat=TOOLS))


@pytest.mark.parametrize("key", ["weight", "loss", "train", "trainable"])
@pytest.mark.parametrize(("off", "on"), [(0, 1), (False, True)])
@pytest.mark.parametrize("template", [TURNS, MARKED])
def test_a_turn_that_is_not_to_be_learnt_is_attended_and_not_trained(build, key, off, on, template) -> None:
    chat = [HELLO[0], HELLO[1] | {key: off}, SUM[0], SUM[1] | {key: on}]
    tokenizer = build(chat=template)
    assert trained([{"messages": chat}], tokenizer)[0] == [["4<eos>"]]
    assert "Hi.<eos>" in whole({"messages": chat}, tokenizer)


@pytest.mark.parametrize("value", [0.5, "no", 2])
def test_a_weight_between_the_two_is_refused(build, value) -> None:
    with pytest.raises(DataError, match="`weight` of a turn is neither 0 nor 1"):
        trained([{"messages": [HELLO[0], HELLO[1] | {"weight": value}]}], build(chat=TURNS))


def test_a_user_turn_cannot_be_trained(build) -> None:
    with pytest.raises(DataError, match="`loss` of a user turn is set"):
        trained([{"messages": [HELLO[0] | {"loss": True}, HELLO[1]]}], build(chat=TURNS))


def test_a_chat_without_a_trained_turn_is_refused(build) -> None:
    with pytest.raises(DataError, match="no trained token"):
        trained([{"messages": [HELLO[0], HELLO[1] | {"weight": 0}]}], build(chat=TURNS))


def test_the_users_turns_in_a_pair_are_not_trained(build) -> None:
    what = {"role": "assistant", "content": "What?"}
    row = {"chosen": [*HELLO, *SUM], "rejected": [HELLO[0], what, SUM[0], {"role": "assistant", "content": "5"}]}
    texts, _ = trained([row], build(chat=TURNS))
    assert texts == [["Hi.<eos>4<eos>", "What?<eos>5<eos>"]]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": SUM[:1], "completion": SUM[1:]},
        {"prompt": SUM[:1], "completion": SUM[1:], "label": True},
        {"prompt": SUM[:1], "chosen": SUM[1:], "rejected": HELLO[1:]},
        {"chosen": SUM, "rejected": [SUM[0], HELLO[1]]},
        {"prompt": SUM[:1], "chosen": SUM, "rejected": [SUM[0], HELLO[1]]},
        {"prompt": SUM[:1], "completions": [SUM[1:], HELLO[1:]]},
        {"prompt": SUM[:1]},
        {"messages": SUM},
        {"messages": SUM[:1]},
    ],
)
@pytest.mark.parametrize("system", ["Be brief.", [{"text": "Be brief."}]])
def test_a_system_column_is_the_first_message_in_every_format(build, row, system) -> None:
    tokenizer = build(chat=TURNS)
    expected = tokenizer.apply_chat_template([BRIEF, SUM[0]], tokenize=False, add_generation_prompt=True)
    assert prompt(row | {"system": system}, tokenizer) == expected


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2?", "completion": "4"},
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
        {"prompt": "2+2?"},
        {"prompt": "2+2?", "completions": ["4", "5"]},
        {"text": "2+2=4"},
    ],
)
def test_a_system_column_beside_plain_text_is_refused(plain, row) -> None:
    with pytest.raises(DataError, match="`system`"):
        trained([row | {"system": "Be brief."}], plain)


def test_template_variables_of_a_row_reach_the_template(build) -> None:
    template = "{% if short %}<turn>short\n{% endif %}" + TURNS
    row = {"messages": HELLO, "chat_template_kwargs": {"short": True}}
    assert prompt(row, build(chat=template)).startswith("<turn>short\n<turn>user")


def test_media_in_a_chat_are_refused(build) -> None:
    with pytest.raises(DataError, match="the rows have images or other media"):
        trained([{"messages": HELLO, "images": ["a.png"]}], build(chat=TURNS))


def test_a_prefill_is_continued(build) -> None:
    """As TRL continues a last assistant message of the prompt."""
    tokenizer = build(chat=TURNS)
    begun = [SUM[0], {"role": "assistant", "content": "Let me think."}]
    expected = tokenizer.apply_chat_template(begun, tokenize=False, continue_final_message=True)
    assert prompt({"prompt": begun}, tokenizer) == expected == "<turn>user\n2+2?<eos>\n<turn>assistant\nLet me think."
    row = {"prompt": begun, "completion": [{"role": "assistant", "content": " It is 4."}]}
    assert trained([row], tokenizer)[0] == [[" It is 4.<eos>"]]
    assert whole(row, tokenizer) == expected + " It is 4.<eos>\n"


def test_a_reward_model_reads_an_answer_to_the_token_at_which_it_was_trained(build) -> None:
    """Turns end with <bos> and a line break, as Gemma's end with <end_of_turn>, which is not the EOS token."""
    from rung.rewards.reward_model import _after_stop

    tokenizer = build(chat=ENDS_ONCE.replace("{% else %}<eos>", ""), has_bos=True)
    (one,) = encode(load_examples([{"prompt": SUM[:1], "chosen": SUM[1:], "rejected": HELLO[1:]}])[0], tokenizer,
        max_prompt_length=None, max_length=None, report=DataReport(), stop_ids=[2])  # fmt: skip
    chosen = one.answers[0]
    sampled = chosen.ids[: chosen.ids.index(2) + 1]
    assert (*sampled, *_after_stop(sampled, tokenizer)) == chosen.ids
    assert _after_stop(sampled[:-1], tokenizer) == ()


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
def test_an_encoded_prompt_is_the_same_from_any_file(build, tmp_path, name) -> None:
    file, rows = tmp_path / name, [{"prompt": [BRIEF, SUM[0]], "tools": [WEATHER]}]
    if name.endswith("parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[:1] * 2), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (example, *_), _ = load_examples(str(file))
    tokenizer = build(chat=TOOLS)
    assert example.prompt is not None
    ids = encode_prompt(example.prompt, tokenizer, tools=example.tools)
    assert '{"type": "function", "function": {"name": "weather"' in tokenizer.decode(ids)


TODAY = "Today is {{ strftime_now('%d %B %Y') }}. " + TURNS


def test_a_template_that_writes_the_date_writes_the_given_one(build) -> None:
    with dated(datetime.date(2024, 2, 29)):
        assert prompt({"messages": HELLO}, build(chat=TODAY)).startswith("Today is 29 February 2024. <turn>user")
        assert whole({"messages": HELLO}, build(chat=TODAY)).startswith("Today is 29 February 2024. <turn>user")


def test_without_a_date_a_template_writes_today(build) -> None:
    today = f"Today is {datetime.date.today():%d %B %Y}."
    assert prompt({"messages": HELLO}, build(chat=TODAY)).startswith(today)


@pytest.mark.parametrize(
    ("completion", "said"),
    [
        (SUM[:1], "does not begin with an assistant turn"),
        (SUM, "does not begin with an assistant turn"),
        ([{"role": "tool", "content": "9 degrees"}], "does not begin with an assistant turn"),
    ],
)
def test_a_completion_of_another_role_is_refused(build, completion, said) -> None:
    """Also with a template that has no generation prompt, after which any turn would look sampled."""
    for template in (TURNS, TURNS.replace(ASKED, "")):
        with pytest.raises(DataError, match=said):
            trained([{"prompt": HELLO[:1], "completion": completion}], build(chat=template))


def test_a_completion_may_begin_with_the_result_of_a_call_in_the_prompt(build) -> None:
    chat = called({"city": "Ulm"})
    row = {"prompt": chat[:2], "completion": chat[2:]}
    assert trained([row], build(chat=TOOLS))[0] == [["9 degrees.<eos>"]]
    with pytest.raises(DataError, match="the completion has no assistant turn"):
        trained([{"prompt": chat[:2], "completion": chat[2:3]}], build(chat=TOOLS))


def test_nothing_is_sampled_after_a_call_without_its_result(build) -> None:
    with pytest.raises(DataError, match="the prompt ends with a tool call"):
        trained([{"prompt": called({"city": "Ulm"})[:2]}], build(chat=TOOLS))


@pytest.mark.parametrize("untrained", [1, 3])
def test_a_weight_is_refused_where_every_turn_is_trained(build, untrained) -> None:
    chat = [*HELLO, *SUM]
    chat[untrained] = chat[untrained] | {"weight": 0}
    with pytest.raises(DataError, match="`weight: 0` is trained if every turn is"):
        trained([{"messages": chat}], build(chat=TURNS), assistant_only=False)
