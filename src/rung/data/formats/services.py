"""Preference files of training services and tools: Amazon Nova, OpenAI (also Fireworks and Together), ms-swift."""

from typing import Any

from rung.data.fields import (
    Columns,
    check_differ,
    has,
    margin,
    string,
    system_first,
    unused_columns,
    with_system,
)
from rung.data.formats.format import Format
from rung.data.messages import conversation, parsed
from rung.data.records import BadRow, Example, Message, Messages, make_example

PREFERRED, NOT_PREFERRED = "preferred", "non-preferred"


def last_turn(row: Columns) -> dict[str, Any]:
    """The last entry of `messages` as it is in the row; empty if there is none."""
    messages = parsed(row.get("messages"))
    last = messages[-1] if isinstance(messages, list) and messages else None
    return last if isinstance(last, dict) else {}


def _nova(row: Columns, source: str) -> list[Example]:
    candidates = last_turn(row).get("candidates")
    chosen, rejected = _candidate(candidates, PREFERRED), _candidate(candidates, NOT_PREFERRED)
    check_differ(chosen, rejected)
    turns = parsed(row.get("messages"))
    prompt = with_system(conversation(turns[:-1], "messages"), row) if isinstance(turns, list) else ()
    columns = unused_columns(row, "messages", "system")
    return [make_example("preference", source, columns, prompt=prompt, chosen=chosen, rejected=rejected)]


def _candidate(candidates: object, label: str) -> Messages:
    listed = candidates if isinstance(candidates, list) else []
    found = [one for one in listed if isinstance(one, dict) and one.get("preferenceLabel") == label]
    if len(found) != 1:
        raise BadRow(f"`candidates` has not exactly one entry with `preferenceLabel: {label}`", f"found {len(found)}")
    return conversation([{"role": "assistant", "content": found[0].get("content")}], "candidates")


def _openai(row: Columns, source: str) -> list[Example]:
    """Converts a row to a pair; what `input` has beside the messages, such as `tools`, becomes columns."""
    given = parsed(row.get("input"))
    if not isinstance(given, dict):
        raise BadRow("`input` is not an object with `messages`")
    prompt = conversation(given.get("messages"), "input.messages")
    chosen, rejected = _output(row, "preferred_output"), _output(row, "non_preferred_output")
    check_differ(chosen, rejected)
    columns = unused_columns(row, "input", "preferred_output", "non_preferred_output", "margin")
    columns |= {name: value for name, value in given.items() if name != "messages"}
    return [
        make_example("preference", source, columns, prompt=prompt, chosen=chosen, rejected=rejected, margin=margin(row))
    ]


def _output(row: Columns, name: str) -> Messages:
    turns = conversation(row.get(name), name)
    if turns[0]["role"] != "assistant" or turns[-1]["role"] != "assistant":
        raise BadRow(f"`{name}` does not consist of assistant turns", f"its first turn is of {turns[0]['role']}")
    return turns


def _swift(row: Columns, source: str) -> list[Example]:
    messages = system_first(row)
    if messages[-1]["role"] != "assistant" or len(messages) < 2:
        raise BadRow("`messages` does not end with an assistant turn")
    given = row.get("rejected_response")
    content = string(given, "rejected_response")
    rejected: Messages = (Message(role="assistant", content=content),)
    check_differ(messages[-1:], rejected)
    columns = unused_columns(row, "messages", "system", "rejected_response", "margin")
    return [
        make_example(
            "preference",
            source,
            columns,
            prompt=messages[:-1],
            chosen=messages[-1:],
            rejected=rejected,
            margin=margin(row),
        )
    ]


NOVA_PREFERENCE = Format(
    "nova-preference",
    "messages whose last turn has candidates with preferenceLabel",
    lambda row: isinstance(last_turn(row).get("candidates"), list),
    _nova,
    priority=44,
)
OPENAI_PREFERENCE = Format(
    "openai-preference",
    "input with messages, preferred_output, non_preferred_output",
    lambda row: has(row, "input", "preferred_output", "non_preferred_output"),
    _openai,
    priority=46,
)
SWIFT_PREFERENCE = Format(
    "swift-preference",
    "messages that end with an assistant turn, rejected_response",
    lambda row: has(row, "messages", "rejected_response"),
    _swift,
    priority=48,
)
