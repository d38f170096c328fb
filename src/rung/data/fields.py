"""Reads and checks columns of a row: texts, conversations, labels. Every check raises `BadRow`, naming the column."""

import math
import re
from collections.abc import Mapping
from typing import Any, cast

from rung.data.messages import block_text, conversation, parsed, string
from rung.data.records import BadRow, Message, Messages, Text

Columns = Mapping[str, Any]


def has(row: Columns, *names: str) -> bool:
    """Whether the row has all of the named columns, and none of them is null."""
    return all(row.get(name) is not None for name in names)


def roles(row: Columns) -> list[str]:
    """The roles of the messages in the column `messages`, in order; empty if there are no messages."""
    messages = parsed(row.get("messages"))
    if not isinstance(messages, list):
        return []
    return [str(message.get("role")) if isinstance(message, dict) else "" for message in messages]


def unused_columns(row: Columns, *used: str) -> dict[str, Any]:
    """The columns of the row except the named ones, which a conversion has used."""
    return {name: value for name, value in row.items() if name not in used}


def with_truth(columns: dict[str, Any], truth: object) -> dict[str, Any]:
    """The columns with `truth`, the gold answer, added as `ground_truth` unless they have a `ground_truth` already.

    No truth (None) leaves the columns as they are.
    """
    has_truth = truth is None or columns.get("ground_truth") is not None
    return columns if has_truth else columns | {"ground_truth": truth}


def number(value: object, name: str) -> float:
    """The value as a finite number; strings are converted, since CSV files have only strings."""
    try:
        found = math.nan if isinstance(value, bool) else float(cast(str, value))
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise BadRow(f"`{name}` is not a finite number", f"found {value!r:.40}")
    return found


def text_of(row: Columns, name: str) -> Text:
    """The value of a column as a string (TRL's standard format) or as messages (TRL's conversational format)."""
    return text(row.get(name), name)


def text(value: object, name: str) -> Text:
    """The value as a string that is not blank or, if it is a list, as messages."""
    return conversation(value, name) if isinstance(value, list) else string(value, name)


def check_not_mixed(**texts: Text) -> None:
    """Raises `BadRow` if some columns are strings and others are lists of messages: their meaning would be unclear."""
    if len({type(text) for text in texts.values()}) > 1:
        kinds = ", ".join(f"`{name}` {'text' if isinstance(text, str) else 'messages'}" for name, text in texts.items())
        raise BadRow(
            "texts and lists of messages are mixed",
            f"{kinds}; write the text as [{{role, content}}], or set `format` to your own",
        )


def check_differ(chosen: Text, rejected: Text) -> None:
    """Raises `BadRow` if the two sides of a pair are equal."""
    if chosen == rejected:
        raise BadRow("`chosen` equals `rejected`")


def gold(text: Text) -> str | None:
    """The text of a completion, as the gold answer: the string itself, or the content of the last message.

    None for a last message that only calls tools: nothing that a model writes would equal an empty answer.
    """
    return text if isinstance(text, str) else text[-1]["content"] or None


def system_first(row: Columns) -> Messages:
    """The column `messages`, after the column `system` as a system message if the row has one (Amazon Bedrock)."""
    return with_system(conversation(row.get("messages"), "messages"), row)


def with_system(messages: Messages, row: Columns) -> Messages:
    """The messages, after the column `system` of the row (text or content blocks) as a system message if not empty."""
    system = block_text(row.get("system"), "system")
    if not system.strip():
        return messages
    if messages[0]["role"] == "system":
        raise BadRow("the row has both a `system` column and a system message", "keep one of them")
    return (Message(role="system", content=string(system, "system")), *messages)


def prompt_of(row: Columns) -> Text:
    """The column `prompt`; if it has messages, they come after the column `system`. A string has no place for it."""
    prompt = text_of(row, "prompt")
    if not isinstance(prompt, str):
        return with_system(prompt, row)
    if row.get("system"):
        raise BadRow("the row has a `system` column beside a `prompt` that is a string", "write `prompt` as messages")
    return prompt


def answered(messages: Messages, name: str) -> Messages:
    """The messages, unchanged; raises `BadRow` if the last one is not an assistant turn, or if the first one is."""
    if messages[-1]["role"] != "assistant":
        raise BadRow(f"`{name}` does not end with an assistant turn", f"but with a {messages[-1]['role']} turn")
    if messages[0]["role"] == "assistant":
        raise BadRow(f"`{name}` begins with an assistant turn", "there is no prompt before it")
    return messages


def margin(row: Columns) -> float | None:
    """The column `margin`, by how much the preferred completion is better; None if the row does not have it."""
    return number(row["margin"], "margin") if has(row, "margin") else None


def gsm8k_number(solution: str) -> str:
    """The final answer of a GSM8K solution: the number after `####` or `A:`, without commas.

    >>> gsm8k_number("500 * 2 = 1000\\n#### 1,000")
    '1000'
    """
    found = re.search(r"(?:####|\bA:)\s*\$?(-?[\d.,]*\d)\D*$", solution)
    if found is None:
        raise BadRow("the solution has no number after `####`")
    return found[1].replace(",", "")


def truth_value(value: object) -> bool | None:
    """The value as a bool; 1 and 0 and the texts `true`, `false`, `1` and `0` are converted. None for other values.

    >>> truth_value("True"), truth_value(0), truth_value("yes")
    (True, False, None)
    """
    if isinstance(value, str):
        return {"true": True, "false": False, "1": True, "0": False}.get(value.lower())
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None
