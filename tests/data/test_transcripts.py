"""Dialogues that are not written as messages: transcripts of HH-RLHF, turns of ShareGPT."""

import pytest

from rung.data.encode import encode
from rung.data.formats.transcripts import JOINED
from rung.data.load import load_examples
from rung.data.report import DataReport
from rung.errors import DataError

TEA = "\n\nHuman: Tea?\n\nAssistant: Green or black?\n\nHuman: Green: what else?"


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def pair(chosen, rejected, **columns):
    return {"chosen": chosen, "rejected": rejected} | columns


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


def one(row):
    (example,), report = load_examples([row])
    return example, report


def test_two_transcripts_are_a_pair_whose_prompt_is_all_but_the_last_reply():
    row = pair(f"{TEA}\n\nAssistant: Here.\n\nMind: it is hot.", f"{TEA}\n\nAssistant: No.", source="x", margin=2)
    example, report = one(row)
    assert (example.kind, report.formats) == ("preference", {"hh-rlhf": 1})
    assert example.prompt == (user("Tea?"), assistant("Green or black?"), user("Green: what else?"))
    assert example.chosen == (assistant("Here.\n\nMind: it is hot."),)  # a paragraph with a colon is no turn
    assert example.rejected == (assistant("No."),)
    assert (example.margin, dict(example.columns)) == (2.0, {"source": "x"})


def test_the_pair_is_trained_on_the_last_reply_behind_what_the_sampler_sees(chat):
    example, _ = one(pair(f"{TEA}\n\nAssistant: Here.", f"{TEA}\n\nAssistant: No."))
    (encoded,) = encode([example], chat, max_prompt_length=None, max_length=None, report=DataReport())
    asked = [user("Tea?"), assistant("Green or black?"), user("Green: what else?")]
    assert list(encoded.prompt_ids) == chat.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert [chat.decode(answer.ids) for answer in encoded.answers] == ["Here.<eos>\n", "No.<eos>\n"]


def test_a_lone_transcript_is_a_chat():
    example, report = one({"transcript": f"{TEA}\r\n\r\nAssistant:  Milk.  ", "rating": 3})
    assert (example.kind, report.formats) == ("messages", {"transcript": 1})
    assert example.messages == (
        user("Tea?"), assistant("Green or black?"), user("Green: what else?"), assistant("Milk.")
    )  # fmt: skip
    assert dict(example.columns) == {"rating": 3}


def test_turns_of_one_role_in_a_row_are_joined_and_counted():
    """A mark may be part of what is quoted: nothing tells such a paragraph from a turn."""
    quoting = "\n\nHuman: Finish this.\n\nHuman: Who is there?\n\nAssistant: Me."
    example, report = one(pair(quoting, quoting.replace("Me", "Nobody")))
    assert example.prompt == (user("Finish this.\n\nWho is there?"),)
    assert report.noticed[JOINED].first == ["rows:1"]
    assert JOINED not in one(pair(f"{TEA}\n\nAssistant: a", f"{TEA}\n\nAssistant: b"))[1].noticed


def test_a_pair_with_a_prompt_column_stays_two_texts():
    """Some copies split the prompt off already; their texts are used as they are."""
    example, report = one({"prompt": "\n\nHuman: Tea?\n\nAssistant:", **pair(" Yes.", " No.")})
    assert report.formats == {"preference": 1}
    assert (example.prompt, example.chosen) == ("\n\nHuman: Tea?\n\nAssistant:", " Yes.")


def test_sharegpt_turns_become_messages_behind_the_system_column():
    turns = [human("Tea?"), gpt("Yes."), {"from": "user", "value": "Now?"}, {"from": "assistant", "value": "No."}]
    example, report = one({"conversations": turns, "system": "Be brief.", "id": "a_1"})
    assert (example.kind, report.formats) == ("messages", {"sharegpt": 1})
    told = (user("Tea?"), assistant("Yes."), user("Now?"), assistant("No."))
    assert example.messages == ({"role": "system", "content": "Be brief."}, *told)
    assert dict(example.columns) == {"id": "a_1"}
    assert one({"conversations": [{"from": "system", "value": "Be brief."}, *turns]})[0].messages == example.messages
    assert one({"conversations": turns, "system": ""})[0].messages == told


def test_a_turn_may_hold_the_texts_of_both_sides_and_more():
    turns = [{"id": 1, "human": "Tea?", "assistant": "Yes."}, {"id": 2, "human": "Now?", "assistant": "No."}]
    example, report = one({"conversation": turns})
    assert report.formats == {"sharegpt": 1}
    assert example.messages == (user("Tea?"), assistant("Yes."), user("Now?"), assistant("No."))


def test_sharegpt_pairs_have_one_reply_a_side():
    row = {"conversations": [human("Tea?"), gpt("Which?"), human("Green.")], **pair(gpt("Here."), gpt("No."))}
    example, report = one(row)
    assert (example.kind, report.formats) == ("preference", {"sharegpt-preference": 1})
    assert example.prompt == (user("Tea?"), assistant("Which?"), user("Green."))
    assert (example.chosen, example.rejected) == ((assistant("Here."),), (assistant("No."),))


ASKED = "\n\nHuman: Tea?"
GOOD = f"{ASKED}\n\nAssistant: Yes."


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (pair(GOOD, ASKED), r"`rejected` does not end with an assistant turn \(but with a user turn\)"),
        (pair(GOOD, f"{ASKED}\n\nAssistant:"), r"`rejected` has an empty Assistant turn \(turn 2\)"),
        (pair(f"\n\nHuman: \n\n{GOOD.strip()}", GOOD), r"`chosen` has an empty Human turn \(turn 1\)"),
        (pair(GOOD, GOOD), "`chosen` equals `rejected`"),
        (pair(GOOD, f" {GOOD} "), "`chosen` equals `rejected`"),
        (pair(GOOD, GOOD.replace("Tea", "Milk")), "`chosen` and `rejected` differ before the last reply"),
        (pair(GOOD, f"{GOOD}\n\nHuman: So?\n\nAssistant: b"), "differ before the last reply"),
        (pair(GOOD, f"System: Be brief.{GOOD}"), r"`rejected` does not begin with .*`Human:` \(but with 'System: Be"),
        (pair(GOOD, "Yes."), "`rejected` does not begin with `Human:`"),
        (pair(GOOD, ""), "`rejected` is empty"),
        (pair("\n\nAssistant: Yes.", GOOD), "`chosen` begins with an assistant turn"),
        (pair(GOOD, {"role": "assistant"}), "`rejected` is not a string"),
        ({"transcript": ASKED}, "`transcript` does not end with an assistant turn"),
        (
            {"conversations": [human("a"), {"from": "bard", "value": "b"}]},
            r"`conversations` has an unknown role in `from` \('bard' in turn 2",
        ),
        ({"conversations": [human("a"), {"value": "b"}]}, r"`conversations`: a turn has no `from` \(turn 2\)"),
        ({"conversations": [human("a"), gpt(" ")]}, r"`conversations` has an empty gpt turn \(turn 2\)"),
        (
            {"conversations": [human("a"), gpt(None)]},
            r"`conversations`: `value` is not a string \(found NoneType in",
        ),
        ({"conversations": [human("a"), gpt("b"), human("c")]}, "`conversations` does not end with an assistant turn"),
        ({"conversations": [gpt("b"), human("c"), gpt("d")]}, "`conversations` begins with an assistant turn"),
        (
            {"conversations": [{"from": "system", "value": "s"}, human("a"), gpt("b")], "system": "t"},
            "both a `system` column and a system message",
        ),
        ({"conversations": [human("a")], **pair(gpt("b"), gpt("b"))}, "`chosen` equals `rejected`"),
        (
            {"conversations": [human("a")], **pair(gpt("b"), human("c"))},
            r"`rejected` is not a gpt turn \(its role is user",
        ),
        ({"conversations": [human("a")], **pair(gpt("b"), "c")}, "`rejected`: a turn has no `from`"),
        (
            {"conversations": [human("a"), gpt("b")], **pair(gpt("c"), gpt("d"))},
            "`conversations` does not end with a human turn",
        ),
    ],
)
def test_a_broken_dialogue_is_named_with_its_row_and_column(row, said):
    with pytest.raises(DataError, match=said) as caught:
        load_examples([row])
    assert caught.value.what.startswith("rows, row 1: ")
    assert "on_bad_row" in caught.value.remedy


def test_a_row_that_is_no_transcript_among_many_is_named():
    rows = [pair(GOOD, f"{ASKED}\n\nAssistant: No {i}.") for i in range(9)]
    with pytest.raises(DataError, match=r"row 4: .* hh-rlhf .* 9 of 10 sampled rows"):
        load_examples([*rows[:3], pair("Yes.", "No."), *rows[3:]])
    with pytest.raises(DataError, match="row 4: `chosen` does not begin with `Human:`"):
        load_examples([*rows[:3], pair("Yes.", GOOD), *rows[3:]])
