"""Renders conversations with the chat template, and finds the character spans of their assistant turns."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import jinja2

from rung.data.records import BadRow, Messages
from rung.data.tokens import Span
from rung.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render(messages: Messages, tokenizer: "PreTrainedTokenizerBase", *, add_generation_prompt: bool) -> str:
    """The conversation as text, rendered with the tokenizer's chat template.

    Raises `DataError` if the tokenizer has no template, and `BadRow` if the template rejects the messages.
    """
    if tokenizer.chat_template is None:
        raise DataError(
            "the data has chat messages, but the model's tokenizer has no chat template",
            "start from a chat model, add a chat_template.jinja to its folder, or use strings as prompt and completion",
        )
    try:
        rendered = tokenizer.apply_chat_template(
            _plain(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except (jinja2.TemplateError, TypeError) as error:  # TypeError: the template concatenates a field that is no string
        raise BadRow("the chat template rejects the messages", str(error)) from error
    assert isinstance(rendered, str)
    return rendered


def assistant_spans(messages: Messages, rendered: str, tokenizer: "PreTrainedTokenizerBase") -> list[Span]:
    """The character spans of the assistant turns in `rendered`, including their end-of-turn tokens if there are any.

    If the template has `{% generation %}` marks, these give the spans; otherwise the conversation is rendered up to
    each turn and the results are compared. Raises `BadRow` if the template renders a turn differently when other turns
    follow.
    """
    if re.search(r"\{%-?\s*generation\s*-?%\}", tokenizer.get_chat_template()):
        return _marked_spans(messages, tokenizer)
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render(messages[:i], tokenizer, add_generation_prompt=True)
        through = render(messages[: i + 1], tokenizer, add_generation_prompt=False)
        if not rendered.startswith(through):
            raise BadRow(
                "the chat template renders an earlier turn differently when later turns follow",
                "use a template with {% generation %} marks, or single-turn data",
            )
        spans.append((_common_prefix_length(before, rendered), len(through)))
    return spans


def close_turns(ids: Sequence[int], trained: Sequence[bool], stop: int | None) -> list[bool]:
    """The loss mask, changed so that each trained span ends with its stop token, after which nothing is sampled.

    A span with stop tokens in it is cut after the last of them; a span that is followed by a stop token is extended to
    include it.

    >>> close_turns([7, 8, 1, 5, 9, 1], [True, True, True, True, False, False], 1)
    [True, True, True, False, False, False]
    >>> close_turns([7, 8, 1, 5], [True, True, False, False], 1)
    [True, True, True, False]
    """
    closed = list(trained)
    starts = [i for i, is_trained in enumerate(trained) if is_trained and not (i and trained[i - 1])]
    for start in starts:
        end = next((i for i in range(start, len(ids)) if not trained[i]), len(ids))
        stops = [i for i in range(start, end) if ids[i] == stop]
        if stops:
            closed[stops[-1] + 1 : end] = [False] * (end - stops[-1] - 1)
        elif end < len(ids) and ids[end] == stop:
            closed[end] = True
    return closed


def _marked_spans(messages: Messages, tokenizer: "PreTrainedTokenizerBase") -> list[Span]:
    from transformers.utils.chat_template_utils import render_jinja_template

    found: Any = render_jinja_template(
        conversations=[_plain(messages)],
        chat_template=tokenizer.get_chat_template(),
        return_assistant_tokens_mask=True,
        **cast(dict[str, Any], tokenizer.special_tokens_map),
    )
    _, (spans,) = found
    return [(start, end) for start, end in spans]


def _plain(messages: Messages) -> Any:
    return [dict(message) for message in messages]


def _common_prefix_length(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
