"""Rows with one answer: which turns a labelled conversation needs, and where a template has a place for what."""

from __future__ import annotations

import pytest

from rung.data.load import load_examples
from rung.errors import DataError

USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("turns", "said"),
    [([ASSISTANT], "row 9"), ([USER], "row 9"), ([USER, ASSISTANT, USER], "row 9: `messages` does not end with")],
)
def test_a_labelled_conversation_ends_with_an_answer_to_something(turns: list[dict[str, str]], said: str) -> None:
    good = {"messages": [USER, ASSISTANT], "label": True}
    with pytest.raises(DataError, match=said):
        load_examples([good] * 8 + [{"messages": turns, "label": False}])


def test_a_labelled_conversation_is_its_last_answer_and_what_was_asked() -> None:
    rows = [{"messages": [USER, ASSISTANT, USER, ASSISTANT], "label": label, "topic": "x"} for label in (True, False)]
    examples, _ = load_examples(rows)
    assert [example.label for example in examples] == [True, False]
    for example in examples:
        assert [message["content"] for message in example.prompt or ()] == ["a", "b", "a"]  # type: ignore[index]
        assert [message["content"] for message in example.completion or ()] == ["b"]  # type: ignore[index]
        assert dict(example.columns) == {"topic": "x"}


@pytest.mark.parametrize("labels", [(1, 0), (True, False), ("true", "false"), ("1", "0")])
def test_a_class_of_a_text_is_an_answer_and_no_verdict(labels: tuple[object, object]) -> None:
    examples, _ = load_examples([{"text": str(i), "label": label} for i, label in enumerate(labels)])
    assert [(example.kind, example.prompt, example.completion) for example in examples] == [
        ("prompt-completion", str(i), str(label)) for i, label in enumerate(labels)
    ]
