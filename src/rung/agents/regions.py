"""Divides the text of a turn into texts, reasoning and calls, as a response template says, in linear time.

transformers' own parser looks for every delimiter again after each call, ends a call at a delimiter inside one of its
strings, and gives up the whole turn for one broken call. Here the regions alone are found; a call is then read alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from json import JSONDecodeError, JSONDecoder
from typing import TYPE_CHECKING, Any

from rung.data.json_text import loads

if TYPE_CHECKING:
    from transformers.utils.chat_parsing.response_templates import ResponseTemplate, ResponseTemplateField

MAX_TAGGED, TAGS_S = 200_000, 2.0  # characters and seconds of a call in tags, whose pattern may be quadratic
FIRST_PIECE, LONGEST_WORD = 1_024, 16  # characters; a word or an escape that the end of a piece cuts is shorter


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a turn: `raw` with its delimiters, `body` without.

    `field` is the name of the template's field, None for text between the fields. `value` is that of a call in JSON.
    `mistake` says why a call cannot be read.
    """

    field: str | None
    raw: str
    body: str
    opening: str = ""
    closing: str = ""
    value: Any = None
    mistake: str = ""


class _Finder:
    """Finds matches of a pattern from rising positions, and looks at each character of the text about once."""

    def __init__(self, pattern: Any, text: str):
        # A lookahead, as of the templates that write `<think>` into the prompt, holds where it is or nowhere.
        self._find = pattern.match if pattern.pattern.startswith("(?=") else pattern.search
        self._text, self._found, self._ended = text, None, False

    def after(self, position: int) -> Any:
        """The first match that begins at the position or later; None if there is none."""
        if not self._ended and (self._found is None or self._found.start() < position):
            self._found = self._find(self._text, position)
            self._ended = self._found is None
        return self._found


def regions(text: str, template: ResponseTemplate) -> Iterator[Region]:
    """The regions of a turn in their order."""
    openings = {name: _Finder(field.open_re, text) for name, field in template.fields.items() if field.open_re}
    implicit = template.fields[template.implicit] if template.implicit else None
    closing = _Finder(implicit.close_re, text) if implicit is not None and implicit.close_re else None
    position = 0
    while position < len(text):
        found = [(name, match) for name, each in openings.items() if (match := each.after(position))]
        ends = closing.after(position) if closing else None
        name, match = min(found, key=_order, default=(None, None))
        start = match.start() if match else len(text)
        if ends and ends.start() < start and ends.end() > position:
            start, name, match = ends.start(), None, ends
        if start > position:
            yield Region(None, text[position:start], text[position:start])
        if match is None:
            return
        if name is None:
            position = match.end()
            continue
        region = _region(text, template.fields[name], match)
        yield region
        position = max(match.start() + len(region.raw), position + (not region.raw))


def _order(found: tuple[str, Any]) -> tuple[int, int, str]:
    """Of several delimiters the first one counts, of those at one place the longest."""
    name, match = found
    return match.start(), -match.end(), name


def _region(text: str, field: ResponseTemplateField, opening: Any) -> Region:
    """The region of a field from its opening delimiter on."""
    is_call = field.name == "tool_calls"
    if is_call and field.content == "json" and not field.content_args:
        return _json_region(text, field, opening)
    closing = field.close_re.search(text, opening.end()) if field.close_re else None
    end, after = (closing.start(), closing.end()) if closing else (len(text), len(text))
    fault = ""
    if is_call:
        fault = _fault_of_tags(text[opening.end() : end], field) if closing else "the call is cut off"
    return Region(field.name, text[opening.start() : after], text[opening.end() : end], mistake=fault)


def _json_region(text: str, field: ResponseTemplateField, opening: Any) -> Region:
    """The region of a call in JSON, which may have the closing delimiter in a string."""
    begin = opening.end()
    while begin < len(text) and text[begin].isspace():
        begin += 1
    end, value, fault = _first_json(text, begin)
    if not fault:
        while end < len(text) and text[end].isspace():
            end += 1
        closing = field.close_re.match(text, end) if field.close_re else None
        if closing or end == len(text):
            after = closing.end() if closing else end
            raw, marks = text[opening.start() : after], (opening.group(), closing.group() if closing else "")
            return Region(field.name, raw, text[begin:end], *marks, value)
        fault = "the call is not valid JSON: there is more text after its end"
    closing = field.close_re.search(text, opening.end()) if field.close_re else None
    end, after = (closing.start(), closing.end()) if closing else (len(text), len(text))
    if not closing:
        fault = f"{fault}; it is not closed"
    return Region(field.name, text[opening.start() : after], text[begin:end], mistake=fault)


def _first_json(text: str, begin: int) -> tuple[int, Any, str]:
    """The end and the value of the JSON text that begins at a place, or why there is none.

    It is looked for in pieces of doubling length, since an error counts the lines of the whole text before it.
    """
    length = FIRST_PIECE
    while True:
        piece = text[begin : begin + length]
        is_all = begin + length >= len(text)
        try:
            end = JSONDecoder().raw_decode(piece)[1]
            if is_all or end < len(piece):
                return begin + end, loads(piece[:end]), ""
        except JSONDecodeError as error:
            if is_all or not (error.msg.startswith("Unterminated") or error.pos > len(piece) - LONGEST_WORD):
                return (
                    begin,
                    None,
                    f"the call is not valid JSON: {error.msg.removesuffix(' at')} at character {error.pos}",
                )
        except (ValueError, RecursionError):  # a number with thousands of digits, more than 100 levels
            return begin, None, "the call is not valid JSON: it has too many levels or digits"
        length *= 2


def _fault_of_tags(body: str, field: ResponseTemplateField) -> str:
    """Why a call that is written as tags cannot be read: a parameter that is not closed would be left out."""
    import regex

    if len(body) > MAX_TAGGED:
        return f"the call has more than {MAX_TAGGED:,} characters"
    pattern = str(field.content_args.get("tag_pattern", ""))
    beginning, closing = pattern.partition("(")[0], pattern.rpartition(")")[2].removeprefix(r"\s*")
    unclosed = f"the call has a parameter that is not closed, after `{beginning}`"
    if beginning and body.rfind(beginning) > body.rfind(closing):
        return unclosed
    try:
        left = regex.sub(pattern, "", body, flags=regex.DOTALL, timeout=TAGS_S)
    except TimeoutError:
        return "the call takes too long to read"
    return unclosed if beginning and beginning in left else ""
