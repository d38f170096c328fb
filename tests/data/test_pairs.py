"""Pairs of conversations: which turns are the prompt where none is given, and what is taken off an answer."""

from __future__ import annotations

import pytest

from rung.data.load import load_examples
from rung.data.records import Example
from rung.errors import DataError


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def pair(chosen: list[dict[str, str]], rejected: list[dict[str, str]], **columns: object) -> Example:
    (example,) = load_examples([{"chosen": chosen, "rejected": rejected, **columns}])[0]
    return example


def words(turns: object) -> str:
    assert isinstance(turns, tuple)
    return "".join(message["content"] for message in turns)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "sides"),
    [
        ("ab", "ac", "a", ("b", "c")),
        ("ab", "abcd", "a", ("b", "bcd")),  # the shorter side keeps an answer
        ("abcd", "ab", "a", ("bcd", "b")),
        ("abcd", "abce", "abc", ("d", "e")),
        ("abcd", "axcd", "a", ("bcd", "xcd")),
    ],
)
def test_the_prompt_of_two_conversations_is_what_both_begin_with_but_their_last_answer(
    chosen: str, rejected: str, prompt: str, sides: tuple[str, str]
) -> None:
    turns = [[(user, assistant)[i % 2](text) for i, text in enumerate(side)] for side in (chosen, rejected)]
    example = pair(*turns)
    assert words(example.prompt) == prompt
    assert (words(example.chosen), words(example.rejected)) == sides


def test_conversations_that_share_nothing_need_a_prompt() -> None:
    with pytest.raises(DataError, match="share no leading message") as caught:
        pair([user("a"), assistant("b")], [user("x"), assistant("b")])
    assert "add a `prompt`" in str(caught.value)


def test_a_prompt_may_be_repeated_in_an_answer_and_need_not_be() -> None:
    asked = [user("a")]
    for chosen in ([assistant("b")], [*asked, assistant("b")]):
        example = pair(chosen, [*asked, assistant("c")], prompt=asked)
        assert (words(example.prompt), words(example.chosen), words(example.rejected)) == ("a", "b", "c")
    with pytest.raises(DataError, match="`rejected` has only the prompt"):
        pair([assistant("b")], asked, prompt=asked)
    with pytest.raises(DataError, match="`chosen` begins with a user turn"):
        pair([user("z"), assistant("b")], [assistant("c")], prompt=asked)


def test_a_prompt_as_text_is_the_turn_with_which_both_sides_begin() -> None:
    asked = [user(" a\n")]
    example = pair([*asked, assistant("b")], [*asked, assistant("c")], prompt="a")
    assert (words(example.prompt), words(example.chosen)) == (" a\n", "b")
    only = pair([assistant("b")], [assistant("c")], prompt="a")
    assert (words(only.prompt), words(only.chosen), words(only.rejected)) == ("a", "b", "c")
    for other in ("other", "A", "aa"):
        with pytest.raises(DataError, match="do not have the text of `prompt`"):
            pair([*asked, assistant("b")], [*asked, assistant("c")], prompt=other)


@pytest.mark.parametrize(
    ("completions", "said"),
    [
        (["b"], "at least two completions"),
        (["b", "c", "b"], "numbers 1 and 3"),
        (["c", "b", "b"], "numbers 2 and 3"),
        (["b", 1], r"completions\[2\]"),
    ],
)
def test_a_ranking_has_two_different_completions_or_more(completions: list[object], said: str) -> None:
    good = {"prompt": "a", "completions": ["b", "c"]}
    with pytest.raises(DataError, match=said):
        load_examples([good, {"prompt": "a", "completions": completions}])


def test_equal_sides_and_texts_without_a_prompt_are_refused() -> None:
    with pytest.raises(DataError, match="`chosen` equals `rejected`"):
        load_examples([{"prompt": "a", "chosen": "b", "rejected": "b"}])
    with pytest.raises(DataError, match="texts without a `prompt`"):
        load_examples([{"chosen": "b", "rejected": "c"}])
