"""Formats of dialogues in one text: the transcripts of HH-RLHF."""

import re
from collections.abc import Callable
from itertools import pairwise

from rung.data.fields import Columns, answered, check_differ, has, margin, string, unused_columns
from rung.data.formats.format import Format
from rung.data.records import BadRow, Example, Message, Messages, make_example

JOINED = "consecutive turns of one role are joined"
_MARK = re.compile(r"(?:\A\s*|\n\r?\n)(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


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
    check_differ(chosen, rejected)
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
