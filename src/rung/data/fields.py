"""Columns of a row, checked: texts, conversations, labels. Every check raises `BadRow` with the column's name."""

import math
import re
from collections.abc import Mapping
from typing import Any, cast

from rung.data.records import BadRow, Message, Messages, Text

Columns = Mapping[str, Any]


def has(row: Columns, *names: str) -> bool:
    """Whether the row has all these columns, none of them null."""
    return all(row.get(name) is not None for name in names)


def roles(row: Columns) -> list[str]:
    """The roles in the column `messages`, in order; none where there are no messages."""
    messages = row.get("messages")
    if not isinstance(messages, list):
        return []
    return [str(message.get("role")) if isinstance(message, dict) else "" for message in messages]


def rest(row: Columns, *used: str) -> dict[str, Any]:
    """The columns that the conversion did not use."""
    return {name: value for name, value in row.items() if name not in used}


def with_truth(columns: dict[str, Any], truth: object) -> dict[str, Any]:
    """The columns with the gold answer as `ground_truth`, where the row does not bring one of its own."""
    return columns if columns.get("ground_truth") is not None else columns | {"ground_truth": truth}


def string(value: object, name: str) -> str:
    """The value as a text that says something."""
    if not isinstance(value, str):
        raise BadRow(f"`{name}` is not a text", f"but {type(value).__name__}")
    if not value.strip():
        raise BadRow(f"`{name}` is empty")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise BadRow(f"`{name}` holds half a surrogate pair", "no tokenizer can read it")
    return value


def number(value: object, name: str) -> float:
    """The value as a finite number; CSV writes one as a text."""
    try:
        found = math.nan if isinstance(value, bool) else float(cast(str, value))
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise BadRow(f"`{name}` is not a number", f"but {value!r:.40}")
    return found


def block_text(content: object, name: str) -> str:
    """What a message says: its text, or its text blocks joined; empty where it only calls tools."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRow(f"`{name}`: the content of a message is neither a text nor a list of blocks")
    if not all(isinstance(block, dict) and isinstance(block.get("text"), str) for block in content):
        raise BadRow(f"`{name}`: a content block is not text", "images and other media are not supported")
    return "".join(block["text"] for block in content)


def conversation(value: object, name: str) -> Messages:
    """A list of messages, each with a role and something said or called; keys that are null are taken off."""
    if not isinstance(value, list) or not value:
        raise BadRow(f"`{name}` is not a list of messages")
    turns = []
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRow(f"`{name}`: a message without `role`")
        content = block_text(message.get("content"), name)
        if not content.strip() and not message.get("tool_calls"):
            raise BadRow(f"`{name}`: an empty {message['role']} turn")
        if content:
            string(content, name)
        kept = {key: part for key, part in message.items() if part is not None}
        turns.append(cast(Message, kept | {"content": content}))
    return tuple(turns)


def text_of(row: Columns, name: str) -> Text:
    """A column that is a text in standard and a list of messages in conversational data."""
    return text(row.get(name), name)


def text(value: object, name: str) -> Text:
    """A text, or a list of messages."""
    return conversation(value, name) if isinstance(value, list) else string(value, name)


def alike(**texts: Text) -> None:
    """Raise where one column is a text and another a list of messages: TRL's reading of such a row is arbitrary."""
    if len({type(text) for text in texts.values()}) > 1:
        kinds = ", ".join(f"`{name}` {'text' if isinstance(text, str) else 'messages'}" for name, text in texts.items())
        raise BadRow("texts and lists of messages are mixed", f"{kinds}; write the text as [{{role, content}}]")


def gold(text: Text) -> str:
    """What a completion says in the end."""
    return text if isinstance(text, str) else text[-1]["content"]


def system_first(row: Columns) -> Messages:
    """The messages with the column `system` as their first turn, as Bedrock has it."""
    return with_system(conversation(row.get("messages"), "messages"), row)


def with_system(messages: Messages, row: Columns) -> Messages:
    """The messages behind the column `system`, where the row has one that says something."""
    if not row.get("system"):
        return messages
    if messages[0]["role"] == "system":
        raise BadRow("a `system` column beside a system message", "keep one of them")
    return (Message(role="system", content=string(row["system"], "system")), *messages)


def answered(messages: Messages, name: str) -> Messages:
    """The conversation as it is, which ends in an assistant turn and does not begin with one."""
    if messages[-1]["role"] != "assistant":
        raise BadRow(f"`{name}`: the turns do not end in an assistant turn", f"but in a {messages[-1]['role']} turn")
    if messages[0]["role"] == "assistant":
        raise BadRow(f"`{name}`: the turns begin with an assistant turn", "there is nothing that it answers")
    return messages


def margin(row: Columns) -> float | None:
    """How much better the first answer is, where the row says so."""
    return number(row["margin"], "margin") if has(row, "margin") else None


def gsm8k_number(solution: str) -> str:
    """The number behind GSM8K's final mark, without commas.

    >>> gsm8k_number("500 * 2 = 1000\\n#### 1,000")
    '1000'
    """
    found = re.search(r"(?:####|\bA:)\s*\$?(-?[\d.,]*\d)\D*$", solution)
    if found is None:
        raise BadRow("no number after `####`")
    return found[1].replace(",", "")


def truth_value(value: object) -> bool | None:
    """True or false, also as a word (CSV has no other way); None for anything else."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    return value if isinstance(value, bool) else None
