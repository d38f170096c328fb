"""The result of a call: the text that the model is shown, a mistake that it is told of, or a failure of the tool."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from rung.reward.deadline import Expired
from rung.reward.event_loop import event_loop
from rung.reward.outcome import shortened
from rung.utils.secrets import without_secrets

MAX_CONTENT = 1_000_000  # characters of a result
MAX_ERROR = 10_000  # characters of the message of an exception
_ADDRESS = re.compile(r"<.* at 0x[0-9a-f]+>", re.DOTALL)  # as in the text of an object that has none of its own
_MEDIA = frozenset({"image", "image_url", "audio", "input_audio", "video", "video_url", "file"})


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of one call, which took `seconds`.

    `content` is what the model is shown: what the tool returned (`ok`), or what it did wrong (`mistake`). If the tool
    itself has failed (`failed`), there is no content, and `note` says why.
    """

    content: str
    status: Literal["ok", "mistake", "failed"]
    note: str = ""
    seconds: float = 0.0


def mistake(told: str) -> ToolResult:
    """A mistake of the model, in TRL's words.

    >>> mistake("Tool add not found.").content
    "{'error': 'Tool add not found.'}"
    """
    return ToolResult(encodable(str({"error": told})), "mistake")


def failure(note: str, seconds: float = 0.0) -> ToolResult:
    """A failure of the tool; `note` says why."""
    return ToolResult("", "failed", shortened(without_secrets(note)), seconds)


def made(function: Callable[..., Any], arguments: Mapping[str, Any]) -> ToolResult:
    """Calls a function, in this process, and waits for the coroutine that it may return."""
    try:
        returned = function(**arguments)
        if inspect.iscoroutine(returned):
            returned = event_loop().run(returned)
    except (KeyboardInterrupt, Expired):
        raise
    except BaseException as error:
        return raised(error)
    return result_of(returned)


def raised(error: BaseException) -> ToolResult:
    """The result of a call that raised: the model is told of an Exception, which its arguments may have caused."""
    if not isinstance(error, Exception):
        return failure(f"it raised {type(error).__name__}: {_words(error)}")
    return mistake(shortened(without_secrets(_words(error)), MAX_ERROR))


def result_of(returned: object) -> ToolResult:
    """The result of a call that returned."""
    try:
        content = encodable(content_of(returned))
    except Exception as error:  # `__str__` of an object may raise anything
        return failure(f"it returned what cannot be shown to a model: {_words(error)}")
    if len(content) > MAX_CONTENT:
        return failure(f"it returned {len(content):,} characters, more than {MAX_CONTENT:,}")
    return ToolResult(content, "ok")


def content_of(returned: object) -> str:
    """The text of what a tool returned, by `str` as in TRL; text blocks of a message are joined.

    Raises TypeError for what has no text of its own, such as a generator, and for images.

    >>> content_of({"a": [1, None]}), content_of([{"type": "text", "text": "nine"}, {"type": "text", "text": " C"}])
    ("{'a': [1, None]}", 'nine C')
    """
    if isinstance(returned, str):
        return returned
    if isinstance(returned, list) and returned and all(isinstance(each, dict) for each in returned):
        blocks = cast(list[dict[str, Any]], returned)
        if any(block.get("type") in _MEDIA for block in blocks):
            raise TypeError("images and other media are not supported")
        if all(block.get("type") == "text" and isinstance(block.get("text"), str) for block in blocks):
            return "".join(block["text"] for block in blocks)
    _check_text(returned)
    return str(returned)


def _check_text(value: object) -> None:
    """Raises TypeError for an object whose text is its address, which no model can use and no run can repeat."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            _check_text(name)
            _check_text(each)
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            _check_text(each)
    elif not isinstance(value, str | int | float | bool | None) and _ADDRESS.fullmatch(str(value)):
        raise TypeError(f"a {type(value).__name__} has no text")


def encodable(text: str) -> str:
    """The text with a replacement character for each unpaired surrogate, which no tokenizer can encode.

    >>> encodable("a\\ud800b").encode("ascii", "backslashreplace")
    b'a\\\\ufffdb'
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _words(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:
        return type(error).__name__
