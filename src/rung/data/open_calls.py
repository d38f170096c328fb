"""A prompt that ends with a tool call, whose result is the first turn of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from rung.data.records import BadRow, Message, Messages


def has_open_call(prompt: Messages) -> bool:
    """Whether the results of a tool call may follow the prompt: it ends with the call, or with a result of it.

    >>> call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    >>> user, result = {"role": "user", "content": "?"}, {"role": "tool", "content": "1"}
    >>> has_open_call((user, call)), has_open_call((user, call, result)), has_open_call((user, result))
    (True, True, False)
    """
    return bool(prompt[_last_turn(prompt)].get("tool_calls"))


def check_not_open(prompt: Messages) -> None:
    """Raises `BadRow` for a prompt that ends with a tool call: an assistant turn can only follow its result."""
    if prompt[-1].get("tool_calls"):
        raise BadRow("the prompt ends with a tool call", "an answer can only follow its result")


def with_call_in_answers(prompt: Messages, answers: Sequence[Messages]) -> tuple[Messages, list[Messages]]:
    """The prompt and the answers, with the open call of the prompt at the start of each answer, not to be trained.

    Nothing is moved unless an answer begins with a result. No completion is ever sampled after such a prompt. Many
    templates write a call differently once its result follows, so only the whole chat shows where the call ends.
    """
    call = _last_turn(prompt)
    follows = any(answer[0]["role"] == "tool" for answer in answers) and all(map(_has_assistant, answers))
    if call < 1 or not has_open_call(prompt) or not follows:
        return prompt, list(answers)
    moved = (cast(Message, {**prompt[call], "weight": 0}), *prompt[call + 1 :])
    return prompt[:call], [(*moved, *answer) for answer in answers]


def _has_assistant(answer: Messages) -> bool:
    return any(message["role"] == "assistant" for message in answer)


def _last_turn(prompt: Messages) -> int:
    """The number of the last message that is no result of a tool; 0 if there is none."""
    return next((i for i in reversed(range(len(prompt))) if prompt[i]["role"] != "tool"), 0)
