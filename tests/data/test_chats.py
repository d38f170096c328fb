"""Chats as people bring them: what their templates drop, tools, turns that are not trained, completions of turns."""

import datetime
import json
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from rung.data.chat import OTHER_START, TRAINING
from rung.data.encode import NO_STOP, encode, encode_prompt
from rung.data.load import load_examples
from rung.data.report import DataReport
from rung.data.templates import dated
from rung.errors import DataError

ASKED = "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
TURNS = "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}<eos>\n{% endfor %}" + ASKED
MARKED = TURNS.replace(
    "{{ m.content }}",
    "{% if m.role == 'user' %}{{ m.content }}{% else %}{% generation %}{{ m.content }}{% endgeneration %}{% endif %}",
)
TOOLS = (
    "{% if tools %}<turn>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<eos>\n{% endif %}"
    "{% for m in messages %}<turn>{{ m.role }}\n{% for c in m.tool_calls or [] %}"
    "[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}{{ m.content }}<eos>\n{% endfor %}" + ASKED
)
# As Mistral: the system message is written in the last user turn only.
SYSTEM_LAST = (
    "{% set s = messages[0].content if messages[0].role == 'system' %}<bos>{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] {% if loop.last and s %}{{ s }}\n\n{% endif %}{{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}<eos>{% endif %}{% endfor %}"
)
# As DeepSeek-R1: the reasoning of an answer is left out, and the generation prompt opens it.
NO_REASONING = (
    "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n<think>\n{% endif %}"
)
# As Qwen3: an empty thought is written before the last answer, and before no other.
LAST_THOUGHT = (
    "{% for m in messages %}<turn>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<eos>\n{% endfor %}"
    + ASKED
)
# As Phi-3: a chat that is not asked to go on ends with EOS.
ENDS_ONCE = (
    "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}<bos>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% else %}<eos>{% endif %}"
)
# As Qwen3.5 without thinking: the generation prompt closes the thought.
CLOSED_THOUGHT = (
    "{% for m in messages %}<turn>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n"
    "{{ m.content.split('</think>')[0].split('<think>')[-1].strip() if '</think>' in m.content }}\n</think>\n\n"
    "{{ m.content.split('</think>')[-1].strip() }}{% else %}{{ m.content }}{% endif %}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n<think>\n\n</think>\n\n{% endif %}"
)

HELLO = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hi."}]
SUM = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
BRIEF = {"role": "system", "content": "Be brief."}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def call(arguments: Any) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": "weather", "arguments": arguments}}


def called(arguments: Any, **more: Any) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "Weather in Ulm?"},
        {"role": "assistant", "content": None, "tool_calls": [call(arguments)], **more},
        {"role": "tool", "content": "9 degrees"},
        {"role": "assistant", "content": "9 degrees."},
    ]


def trained(data: Any, tokenizer: Any, **settings: Any) -> tuple[list[list[str]], DataReport]:
    """For each row, the trained text of each of its answers."""
    report = DataReport()
    limits: dict[str, Any] = {"max_prompt_length": None, "max_length": None}
    rows = encode(load_examples(data)[0], tokenizer, report=report, **limits, **settings)
    texts = [
        [
            tokenizer.decode([token for token, now in zip(answer.ids, answer.trained, strict=True) if now])
            for answer in row.answers
        ]
        for row in rows
    ]
    return texts, report


def whole(row: Any, tokenizer: Any) -> str:
    (one,) = encode(load_examples([row])[0], tokenizer, max_prompt_length=None, max_length=None, report=DataReport())
    return tokenizer.decode([*one.prompt_ids, *one.answers[0].ids])


def prompt(row: Any, tokenizer: Any) -> str:
    """The prompt of a row as it is sampled after."""
    (one,) = encode(load_examples([row])[0], tokenizer, max_prompt_length=None, max_length=None, report=DataReport())
    return tokenizer.decode(one.prompt_ids)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [BRIEF, *HELLO]},
        {"prompt": [BRIEF, HELLO[0]], "chosen": HELLO[1:], "rejected": [{"role": "assistant", "content": "Good day."}]},
    ],
)
def test_a_template_that_drops_the_system_message_once_an_answer_follows_is_refused(build, row) -> None:
    with pytest.raises(DataError, match=r"rows:1: the chat template leaves out a system turn \('Be brief.'\)"):
        trained([row], build(chat=SYSTEM_LAST, adds_bos=True))


def test_a_template_that_writes_the_system_message_in_the_last_user_turn_is_read_without_one(build) -> None:
    texts, _ = trained([{"messages": [*HELLO, *SUM]}], build(chat=SYSTEM_LAST, has_bos=True))
    assert texts == [[" Hi.<eos> 4<eos>"]]


@pytest.mark.parametrize("template", [NO_REASONING, TURNS.replace("{{ m.content", "{{ m.content[:9]")])
def test_a_template_that_drops_what_the_assistant_says_is_refused(build, template) -> None:
    said = [{"role": "assistant", "content": "<think>\ntwo and two\n</think>\n\nfour"}]
    with pytest.raises(DataError, match="leaves out what the assistant says"):
        trained([{"messages": [SUM[0], *said]}], build(chat=template))


def test_sides_that_differ_in_dropped_reasoning_are_refused_and_not_called_equal(build) -> None:
    sides = {
        side: [{"role": "assistant", "content": f"<think>\n{side}\n</think>\n\n4"}] for side in ("chosen", "rejected")
    }
    with pytest.raises(DataError, match=r"leaves out what the assistant says \('chosen'\)"):
        trained([{"prompt": SUM[:1], **sides}], build(chat=NO_REASONING))


def test_a_generation_prompt_that_closes_a_thought_is_refused_where_the_answer_has_one(build) -> None:
    tokenizer = build(chat=CLOSED_THOUGHT)
    thought = {"role": "assistant", "content": "<think>\ntwo and two\n</think>\n\nfour"}
    with pytest.raises(DataError, match=OTHER_START):
        trained([{"messages": [SUM[0], thought]}], tokenizer)
    assert trained([{"messages": SUM}], tokenizer)[0] == [["4<eos>"]]


@pytest.mark.parametrize("name", ["deepseek_r1_distill", "qwen3_5_nothink"])
def test_trls_training_template_is_taken_for_a_known_model_and_said_so(build, name) -> None:
    from importlib.resources import files

    template = (files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    thought = {"role": "assistant", "content": "<think>\ntwo and two\n</think>\n\nfour"}
    ((text,),), report = trained([{"messages": [SUM[0], thought]}], build(chat=template))
    assert "<think>\ntwo and two\n</think>\n\nfour" in text
    assert report.noticed[TRAINING.format(name)].count == 1


def test_several_turns_are_found_in_a_template_that_writes_the_last_one_differently(build) -> None:
    tokenizer = build(chat=LAST_THOUGHT)
    texts, report = trained([{"messages": [*HELLO, *SUM]}], tokenizer)
    assert texts == [["Hi.<eos><think>\n\n</think>\n\n4<eos>"]]
    assert whole({"messages": [*HELLO, *SUM]}, tokenizer) == tokenizer.apply_chat_template(
        [*HELLO, *SUM], tokenize=False
    )
    assert not report.noticed


def test_a_chat_that_ends_once_is_trained_to_its_stop_tokens(build) -> None:
    """<bos> stands for the end of a turn, which the model's generation config names."""
    texts, report = trained([{"messages": [*HELLO, *SUM]}], build(chat=ENDS_ONCE, has_bos=True), stop_ids=[2])
    assert texts == [["Hi.<bos>4<bos>"]]
    assert not report.noticed


def test_a_turn_without_a_stop_token_ends_where_the_next_one_begins(build) -> None:
    endless = build(chat=TURNS.replace("<eos>\n", "\n\n"))
    texts, report = trained([{"messages": [*HELLO, *SUM]}], endless)
    assert texts == [["Hi.\n\n4\n\n"]]
    assert report.noticed[NO_STOP].count == 1


def test_earlier_turns_without_the_thought_of_the_generation_prompt_are_kept_and_said(build) -> None:
    thinking = LAST_THOUGHT.replace("<turn>assistant\n{% endif %}", "<turn>assistant\n<think>\n{% endif %}")
    texts, report = trained([{"messages": [*HELLO, *SUM]}], build(chat=thinking))
    assert texts == [["Hi.<eos>\n</think>\n\n4<eos>"]]
    assert report.noticed[OTHER_START].count == 1


@pytest.mark.parametrize(
    "twice",
    ["{{ m.content }}{{ m.content }}", "{{ m.content }}{% if m.role == 'assistant' %}x{{ m.content }}{% endif %}"],
)
def test_a_template_that_writes_a_message_twice_is_refused(build, twice) -> None:
    with pytest.raises(DataError, match="writes a message twice"):
        trained([{"messages": [*HELLO, *SUM]}], build(chat=TURNS.replace("{{ m.content }}", twice)))


def test_an_only_answer_that_is_written_twice_is_refused(build) -> None:
    row = {"messages": [SUM[0], {"role": "assistant", "content": "The answer is 4."}]}
    with pytest.raises(DataError, match="writes a message twice"):
        trained([row], build(chat=TURNS.replace("{{ m.content }}", "{{ m.content }}\n{{ m.content }}")))


def test_a_template_that_rewrites_content_is_refused(build) -> None:
    with pytest.raises(DataError, match="leaves out"):
        trained([{"messages": [*HELLO, *SUM]}], build(chat=TURNS.replace("m.content", "m.content | upper")))


def test_surrounding_white_space_that_a_template_trims_is_no_fault(build) -> None:
    row = {"messages": [{"role": "user", "content": " Hello? \n"}, {"role": "assistant", "content": "\nHi. "}, *SUM]}
    texts, _ = trained([row], build(chat=TURNS.replace("m.content", "m.content | trim")))
    assert texts == [["Hi.<eos>4<eos>"]]


def test_words_of_the_template_in_a_turn_are_no_marks(build) -> None:
    """The assistant says what the template also writes: only the turn itself is trained."""
    row = {"messages": [{"role": "user", "content": "assistant"}, {"role": "assistant", "content": "user"}, *SUM]}
    assert trained([row], build(chat=TURNS))[0] == [["user<eos>4<eos>"]]


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
