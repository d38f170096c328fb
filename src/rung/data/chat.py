"""Conversations as text, and which of it the assistant says."""

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
    """The conversation as the tokenizer's chat template writes it.

    Raises `DataError` where the tokenizer has no template, `BadRow` where the template refuses the turns.
    """
    if tokenizer.chat_template is None:
        raise DataError(
            "the data is chat messages and the model's tokenizer has no chat template",
            "start from a chat model, give its folder a chat_template.jinja, or use texts as prompt and completion",
        )
    try:
        rendered = tokenizer.apply_chat_template(
            _plain(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except (jinja2.TemplateError, TypeError) as error:  # a template that adds texts meets a field that is none
        raise BadRow("the chat template refuses the turns", str(error)) from error
    assert isinstance(rendered, str)
    return rendered


def assistant_spans(messages: Messages, rendered: str, tokenizer: "PreTrainedTokenizerBase") -> list[Span]:
    """The characters of `rendered` that the assistant says, end-of-turn marks included where the template has them so.

    Read from the template's own `{% generation %}` marks where it has them, else from renderings of ever more turns.
    Raises `BadRow` where the template writes an earlier turn differently once later ones follow.
    """
    if re.search(r"\{%-?\s*generation\s*-?%\}", tokenizer.get_chat_template()):
        return _marked_spans(messages, tokenizer)
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        head = render(messages[:i], tokenizer, add_generation_prompt=True)
        told = render(messages[: i + 1], tokenizer, add_generation_prompt=False)
        if not rendered.startswith(told):
            raise BadRow(
                "the chat template writes an earlier turn differently once later ones follow",
                "use one with {% generation %} marks, or train on single turns",
            )
        spans.append((_parting(head, rendered), len(told)))
    return spans


def close_turns(ids: Sequence[int], trained: Sequence[bool], stop: int | None) -> list[bool]:
    """The mask with every trained run ending on its stop token: what a sampler never writes is not trained.

    A run that holds the stop token ends on its last one; a run that stops just before one takes it in.

    >>> close_turns([7, 8, 1, 5, 9, 1], [True, True, True, True, False, False], 1)
    [True, True, True, False, False, False]
    >>> close_turns([7, 8, 1, 5], [True, True, False, False], 1)
    [True, True, True, False]
    """
    closed = list(trained)
    starts = [i for i, now in enumerate(trained) if now and not (i and trained[i - 1])]
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


def _parting(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
