"""Writes messages as a conversation that people can read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def conversation_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The messages as lines `role: content`; a call is `role calls name(arguments)`, and a result names its tool.

    >>> function = {"name": "lookup", "arguments": {"drug": "abc"}}
    >>> called = {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}
    >>> print(conversation_text([called, {"role": "tool", "name": "lookup", "content": "5 mg"}]))
    assistant calls lookup(drug="abc")
    lookup: 5 mg
    """
    return "\n".join(line for message in messages for line in _lines(message))


def _lines(message: Mapping[str, Any]) -> list[str]:
    who = str((message["role"] == "tool" and message.get("name")) or message["role"])
    thought, content = message.get("reasoning_content"), str(message.get("content") or "")
    calls = [f"{who} calls {_call(call['function'])}" for call in message.get("tool_calls") or ()]
    thoughts = [f"{who} thinks: {thought}"] if thought else []
    return [*thoughts, *([f"{who}: {content}"] if content or not calls else []), *calls]


def _call(function: Mapping[str, Any]) -> str:
    given = function.get("arguments") or {}
    arguments = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in given.items())
    return f"{function['name']}({arguments})"
