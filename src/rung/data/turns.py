"""Finds the assistant turns in a chat that was rendered by a template without `{% generation %}` marks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise, takewhile
from typing import TYPE_CHECKING, Literal

from rung.data.completeness import SHOWN, TWICE, cause_left_out, function_names, map_pieces, pieces
from rung.data.records import Message, Messages, TemplateFault
from rung.data.templates import Chat, ChatTemplate, render
from rung.data.tokens import Span, num_shared, tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Noncharacters of Unicode, which no text has: they enclose the number of a piece, and end the piece.
_OPEN, _NUMBERED, _CLOSE = "\ufdd0", "\ufdd1", "\ufdd2"
_DIGITS = {str(digit): chr(0xFDD3 + digit) for digit in range(10)}
_VALUES = {letter: digit for digit, letter in _DIGITS.items()}
_BRACKET = re.compile(f"{_OPEN}([{''.join(_VALUES)}]+){_NUMBERED}|{_CLOSE}")
CANNOT_FIND = "the assistant turns cannot be found in the rendered chat"
ADVICE = "use a chat template with {% generation %} marks"


@dataclass(frozen=True, slots=True)
class Turn:
    """An assistant turn in a rendered chat, as positions of characters.

    It begins after the header of the turn, and ends with the end of turn. `is_sampled`: the header is what the template
    writes before a turn that is sampled.
    """

    start: int
    end: int
    is_sampled: bool


def find_turns(
    chat: Chat, text: str, template: ChatTemplate, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]
) -> dict[int, Turn]:
    """The assistant turns of a chat in its rendering `text`, by the number of the message (the first is no such turn).

    A turn ends with the first of the texts `stops` after what the assistant says. If there is none, it ends where a
    rendering that ends with this turn goes on differently.

    The chat is rendered once more with its pieces in brackets, which shows where each message lies. Raises `BadRow` if
    the template leaves a message out, writes it twice or in another order, or renders it differently in brackets.
    """
    bracketed, owners = _bracket(chat.messages)
    places = _places(render(replace(chat, messages=bracketed), template, tokenizer, end="turn"), text)
    spans = _message_spans(chat.messages, owners, places)
    order = sorted(spans, key=lambda number: spans[number])
    headers: dict[str, str] = {}  # by the role of the message before the turn
    turns = {}
    for i, message in enumerate(chat.messages[1:], 1):
        if message["role"] != "assistant":
            continue
        place, (first, said) = order.index(i), spans[i]
        before = spans[order[place - 1]][1] if place else 0
        limit = spans[order[place + 1]][0] if place + 1 < len(order) else len(text)
        role = chat.messages[i - 1]["role"]
        if role not in headers:
            headers[role] = _after_last(replace(chat, messages=chat.messages[:i]), template, tokenizer, "prompt")
        shared = num_shared(headers[role], text[before:first])
        end = end_of_turn(text, said, limit, stops)
        if end is None:
            through = _after_last(replace(chat, messages=chat.messages[: i + 1]), template, tokenizer, "turn")
            end = said + _shared_tokens(through, text[said:limit], tokenizer)
        turns[i] = Turn(before + shared, end, shared == len(headers[role]))
    return turns


def end_of_turn(text: str, said: int, limit: int, stops: Sequence[str]) -> int | None:
    """The end of the first of the texts `stops` in `text[said:limit]`; None if there is none.

    >>> end_of_turn("Hi.<eos>\\n", 3, 9, ["<eos>"])
    8
    """
    ends = [at + len(stop) for stop in stops if (at := text.find(stop, said, limit)) >= 0]
    return min(ends, default=None)


def _after_last(
    chat: Chat, template: ChatTemplate, tokenizer: PreTrainedTokenizerBase, end: Literal["turn", "prompt"]
) -> str:
    """What the template writes after the last message: its end of turn, or also the generation prompt."""
    bracketed, _ = _bracket(chat.messages)
    return render(replace(chat, messages=bracketed), template, tokenizer, end=end).rpartition(_CLOSE)[2]


def _shared_tokens(a: str, b: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """The number of characters at the start of `b` whose tokens `a` begins with as well."""
    ids, _ = tokens(a, tokenizer, special=False)
    others, spans = tokens(b, tokenizer, special=False)
    same = takewhile(lambda pair: pair[0] == pair[1], zip(ids, others, strict=False))
    count_same = sum(1 for _ in same)
    return spans[count_same - 1][1] if count_same else 0


def _bracket(messages: Messages) -> tuple[Messages, list[int]]:
    """The messages with each piece in brackets, and for each piece the number of its message."""
    owners: list[int] = []
    numbers = count()

    def bracketed(i: int, message: Message) -> Message:
        def enclose(piece: str) -> str:
            owners.append(i)
            number = "".join(_DIGITS[digit] for digit in str(next(numbers)))
            return f"{_OPEN}{number}{_NUMBERED}{piece}{_CLOSE}"

        return map_pieces(message, enclose)

    return tuple(bracketed(i, message) for i, message in enumerate(messages)), owners


def _places(rendered: str, text: str) -> list[tuple[int, Span]]:
    """The number and place in `text` of each piece that is in brackets in `rendered`, in order."""
    if _BRACKET.sub("", rendered) != text:
        raise TemplateFault(CANNOT_FIND, ADVICE)
    places: list[tuple[int, Span]] = []
    removed, opened = 0, -1
    start = 0
    for bracket in _BRACKET.finditer(rendered):
        position = bracket.start() - removed
        removed += bracket.end() - bracket.start()
        if bracket[1] is not None:
            opened, start = int("".join(_VALUES[letter] for letter in bracket[1])), position
        elif opened >= 0:
            places.append((opened, (start, position)))
            opened = -1
    return places


def _message_spans(messages: Messages, owners: list[int], places: list[tuple[int, Span]]) -> Mapping[int, Span]:
    """For each message with pieces, the characters from its first to its last piece."""
    found = [number for number, _ in places]
    firsts: dict[int, Span] = {}
    for number, owner in enumerate(owners):
        said = pieces(messages[owner])[number - owners.index(owner)]
        times = found.count(number)
        if times == 0:
            raise TemplateFault(cause_left_out(messages[owner]), f"{said!r:.{SHOWN}}")
        # A template may name the called function again in front of its result.
        if times > 1 and said not in function_names(messages[owner]):
            raise TemplateFault(TWICE, f"{said!r:.{SHOWN}}")
        firsts[number] = places[found.index(number)][1]
    spans: dict[int, Span] = {}
    for number, (start, end) in firsts.items():
        first, last = spans.get(owners[number], (start, end))
        spans[owners[number]] = (min(first, start), max(last, end))
    ordered = sorted(spans.values())
    if any(end > start for (_, end), (start, _) in pairwise(ordered)):
        raise TemplateFault(CANNOT_FIND, ADVICE)
    return spans
