"""Which text of a chat is trained, and which templates are refused."""

import pytest

from helpers.chats import (
    BRIEF,
    CLOSED_THOUGHT,
    ENDS_ONCE,
    HELLO,
    LAST_THOUGHT,
    NO_REASONING,
    SUM,
    SYSTEM_LAST,
    TURNS,
    trained,
    whole,
)
from rung.data.chat import OTHER_START, TRAINING
from rung.data.encode import NO_STOP
from rung.errors import DataError


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [BRIEF, *HELLO]},
        {"prompt": [BRIEF, HELLO[0]], "chosen": HELLO[1:], "rejected": [{"role": "assistant", "content": "Good day."}]},
    ],
)
def test_a_template_that_drops_the_system_message_once_an_answer_follows_is_refused(build, row) -> None:
    with pytest.raises(DataError, match=r"rows, row 1: the chat template leaves out a system turn \('Be brief.'\)"):
        trained([row], build(chat=SYSTEM_LAST, adds_bos=True))


def test_a_template_that_writes_the_system_message_in_the_last_user_turn_is_read_without_one(build) -> None:
    texts, _ = trained([{"messages": [*HELLO, *SUM]}], build(chat=SYSTEM_LAST, has_bos=True))
    assert texts == [[" Hi.<eos> 4<eos>"]]


def test_turns_may_stand_without_anything_between_them(build) -> None:
    texts, report = trained(
        [{"messages": [*HELLO, *SUM]}], build(chat="{% for m in messages %}{{ m.content }}{% endfor %}")
    )
    assert texts == [["Hi.4"]]
    assert list(report.noticed) == [NO_STOP]


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


def test_a_turn_without_a_stop_token_ends_before_the_first_token_that_differs(build) -> None:
    """Later tokens that happen to be equal again (`er` of `user` and of `zzer`) are another turn's."""
    template = (
        "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}\n.\n{% endfor %}"
        "{% if add_generation_prompt %}<turn>assistant\n{% else %}<turn>zzer\n{% endif %}"
    )
    ((text,),), _ = trained([{"messages": [*HELLO, *SUM]}], build(chat=template))
    assert text.startswith("Hi.\n.\n<turn>4")


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
