"""Columns one by one: what counts as a number, a label, a text, a conversation."""

import pytest

from rung.data import fields
from rung.data.records import BadRow, as_prompt, as_unpaired, digest, first_turns, make_example
from rung.errors import DataError

USER, REPLY = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("value", "found"), [(1, 1.0), ("1.5", 1.5), (0, 0.0), (-2.5, -2.5), (" 3 ", 3.0), ("1e2", 100.0)]
)
def test_a_number_may_be_a_text(value: object, found: float) -> None:
    assert fields.number(value, "margin") == found


@pytest.mark.parametrize("value", [True, None, "x", "nan", float("inf"), [], ""])
def test_what_is_no_number_is_named(value: object) -> None:
    with pytest.raises(BadRow, match="`margin` is not a finite number"):
        fields.number(value, "margin")


def test_a_label_may_be_a_word() -> None:
    assert [fields.truth_value(v) for v in (True, False, "True", "FALSE", "true")] == [True, False, True, False, True]
    assert [fields.truth_value(v) for v in (1, 0, "1", "0", 1.0)] == [True, False, True, False, True]
    assert [fields.truth_value(v) for v in (2, -1, 0.5, "yes", None, "")] == [None] * 6


@pytest.mark.parametrize(
    ("value", "said"),
    [(3, "is not a string .found int"), ("", "is empty"), (" \n", "is empty"), ("a\ud800", "unpaired surrogate")],
)
def test_a_text_says_something(value: object, said: str) -> None:
    with pytest.raises(BadRow, match=said):
        fields.string(value, "prompt")
    assert fields.string("\ud7ff\ue000", "prompt") == "\ud7ff\ue000"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("so\n#### 1,000", "1000"),
        ("#### -5", "-5"),
        ("#### $12.50 dollars", "12.50"),
        ("A: 7", "7"),
        ("#### 3 then #### 4", "4"),
        ("####\n8.", "8"),
    ],
)
def test_the_final_number_of_a_solution(text: str, found: str) -> None:
    assert fields.gsm8k_number(text) == found


def test_a_solution_without_its_mark_is_bad() -> None:
    with pytest.raises(BadRow, match="the solution has no number after"):
        fields.gsm8k_number("it is 7")


def test_a_message_says_something_or_calls_something() -> None:
    blocks = [{"type": "text", "text": "a"}, {"text": "b"}]
    said = fields.conversation([{"role": "user", "content": blocks, "name": None}], "messages")
    assert said == ({"role": "user", "content": "ab"},)
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    called = fields.conversation([{"role": "assistant", "content": None, "tool_calls": [call]}], "messages")
    assert called == ({"role": "assistant", "content": "", "tool_calls": [call]},)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "not a list of messages"),
        ("a", "not a list of messages"),
        ([{"content": "a"}], "a message has no `role`"),
        ([{"role": 3, "content": "a"}], "a message has no `role`"),
        ([{"role": "user", "content": " "}], "has an empty user turn"),
        ([{"role": "user"}], "has an empty user turn"),
        ([{"role": "user", "content": 3}], "neither a string nor a list"),
        ([{"role": "user", "content": [{"image": 1}]}], "a content block is not text"),
        ([{"role": "user", "content": "\ud800"}], "unpaired surrogate"),
    ],
)
def test_a_message_that_cannot_be_used_is_named(value: object, said: str) -> None:
    with pytest.raises(BadRow, match=said):
        fields.conversation(value, "messages")


def test_a_system_column_is_the_first_turn_and_never_a_second_one() -> None:
    row = {"messages": [USER], "system": "be brief"}
    assert fields.system_first(row)[0] == {"role": "system", "content": "be brief"}
    assert fields.system_first({"messages": [USER], "system": ""}) == (USER,)
    with pytest.raises(BadRow, match="both a `system` column and a system message"):
        fields.system_first({"messages": [{"role": "system", "content": "x"}, USER], "system": "y"})


def test_a_conversation_to_learn_from_ends_in_a_reply_and_does_not_begin_with_one() -> None:
    assert fields.answered((USER, REPLY), "m") == (USER, REPLY)  # type: ignore[arg-type]
    with pytest.raises(BadRow, match="does not end with an assistant turn"):
        fields.answered((USER,), "m")  # type: ignore[arg-type]
    with pytest.raises(BadRow, match="begins with an assistant turn"):
        fields.answered((REPLY, USER, REPLY), "m")  # type: ignore[arg-type]


def test_small_words() -> None:
    assert fields.has({"a": 0, "b": ""}, "a", "b")
    assert not fields.has({"a": None}, "a")
    assert not fields.has({}, "a")
    assert fields.roles({"messages": [USER, 3]}) == ["user", ""]
    assert fields.roles({"messages": "x"}) == []
    assert fields.unused_columns({"a": 1, "b": 2}, "a") == {"b": 2}
    assert fields.with_truth({"ground_truth": None}, 3) == {"ground_truth": 3}
    assert fields.with_truth({"ground_truth": 0}, 3) == {"ground_truth": 0}
    assert fields.margin({"margin": "2"}) == 2.0
    assert fields.margin({"margin": None}) is None
    assert fields.gold("x") == "x"
    assert fields.gold((USER, REPLY)) == "b"  # type: ignore[arg-type]
    fields.check_not_mixed(a="x", b="y")
    with pytest.raises(BadRow, match=r"mixed .`a` text, `b` messages"):
        fields.check_not_mixed(a="x", b=(USER,))  # type: ignore[arg-type]


def test_an_id_is_of_the_content_and_a_group_of_the_prompt() -> None:
    def made(source: str = "x:1", prompt: str = "p", **columns: object):
        return make_example("prompt", source, columns, prompt=prompt)

    assert made().id == made("y:9").id == made(extra=None).id
    assert made().id != made(extra=0).id
    assert made().group == made(extra=1).group == digest("p")
    assert made().group != made(prompt="q").group
    assert len(digest("p")) == 16
    text = make_example("text", "x:1", {}, text="t")
    assert text.group == digest("t")
    talk = make_example("messages", "x:1", {}, messages=(USER, REPLY))  # type: ignore[arg-type]
    assert talk.group == digest((USER,))
    ranked = make_example("ranking", "x:1", {}, prompt="p", completions=("a", "b"))
    assert ranked.id != make_example("ranking", "x:1", {}, prompt="p", completions=("b", "a")).id


def test_turns_before_the_first_reply() -> None:
    assert first_turns((USER, REPLY, USER, REPLY)) == (USER,)  # type: ignore[arg-type]
    assert first_turns((USER,)) == (USER,)  # type: ignore[arg-type]
    assert first_turns((REPLY,)) == ()  # type: ignore[arg-type]


def test_a_pair_as_two_rows_of_their_own() -> None:
    pair = make_example("preference", "x:1", {"k": 1}, prompt="p", chosen="c", rejected="r", margin=2.0)
    good, bad = as_unpaired(pair)
    assert [(one.kind, one.completion, one.label, one.chosen, one.rejected, one.margin) for one in (good, bad)] == [
        ("unpaired", "c", True, None, None, None),
        ("unpaired", "r", False, None, None, None),
    ]
    assert len({pair.id, good.id, bad.id}) == 3
    assert good.group == bad.group == pair.group
    assert as_unpaired(good) == [good]


def test_an_example_as_a_prompt_keeps_its_id_and_its_gold() -> None:
    talk = make_example("messages", "x:1", {"k": 1}, messages=(USER, REPLY))  # type: ignore[arg-type]
    asked = as_prompt(talk)
    assert (asked.kind, asked.prompt, asked.messages, asked.id) == ("prompt", (USER,), None, talk.id)
    assert dict(asked.columns) == {"ground_truth": "b", "k": 1}
    kept = make_example("messages", "x:1", {"ground_truth": "z"}, messages=(USER, REPLY))  # type: ignore[arg-type]
    assert dict(as_prompt(kept).columns) == {"ground_truth": "z"}
    pair = make_example("preference", "x:1", {"k": 1}, prompt="p", chosen="c", rejected="r", margin=2.0)
    bare = as_prompt(pair)
    assert (bare.chosen, bare.rejected, bare.margin, bare.label, bare.completions) == (None,) * 5
    assert dict(bare.columns) == {"k": 1}
    with pytest.raises(DataError, match="x, row 2: raw text has no prompt to sample from"):
        as_prompt(make_example("text", "x:2", {}, text="t"))
