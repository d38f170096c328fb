"""Public layouts that are recognised and refused, since no algorithm can train on them."""

from collections.abc import Callable
from dataclasses import dataclass

from rung.data.fields import Columns, has
from rung.data.formats.sharegpt import NAMES
from rung.data.messages import parsed
from rung.data.template_columns import MEDIA

OWN_FORMAT = "set `format: ./file.py:NAME` to a format of your own, see docs/extending.md"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A layout that is refused: a test of its rows, what it is, and what can be done."""

    matches: Callable[[Columns], bool]
    what: str
    remedy: str


def _is_stepwise(row: Columns) -> bool:
    return has(row, "prompt") and isinstance(row.get("completions"), list) and isinstance(row.get("labels"), list)


def _is_tokenised(row: Columns) -> bool:
    texts = ("text", "prompt", "messages", "chosen", "instruction", *NAMES)
    return isinstance(row.get("input_ids"), list) and not any(has(row, name) for name in texts)


def _has_media(row: Columns) -> bool:
    turns = next((parsed(row[name]) for name in ("messages", *NAMES) if has(row, name)), None)
    if not isinstance(turns, list):
        return False
    contents = [turn.get("content") for turn in turns if isinstance(turn, dict)]
    blocks = [block for content in contents if isinstance(content, list) for block in content]
    return any(row.get(name) for name in MEDIA) or any(_is_media(block) for block in blocks)


def _is_media(block: object) -> bool:
    """Whether a content block is `{type: image, ...}` and the like, or Bedrock's `{image: {...}}`."""
    if not isinstance(block, dict):
        return False
    kinds = [str(block.get("type")), *block]
    return any(kind.removeprefix("input_").removesuffix("_url") in MEDIA for kind in kinds if block.get("text") is None)


REFUSALS = (
    Refusal(
        _is_stepwise,
        "the rows have a label for each step of a solution (`prompt`, `completions`, `labels`), which no algorithm "
        "trains on",
        f"use rows with one label per answer (`prompt`, `completion`, `label`), or {OWN_FORMAT}",
    ),
    Refusal(
        _is_tokenised,
        "the rows are token ids (`input_ids`), which belong to one tokenizer and cannot be checked",
        "use the texts that they were made of; `tokenizer.decode` gives them back as a column `text`",
    ),
    Refusal(
        _has_media,
        "the rows have images or other media, which no text model can be given",
        f"use data without media; to train on the texts alone, {OWN_FORMAT}",
    ),
)
