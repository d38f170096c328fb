"""Formats of dialogues whose turns have other keys than messages: ShareGPT and pairs of human and assistant."""

from typing import Any

from rung.data.fields import Columns, answered, check_differ, has, margin, unused_columns, with_system
from rung.data.formats.format import Format
from rung.data.messages import WEIGHTS, conversation, parsed
from rung.data.records import BadRow, Example, Messages, make_example

NAMES = ("conversations", "conversation")
_FROM = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}


def _name_and_turns(row: Columns) -> tuple[str, object]:
    name = next((name for name in NAMES if has(row, name)), NAMES[0])
    return name, parsed(row.get(name))


def is_dialogue(row: Columns) -> bool:
    """Whether the column `conversations` or `conversation` has turns of a known form."""
    _, turns = _name_and_turns(row)
    return isinstance(turns, list) and any(_is_turn(turn) for turn in turns)


def _is_turn(turn: object) -> bool:
    return isinstance(turn, dict) and ("from" in turn or "role" in turn or {"human", "assistant"} <= turn.keys())


def dialogue(row: Columns) -> tuple[str, Messages]:
    """The name of the column with the dialogue, and its messages after the column `system`, if this is not empty."""
    name, turns = _name_and_turns(row)
    if not isinstance(turns, list) or not turns:
        raise BadRow(f"`{name}` is not a list with at least one turn")
    found = [message for number, turn in enumerate(turns, 1) for message in _messages_of(turn, name, number)]
    return name, with_system(conversation(found, name), row)


def _messages_of(turn: Any, name: str, number: int) -> list[dict[str, Any]]:
    """The messages of a turn: one, or two of a turn that has the texts of both sides."""
    if isinstance(turn, dict) and "from" not in turn:
        if "role" in turn:
            return [turn]
        if {"human", "assistant"} <= turn.keys():
            sides = (("user", turn["human"]), ("assistant", turn["assistant"]))
            return [{"role": role, "content": content} for role, content in sides]
    return [_turn(turn, name, number)]


def _turn(turn: Any, name: str, number: int) -> dict[str, Any]:
    """Converts a ShareGPT turn to a message, which `conversation` has still to check."""
    where = f"turn {number}"
    if not isinstance(turn, dict) or not isinstance(turn.get("from"), str):
        raise BadRow(f"`{name}`: a turn has no `from`", where)
    speaker, text = turn["from"], turn.get("value")
    if speaker not in _FROM:
        raise BadRow(
            f"`{name}` has an unknown role in `from`", f"{speaker!r:.40} in {where}; the roles are {', '.join(_FROM)}"
        )
    weights = {key: turn[key] for key in WEIGHTS if key in turn}
    if speaker == "function_call":
        return {"role": "assistant", "content": None, "tool_calls": _calls(text, name, where)} | weights
    if not isinstance(text, str):
        raise BadRow(f"`{name}`: `value` is not a string", f"found {type(text).__name__} in {where}")
    if not text.strip() and speaker != "system":
        raise BadRow(f"`{name}` has an empty {speaker} turn", where)
    return {"role": _FROM[speaker], "content": text} | weights


def _calls(value: object, name: str, where: str) -> list[Any]:
    """The tool calls of a function_call turn: the JSON text of one call, or of a list of them."""
    calls = parsed(value)
    if isinstance(calls, dict):
        calls = [calls]
    if not isinstance(calls, list) or not calls:
        raise BadRow(f"`{name}`: a function_call turn is not JSON with `name` and `arguments`", where)
    return calls


def _sharegpt(row: Columns, source: str) -> list[Example]:
    name, messages = dialogue(row)
    columns = unused_columns(row, name, "system")
    return [make_example("messages", source, columns, messages=answered(messages, name))]


def _reply(row: Columns, name: str) -> Messages:
    reply = conversation([_turn(row.get(name), name, 1)], name)
    if reply[0]["role"] != "assistant":
        raise BadRow(f"`{name}` is not a gpt turn", f"its role is {reply[0]['role']}")
    return reply


def _sharegpt_preference(row: Columns, source: str) -> list[Example]:
    name, prompt = dialogue(row)
    chosen, rejected = _reply(row, "chosen"), _reply(row, "rejected")
    check_differ(chosen, rejected)
    if prompt[-1]["role"] not in ("user", "tool"):
        raise BadRow(f"`{name}` does not end with a human turn", "`chosen` and `rejected` must answer one")
    columns = unused_columns(row, name, "system", "chosen", "rejected", "margin")
    return [
        make_example("preference", source, columns, prompt=prompt, chosen=chosen, rejected=rejected, margin=margin(row))
    ]


# The other columns must be absent, not just null: a pair with missing sides is not a conversation.
SHAREGPT = Format(
    "sharegpt",
    "conversations (or conversation) with from and value",
    lambda row: is_dialogue(row) and row.keys().isdisjoint({"chosen", "rejected", "kto_tag"}),
    _sharegpt,
    priority=110,
)
SHAREGPT_PREFERENCE = Format(
    "sharegpt-preference",
    "conversations with from and value, chosen and rejected as one turn each",
    lambda row: is_dialogue(row) and has(row, "chosen", "rejected"),
    _sharegpt_preference,
    priority=50,
)
