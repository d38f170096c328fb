"""Columns that are meant for the chat template, beside the messages of any format."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rung.data.messages import parsed, tools_of
from rung.data.records import BadRow, Example

TOOLS = ("tools", "functions")  # `functions` is OpenAI's older name
VARIABLES = "chat_template_kwargs"
COLUMNS_OF_TEMPLATE = (*TOOLS, VARIABLES, "documents")
MEDIA = ("image", "images", "video", "videos", "audio", "audios")


def with_template_columns(example: Example) -> Example:
    """The example with the tools and template variables of its row.

    They stay in `columns` as well, since rewards may read them. Raises `BadRow` if they are not of the right form, and
    for a chat with media, which no text model can be given.
    """
    columns = example.columns
    if not is_chat(example):
        return example
    media = next((name for name in MEDIA if columns.get(name)), None)
    if media is not None:
        raise BadRow(f"the row has `{media}`", "images and other media are not supported")
    found = [tools for name in TOOLS if (tools := tools_of(columns.get(name), name))]
    if len(found) > 1:
        raise BadRow("the row has both `tools` and `functions`", "keep one of them")
    variables = parsed(columns.get(VARIABLES) or {})
    if not isinstance(variables, Mapping):
        raise BadRow(f"`{VARIABLES}` is not an object", f"found {variables!r:.40}")
    given: dict[str, Any] = dict(variables)
    if columns.get("documents"):
        given["documents"] = columns["documents"]
    return replace(example, tools=found[0] if found else (), template_variables=given) if found or given else example


def is_chat(example: Example) -> bool:
    """Whether an example consists of messages, which a chat template renders."""
    return example.messages is not None or isinstance(example.prompt, tuple)
