"""Reads a turn of the model: its text, its reasoning, its calls of tools, and its mistakes in writing calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from rung.agents.formats import beginning_of_calls, calls_alone, response_template
from rung.agents.regions import Region, regions
from rung.data.json_text import loads
from rung.data.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKS = {"<tool_call>", "</tool_call>", "<think>", "</think>"}  # special tokens of some vocabularies


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool; `id` is empty if the model gave none."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """A turn as a message, with its calls; `mistakes` has what to tell the model of each call that cannot be read."""

    message: Message
    calls: tuple[Call, ...]
    mistakes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Turn:
    """What has been read of a turn so far."""

    texts: list[str] = field(default_factory=list)
    thoughts: dict[str, list[str]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    def message(self) -> Message:
        """The turn as a message with calls as in OpenAI's API."""
        made: dict[str, Any] = {"role": "assistant", "content": _joined(self.texts)}
        made |= {name: text for name, parts in self.thoughts.items() if (text := _joined(parts))}
        if self.calls:
            made["tool_calls"] = [_as_openai(call) for call in self.calls]
        return cast(Message, made)


class _BadCall(ValueError):
    """Raised for a call that cannot be made; its text is told to the model."""


class TurnParser:
    """Reads turns in the format of a tokenizer (see `rung.agents.formats`). The tokenizer is not changed.

    Raises ConfigError if the tokenizer has a response template that cannot be used.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._template = response_template(tokenizer)
        self._alone = calls_alone(self._template)
        self._beginning = beginning_of_calls(self._template)
        self._endings = tuple(set(tokenizer.all_special_tokens) - _MARKS)

    def parse(self, ids: Sequence[int], prefix: Sequence[int], tools: Sequence[Mapping[str, Any]]) -> ParsedTurn:
        """The turn that the model wrote as `ids` after the prompt `prefix`.

        The schemas of `tools` say of which types the arguments are in formats that write them without quotes.
        """
        written = cast(str, self._tokenizer.decode(list(ids))) if ids else ""
        turn = _Turn()
        for region in regions(self._prefill(prefix) + written, self._template):
            if region.field == "tool_calls":
                self._read_call(region, tools, turn)
            elif region.field is None:
                self._read_text(region.body, turn)
            else:
                text = self._without_end(region.body)
                (turn.texts if region.field == "content" else turn.thoughts.setdefault(region.field, [])).append(text)
        if not (turn.texts or turn.thoughts or turn.calls):
            turn.texts.append(self._without_end(written))
        return ParsedTurn(turn.message(), tuple(turn.calls), tuple(turn.mistakes))

    def _prefill(self, prefix: Sequence[int]) -> str:
        """The part of the turn that the prompt already wrote, such as the beginning of the reasoning."""
        text = cast(str, self._tokenizer.decode(list(prefix))) if prefix else ""
        is_there = self._template.start_anchor_re.search(text)
        return self._template.truncate_past_last_anchor(text) if is_there else ""

    def _without_end(self, text: str) -> str:
        """The text without the special tokens that end it, which are there if the template does not name them."""
        text = text.rstrip()
        while ending := next((each for each in self._endings if text.endswith(each)), ""):
            text = text.removesuffix(ending).rstrip()
        return text

    def _is_broken_call(self, text: str) -> bool:
        if not self._beginning.startswith("{"):
            return bool(self._beginning) and self._beginning in text
        return text.lstrip().startswith(self._beginning) and ('"parameters"' in text or '"arguments"' in text)

    def _read_text(self, text: str, turn: _Turn) -> None:
        """Reads text between the fields of the template; in some formats it is only the header of what follows."""
        is_broken = self._is_broken_call(text)
        if is_broken:
            turn.mistakes.append(f"a call begins with `{self._beginning}`, but is not written as a call is")
        if is_broken or self._template.implicit is not None:
            turn.texts.append(self._without_end(text))

    def _read_call(self, region: Region, tools: Sequence[Mapping[str, Any]], turn: _Turn) -> None:
        try:
            if region.mistake:
                raise _BadCall(region.mistake)
            turn.calls.extend([_call(each) for each in self._values(region, tools)])
        except _BadCall as error:
            turn.mistakes.append(str(error))
            turn.texts.append(self._without_end(region.raw))

    def _values(self, region: Region, tools: Sequence[Mapping[str, Any]]) -> list[Any]:
        """What transformers reads in the region of a call. Raises `_BadCall` if it cannot."""
        text = region.raw
        if region.value is not None:  # a closing delimiter in a string would end the call too early
            text = region.opening + json.dumps(region.value).replace("<", "\\u003c") + region.closing
        try:
            read = self._tokenizer.parse_response(
                text, cast(dict, self._alone), prefix="", tools=[dict(tool) for tool in tools]
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise _BadCall(f"the call cannot be read: {str(error).partition(chr(10))[0]:.200}") from None
        found = cast(dict, read).get("tool_calls")
        if not isinstance(found, list) or not found:
            raise _BadCall("the call cannot be read")
        return [each for value in found for each in (value if isinstance(value, list) else [value])]


def _call(value: Any) -> Call:
    """The call in an object as in OpenAI's API, or in its `function`. Raises `_BadCall`."""
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict):
        raise _BadCall("the call is not an object with `name` and `arguments`")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise _BadCall("the `name` of the call is not a string")
    if isinstance(arguments, str) and arguments.strip():
        try:
            arguments = loads(arguments)
        except ValueError as error:
            raise _BadCall(f"the `arguments` of the call to `{name:.100}` are not valid JSON: {error}") from None
    arguments = {} if arguments in (None, "") else arguments
    if not isinstance(arguments, dict):
        raise _BadCall(f"the `arguments` of the call to `{name:.100}` are not an object")
    try:
        json.dumps([name, arguments], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _BadCall("the call has an unpaired surrogate") from None
    given = value.get("id", function.get("id"))
    return Call(name, arguments, given if isinstance(given, str) else "")


def _joined(parts: list[str]) -> str:
    return "\n".join(stripped for part in parts if (stripped := part.strip()))


def _as_openai(call: Call) -> dict[str, Any]:
    made = {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
    return {"id": call.id, **made} if call.id else made
