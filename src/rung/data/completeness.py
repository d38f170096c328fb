"""Checks that a rendered chat has everything that its messages say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from rung.data.records import Message, TemplateFault
from rung.data.templates import Chat

_THINK = re.compile(r"(</?think>)")
REASONING = ("reasoning_content", "reasoning", "thinking")  # names of one field; templates read different ones
SHOWN = 40  # characters of a text in a message
LONG = 8  # characters of a text that no template writes by itself
TWICE = "the chat template writes a message twice"
NO_TOOLS = "the chat template leaves out the tools"
QUOTED = "the chat template writes the arguments of a call as a text in quotes"
ABOUT_TOOLS = (NO_TOOLS, QUOTED)


def map_pieces(message: Message, change: Callable[[str], str]) -> Message:
    """The message with `change` applied to each of its pieces: texts that every rendering should contain.

    The pieces are reasoning, content without the white space around it, content split at `<think>` and `</think>`
    (which templates move and rewrite), and the names of called functions. The order is that of most templates.
    """
    changed: dict[str, Any] = dict(message)
    reasoning = next((name for name in REASONING if message.get(name)), None)
    if reasoning is not None:
        changed[reasoning] = _map_core(str(changed[reasoning]), change)
    is_assistant = message["role"] == "assistant"
    parts = _THINK.split(message["content"]) if is_assistant else [message["content"]]
    changed["content"] = "".join(part if _THINK.fullmatch(part) else _map_core(part, change) for part in parts)
    calls = message.get("tool_calls")
    if calls:
        changed["tool_calls"] = [_map_call(call, change) for call in calls]
    return cast(Message, changed)


def pieces(message: Message) -> list[str]:
    """The pieces of a message (see `map_pieces`).

    >>> pieces({"role": "assistant", "content": "<think>\\nTwo and two.\\n</think>\\n\\nFour."})
    ['Two and two.', 'Four.']
    """
    found: list[str] = []
    map_pieces(message, lambda piece: found.append(piece) or piece)
    return found


def function_names(message: Message) -> list[str]:
    """The names of the functions that a message calls."""
    return [call["function"]["name"] for call in message.get("tool_calls", ())]


def end_of_messages(messages: Sequence[Message], text: str, start: int = 0) -> int:
    """Where the pieces of `messages` end in `text`, in which each message follows the one before it.

    The search begins at `start`. Raises `BadRow` if the text leaves out a piece of a message or an argument of a call,
    or writes a piece twice.
    """
    _check_once(messages, text[start:])
    for message in messages:
        ends = [start]
        for piece in pieces(message):
            found = _find(piece, text, start)
            if found is None:
                raise TemplateFault(cause_left_out(message), f"{piece!r:.{SHOWN}}")
            ends.append(found)
        for value in _argument_values(message):
            if not any(form in text for form in value):
                raise TemplateFault("the chat template leaves out an argument of a tool call", f"{value[0]!r:.{SHOWN}}")
        start = max(ends)
    return start


def _check_once(messages: Sequence[Message], text: str) -> None:
    """Raises `BadRow` for a long piece that is more often in the text than in the messages; short ones may be marks."""
    said = "\0".join(json.dumps(message, ensure_ascii=False) for message in messages)
    for message in messages:
        names = function_names(message)
        for piece in (piece for piece in pieces(message) if piece not in names):
            if len(piece) >= LONG and text.count(piece) > said.count(json.dumps(piece, ensure_ascii=False)[1:-1]):
                raise TemplateFault(TWICE, f"{piece!r:.{SHOWN}}")


def check_prompt_text(chat: Chat, text: str) -> None:
    """Raises `BadRow` if `text` leaves out a tool, or a message that is not the assistant's, wherever it stands.

    It is also raised for the arguments of a call as JSON inside a JSON text. Templates may leave out reasoning of
    earlier turns, and move the system message.
    """
    for message in chat.messages:
        missing = next((piece for piece in pieces(message) if _find(piece, text, 0) is None), None)
        if message["role"] != "assistant" and missing is not None:
            raise TemplateFault(cause_left_out(message), f"{missing!r:.{SHOWN}}")
        quoted = next((quotation for quotation in _quoted_arguments(message) if quotation in text), None)
        if quoted is not None:
            raise TemplateFault(QUOTED, quoted[:SHOWN])
    for tool in chat.tools:
        name = str(tool.get("function", tool).get("name", ""))
        if name not in text:
            raise TemplateFault(NO_TOOLS, f"it does not write `{name}`")


def cause_left_out(message: Message) -> str:
    """The cause of a `BadRow` for a message that a template leaves out."""
    who = "what the assistant says" if message["role"] == "assistant" else f"a {message['role']} turn"
    return f"the chat template leaves out {who}"


def _find(piece: str, text: str, start: int) -> int | None:
    """Where `piece` ends in `text`: as it is, or escaped as in JSON (some templates write tool results as JSON)."""
    for form in dict.fromkeys((piece, json.dumps(piece, ensure_ascii=False)[1:-1], json.dumps(piece)[1:-1])):
        found = text.find(form, start)
        if found >= 0:
            return found + len(form)
    return None


def _argument_values(message: Message) -> Iterator[tuple[str, ...]]:
    """The forms in which a template may write each key and value of the arguments of tool calls."""
    for call in message.get("tool_calls", ()):
        for value in _leaves(call["function"]["arguments"]):
            yield (str(value), json.dumps(value, ensure_ascii=False)) + ((value,) if isinstance(value, str) else ())


def _quoted_arguments(message: Message) -> Iterator[str]:
    """What a template writes that encodes the arguments of a call a second time, without the quotation marks."""
    for call in message.get("tool_calls", ()):
        if call["function"]["arguments"]:
            yield json.dumps(json.dumps(call["function"]["arguments"], ensure_ascii=False), ensure_ascii=False)[1:-1]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def _map_call(call: Any, change: Callable[[str], str]) -> Any:
    return {**call, "function": {**call["function"], "name": change(call["function"]["name"])}}


def _map_core(text: str, change: Callable[[str], str]) -> str:
    core = text.strip()
    if not core:
        return text
    start = text.index(core)
    return text[:start] + change(core) + text[start + len(core) :]
