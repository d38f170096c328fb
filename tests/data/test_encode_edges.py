"""Ids at their limits: lengths that just fit, sides that are just lopsided, and what is cut."""

from typing import Any

import pytest

from rung.data.encode import encode, encode_prompt
from rung.data.records import Encoded, Message, make_example
from rung.data.report import DataReport
from rung.data.tokens import continuation_tokens, overlapping, with_eos
from rung.errors import DataError
from rung.tiny.tokenizers import EOS_ID, bpe, byte

TOKENIZER = byte()


def pair(i: int, chosen: int, rejected: int):
    """A pair whose sides have so many letters; with EOS one token more."""
    return make_example("preference", f"x:{i}", {}, prompt=f"{i}", chosen="a" * chosen, rejected="b" * rejected)


def encoded(examples, **settings) -> tuple[list[Encoded], DataReport]:
    report = DataReport()
    limits: dict[str, Any] = {"max_prompt_length": None, "max_length": None, **settings}
    return encode(examples, TOKENIZER, report=report, **limits), report


@pytest.mark.parametrize(
    ("pairs", "longer", "told"),
    [
        (50, 0, "0%"),
        (49, 0, None),
        (100, 34, "34%"),
        (100, 35, None),
        (100, 50, None),
        (100, 65, None),
        (100, 66, "66%"),
        (50, 50, "100%"),
    ],
)
def test_a_share_of_longer_sides_beyond_35_to_65_per_cent_is_told(pairs: int, longer: int, told: str | None) -> None:
    _, report = encoded([pair(i, 2 if i < longer else 1, 1 if i < longer else 2) for i in range(pairs)])
    if told is None:
        assert report.warnings == []
    else:
        assert report.warnings == [
            f"the chosen side is longer in {told} of the pairs: length alone predicts the preference"
        ]


def test_sides_of_equal_length_are_no_longer_ones() -> None:
    _, report = encoded([pair(i, 1, 1) for i in range(50)])
    assert "0%" in report.warnings[0]


def test_rows_of_one_answer_have_no_sides() -> None:
    rows = [make_example("prompt-completion", f"x:{i}", {}, prompt="a", completion="b") for i in range(50)]
    assert encoded(rows)[1].warnings == []


def test_rows_are_counted_and_measured() -> None:
    """Prompt of 1 byte, sides of 2 and 4 letters with EOS."""
    made, report = encoded([pair(1, 2, 4), pair(2, 3, 5)])
    assert [one.num_tokens for one in made] == [1 + 3 + 5, 1 + 4 + 6]
    assert report.encoded == 2
    assert report.lengths == {"prompt": [1, 1], "completion": [3, 5, 4, 6]}


@pytest.mark.parametrize(("limit", "kept"), [(6, 1), (5, 0)])
def test_the_longest_side_must_fit(limit: int, kept: int) -> None:
    """1 + 5 tokens."""
    made, report = encoded([pair(1, 2, 4), pair(2, 1, 2)], max_length=limit)
    assert len(made) == 1 + kept
    assert report.num_dropped == 1 - kept
    if not kept:
        assert list(report.dropped) == ["prompt and completion are longer than max_length 5"]


@pytest.mark.parametrize(("limit", "kept"), [(3, 2), (2, 1)])
def test_a_prompt_may_be_as_long_as_its_limit(limit: int, kept: int) -> None:
    prompts = [make_example("prompt", f"x:{i}", {}, prompt="a" * (i + 2)) for i in range(2)]
    made, report = encoded(prompts, max_prompt_length=limit)
    assert len(made) == kept
    assert report.num_dropped == 2 - kept


def test_a_prompt_that_leaves_no_token_for_an_answer_is_dropped() -> None:
    rows = [make_example("prompt-completion", f"x:{n}", {}, prompt="a" * n, completion="b") for n in (1, 3, 4)]
    made, report = encoded(rows, max_length=4, on_overlong="truncate")
    assert [len(one.answers[0].ids) for one in made] == [2, 1]
    cause = "the prompt leaves no room for a completion within max_length 4"
    assert list(report.dropped) == [cause]
    assert list(report.noticed) == ["truncated to max_length 4"]
    with pytest.raises(DataError, match=rf"x, row 4: {cause} \(4 tokens\)") as caught:
        encoded(rows[2:], max_length=4, on_overlong="error")
    assert "on_overlong: drop" in caught.value.remedy


def test_raw_text_has_no_prompt_limit_and_needs_two_tokens() -> None:
    text = make_example("text", "x:1", {}, text="abcd")
    (one,), _ = encoded([text], max_prompt_length=0)
    assert one.prompt_ids == (TOKENIZER.bos_token_id,)
    assert one.answers[0].ids == (*TOKENIZER.encode("abcd"), EOS_ID)
    assert one.answers[0].trained == (True,) * 5


def test_a_row_without_a_token_is_an_error_or_is_counted() -> None:
    rows = [make_example("prompt", "x:1", {}, prompt=""), make_example("prompt", "x:2", {}, prompt="a")]
    with pytest.raises(DataError, match="x, row 1: the prompt has no token"):
        encoded(rows)
    made, report = encoded(rows, on_bad_row="skip", max_bad_share=0.5)
    assert [one.source for one in made] == ["x:2"]
    assert report.dropped["the prompt has no token"].first == ["x:1"]
    with pytest.raises(DataError, match="no example is left to train on"):
        encoded(rows[:1], on_bad_row="skip")


def test_equal_sides_are_refused_by_their_kind() -> None:
    same = make_example("preference", "x:1", {}, prompt="a", chosen="b", rejected="b")
    several = make_example("ranking", "x:2", {}, prompt="a", completions=("b", "c", "b"))
    for row, said in ((same, "`chosen` equals `rejected`"), (several, "two of `completions` are equal")):
        with pytest.raises(DataError, match=said):
            encoded([row])


def test_a_cut_that_makes_answers_equal_drops_the_row() -> None:
    rows = [make_example("ranking", "x:1", {}, prompt="a", completions=("bc", "bd", "x")), pair(2, 1, 1)]
    _, report = encoded(rows, max_length=3, on_overlong="truncate")
    assert list(report.dropped) == []
    _, report = encoded(rows, max_length=2, on_overlong="truncate")
    assert list(report.dropped) == ["two of `completions` are equal after truncation"]


def test_a_conversation_trains_the_assistant_or_everything_behind_its_prompt() -> None:
    said = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    messages = tuple(Message(role=role, content=text) for role, text in said)
    row = make_example("messages", "x:1", {}, messages=messages)
    (one,), _ = encoded([row])
    (whole,), _ = encoded([row], assistant_only=False)
    assert one.prompt_ids == whole.prompt_ids == encode_prompt(messages[:1], TOKENIZER)
    assert one.answers[0].ids == whole.answers[0].ids
    letters = TOKENIZER.encode("bd")
    assert [i for i, now in zip(one.answers[0].ids, one.answers[0].trained, strict=True) if now] == [
        letters[0],
        EOS_ID,
        letters[1],
        EOS_ID,
    ]
    assert all(whole.answers[0].trained)


def test_an_end_that_the_tokenizer_adds_is_taken_off_the_prompt_alone(build) -> None:
    """Three letters stay, and so does an end that was written."""
    tokenizer = build(adds_eos=True)
    letters = tokenizer.encode("abc", add_special_tokens=False)
    assert encode_prompt("abc", tokenizer) == tuple(letters)
    assert encode_prompt("abc<eos>", tokenizer)[: len(letters) + 1] == (*letters, tokenizer.eos_token_id)
    assert len(encode_prompt("", tokenizer)) == 1
    assert encode_prompt("a<pad>", build()) == (letters[0], tokenizer.pad_token_id)


def test_a_text_behind_another_has_no_space_of_its_own() -> None:
    """This tokenizer writes a space before every text; characters are counted without it."""
    tokenizer = bpe(["take one tablet by mouth"] * 9, size=300)
    ids, spans = continuation_tokens("take one", tokenizer)
    assert "".join("take one"[start:end] for start, end in spans) == "take one"
    assert spans[-1][1] == 8
    assert tokenizer.convert_ids_to_tokens(ids)[0] != tokenizer.tokenize("take one")[0]


def test_a_span_is_said_where_one_character_of_it_is() -> None:
    spans = [(0, 2), (2, 3), (3, 3), (3, 6)]
    assert overlapping(spans, [(1, 2)]) == [True, False, False, False]
    assert overlapping(spans, [(0, 1), (5, 6)]) == [True, False, False, True]
    assert overlapping(spans, [(6, 9)]) == [False] * 4
    assert overlapping(spans, []) == [False] * 4
    assert overlapping([], [(0, 1)]) == []


def test_eos_ends_what_does_not_end_with_it_whichever_ids_it_has() -> None:
    tokenizer = byte()
    eos = tokenizer.eos_token_id
    assert isinstance(eos, int)
    assert [with_eos(ids, tokenizer) for ids in ([eos - 1], [eos + 1], [eos, eos + 1], [], [7, eos], [eos])] == [
        [eos - 1, eos],
        [eos + 1, eos],
        [eos, eos + 1, eos],
        [eos],
        [7, eos],
        [eos],
    ]
    tokenizer.eos_token = None
    assert with_eos([7], tokenizer) == [7]
