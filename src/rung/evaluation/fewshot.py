"""Prompts that show worked examples before the question: few-shot prompting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rung.data.records import BadRow, Example, Messages, Text, as_prompt
from rung.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEPARATOR = "\n\n"  # between worked examples of a string prompt


def question(example: Example) -> Text:
    """What the model is asked: the prompt, or a conversation up to its last turn. Raises DataError for raw text."""
    asked = as_prompt(example).prompt
    assert asked is not None, "all but raw text has a prompt"
    return asked


def answer(example: Example) -> Text | None:
    """The worked answer of an example, the preferred one of a pair; None where it has none."""
    if example.messages is not None:
        return example.messages[-1:]
    return example.completion if example.completion is not None else example.chosen


def with_shots(example: Example, shots: Sequence[Example]) -> Text:
    """The question of `example` after the questions and answers of `shots`, in their order.

    Chat: the shots are earlier user and assistant turns, behind the system message of `example`; their own system
    messages are left out. Strings: each shot's prompt and completion, joined as they are, and a blank line.
    Raises DataError for a shot without an answer, and where one is chat and the other is not.
    """
    asked = question(example)
    if isinstance(asked, str):
        return "".join(_as_text(shot) + SEPARATOR for shot in shots) + asked
    system = tuple(message for message in asked[:1] if message["role"] == "system")
    turns = tuple(message for shot in shots for message in _as_turns(shot))
    return (*system, *turns, *asked[len(system) :])


def encode_question(example: Example, shots: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What the model reads of `with_shots`; DataError, naming the row, where it cannot be rendered or has no token."""
    from rung.data.encode import encode_prompt

    asked = with_shots(example, shots)
    try:
        return encode_prompt(asked, tokenizer)
    except BadRow as fault:
        raise DataError(f"{example.source}: {fault}", "mend the row, or leave it out") from fault
    except DataError as fault:
        raise DataError(f"{example.source}: {fault.what}", fault.remedy) from fault


def last_text(text: str | Sequence[Mapping[str, Any]]) -> str:
    """What a reader sees of a prompt or an answer: the text, or that of the last message.

    >>> last_text(({"role": "system", "content": "be brief"}, {"role": "user", "content": "2 + 2?"}))
    '2 + 2?'
    """
    if isinstance(text, str):
        return text
    return str(text[-1].get("content") or "") if text else ""


def _as_text(shot: Example) -> str:
    asked, answered = question(shot), _answered(shot)
    if not isinstance(asked, str) or not isinstance(answered, str):
        raise DataError(f"{shot.source}: a chat example is shown to a string prompt", "give both one format")
    return asked + answered


def _as_turns(shot: Example) -> Messages:
    asked, answered = question(shot), _answered(shot)
    if isinstance(asked, str) or isinstance(answered, str):
        raise DataError(f"{shot.source}: a string example is shown to a chat prompt", "give both one format")
    return tuple(message for message in (*asked, *answered) if message["role"] != "system")


def _answered(shot: Example) -> Text:
    answered = answer(shot)
    if answered is None:
        raise DataError(f"{shot.source}: a shot without an answer", "take shots from rows that have a completion")
    return answered
