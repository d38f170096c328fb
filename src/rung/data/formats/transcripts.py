"""Formats of dialogues that are not lists of messages: HH-RLHF transcripts and ShareGPT turns."""

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from rung.data.fields import Columns, answered, has, margin, string, unused_columns, with_system
from rung.data.formats.format import Format
from rung.data.records import BadRow, Example, Message, Messages, make_example

JOINED = "consecutive turns of one role are joined"
_MARK = re.compile(r"(?:\A\s*|\n\r?\n)(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_FROM = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def transcript(text: object, name: str) -> Messages:
    """The messages of a transcript, in which every turn begins with `Human:` or `Assistant:` after a blank line.

    Consecutive turns of one role are joined, since a mark may be part of a quotation. Raises `BadRow`, with the name
    of the column, if the text does not begin with `Human:`, has an empty turn, or does not end with an assistant turn.

    >>> [turn["content"] for turn in transcript("\\n\\nHuman: Why?\\n\\nAssistant: Because.", "chosen")]
    ['Why?', 'Because.']
    """
    head, *parts = _MARK.split(string(text, name))
    if head.strip():
        raise BadRow(f"`{name}` does not begin with `Human:`", f"but with {head.strip()!r:.40}")
    turns: list[Message] = []
    for number, (speaker, part) in enumerate(zip(parts[::2], parts[1::2], strict=True), 1):
        content = part.strip()
        if not content:
            raise BadRow(f"`{name}` has an empty {speaker} turn", f"turn {number}")
        if turns and turns[-1]["role"] == _SPEAKERS[speaker]:
            content = f"{turns.pop()['content']}\n\n{content}"
        turns.append(Message(role=_SPEAKERS[speaker], content=content))
    return answered(tuple(turns), name)


def is_hh_rlhf(row: Columns) -> bool:
    """Whether the row is a pair without a prompt, of which at least one side is a transcript."""
    sides = (row.get("chosen"), row.get("rejected"))
    return None not in sides and not has(row, "prompt") and any(map(_is_transcript, sides))


def _is_transcript(value: object) -> bool:
    return isinstance(value, str) and _MARK.search(value) is not None


def _joined_turns(*names: str) -> Callable[[Columns], str]:
    """A function for `Format.notice` that remarks on rows with consecutive turns of one role in the given columns."""

    def notice(row: Columns) -> str:
        speakers = [_MARK.findall(row[name]) for name in names]
        return JOINED if any(a == b for side in speakers for a, b in pairwise(side)) else ""

    return notice


def _hh_rlhf(row: Columns, source: str) -> list[Example]:
    chosen, rejected = transcript(row.get("chosen"), "chosen"), transcript(row.get("rejected"), "rejected")
    if chosen == rejected:
        raise BadRow("`chosen` equals `rejected`")
    if chosen[:-1] != rejected[:-1]:
        raise BadRow("`chosen` and `rejected` differ before the last reply")
    return [
        make_example(
            "preference",
            source,
            unused_columns(row, "chosen", "rejected", "margin"),
            prompt=chosen[:-1],
            chosen=chosen[-1:],
            rejected=rejected[-1:],
            margin=margin(row),
        )
    ]


def _transcript(row: Columns, source: str) -> list[Example]:
    messages = transcript(row.get("transcript"), "transcript")
    return [make_example("messages", source, unused_columns(row, "transcript"), messages=messages)]


def _turn(turn: Any, name: str, number: int) -> Message:
    """Converts a ShareGPT turn to a message."""
    where = f"turn {number}"
    if not isinstance(turn, dict) or not isinstance(turn.get("from"), str):
        raise BadRow(f"`{name}`: a turn has no `from`", where)
    speaker, text = turn["from"], turn.get("value")
    if speaker not in _FROM:
        raise BadRow(
            f"`{name}` has an unknown role in `from`", f"{speaker!r:.40} in {where}; the roles are {', '.join(_FROM)}"
        )
    if not isinstance(text, str):
        raise BadRow(f"`{name}`: `value` is not a string", f"found {type(text).__name__} in {where}")
    if not text.strip():
        raise BadRow(f"`{name}` has an empty {speaker} turn", where)
    return Message(role=_FROM[speaker], content=string(text, name))


def _turns(row: Columns) -> Messages:
    """The messages in `conversations`, after the column `system` as a system message if it is not empty."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise BadRow("`conversations` is not a list with at least one turn")
    messages = tuple(_turn(turn, "conversations", number) for number, turn in enumerate(turns, 1))
    return with_system(messages, row)


def _is_sharegpt(row: Columns) -> bool:
    turns = row.get("conversations")
    return isinstance(turns, list) and any(isinstance(turn, dict) and "from" in turn for turn in turns)


def _sharegpt(row: Columns, source: str) -> list[Example]:
    messages = answered(_turns(row), "conversations")
    return [make_example("messages", source, unused_columns(row, "conversations", "system"), messages=messages)]


def _reply(row: Columns, name: str) -> Messages:
    reply = _turn(row.get(name), name, 1)
    if reply["role"] != "assistant":
        raise BadRow(f"`{name}` is not a gpt turn", f"its role is {reply['role']}")
    return (reply,)


def _sharegpt_preference(row: Columns, source: str) -> list[Example]:
    prompt, chosen, rejected = _turns(row), _reply(row, "chosen"), _reply(row, "rejected")
    if chosen == rejected:
        raise BadRow("`chosen` equals `rejected`")
    if prompt[-1]["role"] != "user":
        raise BadRow("`conversations` does not end with a human turn", "`chosen` and `rejected` must answer one")
    columns = unused_columns(row, "conversations", "system", "chosen", "rejected", "margin")
    return [
        make_example("preference", source, columns, prompt=prompt, chosen=chosen, rejected=rejected, margin=margin(row))
    ]


HH_RLHF = Format(
    "hh-rlhf",
    "chosen and rejected as transcripts with Human: and Assistant:, no prompt",
    is_hh_rlhf,
    _hh_rlhf,
    _joined_turns("chosen", "rejected"),
    priority=60,
)
TRANSCRIPT = Format(
    "transcript",
    "transcript with Human: and Assistant:",
    lambda row: _is_transcript(row.get("transcript")),
    _transcript,
    _joined_turns("transcript"),
    priority=120,
)
# `chosen` and `rejected` must be absent, not just null: a pair with missing sides is not a conversation.
SHAREGPT = Format(
    "sharegpt",
    "conversations with from and value",
    lambda row: _is_sharegpt(row) and not row.keys() & {"chosen", "rejected"},
    _sharegpt,
    priority=110,
)
SHAREGPT_PREFERENCE = Format(
    "sharegpt-preference",
    "conversations with from and value, chosen and rejected as one turn each",
    lambda row: _is_sharegpt(row) and has(row, "chosen", "rejected"),
    _sharegpt_preference,
    priority=50,
)
