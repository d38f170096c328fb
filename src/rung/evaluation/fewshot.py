"""Few-shot prompts: solved examples (shots) before the question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rung.data.records import BadRow, Example, Messages, Text, as_prompt
from rung.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEPARATOR = "\n\n"  # after each shot in a string prompt


def question(example: Example) -> Text:
    """The prompt of an example, or its conversation without the last turn. Raises DataError for raw text."""
    asked = as_prompt(example).prompt
    assert asked is not None, "every example except raw text has a prompt"
    return asked


def answer(example: Example) -> Text | None:
    """The reference answer of an example (of a pair, the chosen completion); None if it has no answer."""
    if example.messages is not None:
        return example.messages[-1:]
    return example.completion if example.completion is not None else example.chosen


def with_shots(example: Example, shots: Sequence[Example]) -> Text:
    """The few-shot prompt: the questions and answers of `shots`, in their order, and then the question of `example`.

    In chat format, the shots become user and assistant turns after the system message of `example`; their own system
    messages are dropped. In string format, each shot is its prompt and completion, followed by a blank line. Raises
    DataError for a shot without an answer, and for a mix of chat and string formats.
    """
    asked = question(example)
    if isinstance(asked, str):
        return "".join(_as_text(shot) + SEPARATOR for shot in shots) + asked
    system = tuple(message for message in asked[:1] if message["role"] == "system")
    turns = tuple(message for shot in shots for message in _as_turns(shot))
    return (*system, *turns, *asked[len(system) :])


def encode_question(example: Example, shots: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The token ids of the few-shot prompt. Raises DataError, naming the row, if it cannot be rendered or is empty."""
    from rung.data.encode import encode_prompt

    asked = with_shots(example, shots)
    try:
        return encode_prompt(asked, tokenizer, tools=example.tools, variables=example.template_variables)
    except BadRow as fault:
        raise DataError(f"{example.place}: {fault}", f"{fault.remedy}, or leave it out") from fault
    except DataError as fault:
        raise DataError(f"{example.place}: {fault.what}", fault.remedy) from fault


def last_text(text: str | Sequence[Mapping[str, Any]]) -> str:
    """A short form of a prompt or an answer for readers: the string itself, or the content of the last message.

    >>> last_text(({"role": "system", "content": "be brief"}, {"role": "user", "content": "2 + 2?"}))
    '2 + 2?'
    """
    if isinstance(text, str):
        return text
    return str(text[-1].get("content") or "") if text else ""


def _as_text(shot: Example) -> str:
    asked, answered = question(shot), _answered(shot)
    if not isinstance(asked, str) or not isinstance(answered, str):
        raise DataError(
            f"{shot.place}: a chat example is used as a shot for a string prompt", "give both the same format"
        )
    return asked + answered


def _as_turns(shot: Example) -> Messages:
    asked, answered = question(shot), _answered(shot)
    if isinstance(asked, str) or isinstance(answered, str):
        raise DataError(
            f"{shot.place}: a string example is used as a shot for a chat prompt", "give both the same format"
        )
    return tuple(message for message in (*asked, *answered) if message["role"] != "system")


def _answered(shot: Example) -> Text:
    answered = answer(shot)
    if answered is None:
        raise DataError(f"{shot.place}: this shot has no answer", "take shots from rows that have a completion")
    return answered
