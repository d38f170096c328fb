"""Reads conversations: messages with a role and content, tool calls, and marks of turns that are not trained."""

from collections.abc import Mapping
from typing import Any, cast

from rung.data.json_text import loads
from rung.data.records import BadRow, Message, Messages

# What formats call a turn that is trained or not: OpenAI, ms-swift and LLaMA-Factory, axolotl, and others.
WEIGHTS = ("weight", "loss", "train", "trainable")


def string(value: object, name: str) -> str:
    """The value, checked to be a string that is not blank and that UTF-8 can encode."""
    if not isinstance(value, str):
        raise BadRow(f"`{name}` is not a string", f"found {type(value).__name__}")
    if not value.strip():
        raise BadRow(f"`{name}` is empty")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise BadRow(f"`{name}` has an unpaired surrogate", "no tokenizer can encode it")
    return value


def block_text(content: object, name: str) -> str:
    """The content of a message as one string: content blocks are joined, and None (only tool calls) becomes empty."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRow(f"`{name}`: the content of a message is neither a string nor a list of content blocks")
    if not all(isinstance(block, dict) and isinstance(block.get("text"), str) for block in content):
        raise BadRow(f"`{name}`: a content block is not text", "images and other media are not supported")
    return "".join(block["text"] for block in content)


def parsed(value: object) -> object:
    """The value, read from JSON if it is a text that holds a list or an object.

    >>> parsed('[{"role": "user"}]'), parsed("[hello")
    ([{'role': 'user'}], '[hello')
    """
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return loads(value)
    except ValueError:
        return value


def conversation(value: object, name: str) -> Messages:
    """The value as messages, each checked to have a role and content or tool calls.

    Null values, empty lists and empty system messages are left out. Tool calls get the form of OpenAI's API, with
    arguments as an object; `weight`, `loss`, `train` or `trainable` of an assistant turn that is not trained becomes
    `weight: 0`. Raises `BadRow`, naming the column.
    """
    messages = parsed(value)
    if not isinstance(messages, list) or not messages:
        raise BadRow(f"`{name}` is not a list of messages")
    turns = [turn for message in messages if (turn := _message(message, name)) is not None]
    if not turns:
        raise BadRow(f"`{name}` has only an empty system turn")
    return tuple(turns)


def tools_of(value: object, name: str) -> tuple[Mapping[str, Any], ...]:
    """Tool definitions: a list of JSON schemas, each with a name, or the JSON text of such a list; empty if null."""
    given = parsed(value)
    if given in (None, "", [], {}):
        return ()
    tools: list[Any] = [parsed(tool) for tool in given] if isinstance(given, list) else [given]
    if not all(isinstance(tool, dict) for tool in tools):
        raise BadRow(f"`{name}` is not a list of JSON schemas", f"found {value!r:.40}")
    for tool in tools:
        function = tool.get("function", tool)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow(f"`{name}`: a tool has no name", f"{tool!r:.40}")
    return tuple(tools)


def _message(message: object, name: str) -> Message | None:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise BadRow(f"`{name}`: a message has no `role` that is a string")
    content, role = block_text(message.get("content"), name), message["role"]
    kept = {key: part for key, part in message.items() if part is not None and part != []}
    legacy = kept.pop("function_call", None)
    calls = kept.pop("tool_calls", None) or ([legacy] if legacy else None)
    if not content.strip() and not calls:
        if role == "system":
            return None
        raise BadRow(f"`{name}` has an empty {role} turn")
    if content:
        string(content, name)
    trained = [_is_trained(kept.pop(key), key, role, name) for key in WEIGHTS if key in kept]
    more: dict[str, Any] = {"tool_calls": [_call(call, name) for call in _listed(calls, name)]} if calls else {}
    if not all(trained) and role == "assistant":
        more["weight"] = 0
    return cast(Message, kept | {"content": content} | more)


def _is_trained(value: object, key: str, role: str, name: str) -> bool:
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise BadRow(f"`{name}`: `{key}` of a turn is neither 0 nor 1, nor a truth value", f"found {value!r:.40}")
    if value and role != "assistant" and key != "weight":
        raise BadRow(f"`{name}`: `{key}` of a {role} turn is set", "only assistant turns can be trained")
    return bool(value)


def _listed(calls: object, name: str) -> list[Any]:
    calls = parsed(calls)
    if not isinstance(calls, list):
        raise BadRow(f"`{name}`: `tool_calls` of a message is not a list", f"found {calls!r:.40}")
    return calls


def _call(call: object, name: str) -> dict[str, Any]:
    """A tool call as in OpenAI's API, `{type: function, function: {name, arguments}}`, with arguments as an object."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow(f"`{name}`: a tool call has no function with a name", f"{call!r:.40}")
    arguments = parsed(function.get("arguments"))
    if arguments in (None, ""):
        arguments = {}
    if not isinstance(arguments, dict):
        raise BadRow(f"`{name}`: the arguments of a tool call are not an object", f"found {arguments!r:.40}")
    outer = {key: part for key, part in call.items() if part is not None and key not in ("name", "arguments")}
    return {"type": "function", **outer, "function": {**function, "arguments": arguments}}
