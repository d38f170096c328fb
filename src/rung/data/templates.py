"""Chat templates: the model's own, TRL's training templates, and the rendering of a chat as text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

from rung.data.records import BadRow, Message, Messages, TemplateFault
from rung.data.tokens import Span
from rung.data.trl_templates import training_of
from rung.errors import DataError
from rung.utils.limits import LimitError, Limits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LIMITS = Limits(5.0, 2**30)  # of one rendering, which takes less than a millisecond
MAX_TEMPLATE = 2**20
REJECTED = "rejects the messages"
# Arguments of transformers' function, and what it passes to a template.
RESERVED = frozenset(
    {"conversations", "messages", "tools", "documents", "chat_template", "return_assistant_tokens_mask"}
    | {"add_generation_prompt", "continue_final_message"}
)
_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_NOW = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
_day: ContextVar[date | None] = ContextVar("day", default=None)


End = Literal["turn", "prompt", "prefill"]  # what a rendering ends with (see `render`)


@dataclass(frozen=True, slots=True)
class Chat:
    """What a chat template renders: messages, the tools that the model may call, and further template variables."""

    messages: Messages
    tools: tuple[Mapping[str, Any], ...] = ()  # JSON schemas, as in OpenAI's API
    variables: Mapping[str, Any] = field(default_factory=dict)  # the column `chat_template_kwargs`

    @property
    def is_prefill(self) -> bool:
        """Whether the last message is the assistant's, so that a model continues it."""
        return self.messages[-1]["role"] == "assistant"


def as_given(message: Message) -> Any:
    """The most common form of a message: tool arguments as an object, content as a string."""
    return message


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A Jinja chat template and the form in which it takes messages.

    `name` is that of a training template of TRL, and empty for the model's own template.
    """

    text: str
    name: str = ""
    form: Callable[[Message], Any] = as_given

    @property
    def is_marked(self) -> bool:
        """Whether the template marks what the assistant says with `{% generation %}`."""
        return _MARK.search(self.text) is not None


def own_template(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> ChatTemplate:
    """The tokenizer's chat template; of several named ones, the one for the tools of the chat.

    Raises `DataError` if the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise DataError(
            "the data has chat messages, but the model's tokenizer has no chat template",
            "start from a chat model, add a chat_template.jinja to its folder, or use strings as prompt and completion",
        )
    return ChatTemplate(tokenizer.get_chat_template(tools=[dict(tool) for tool in chat.tools] or None))


def training_template(template: ChatTemplate) -> ChatTemplate | None:
    """TRL's training template for this chat template, or None if TRL has none.

    A training template renders all turns alike, leaves out no reasoning, and has `{% generation %}` marks. TRL finds it
    by comparing the text with the chat templates of well-known models (`trl.chat_template_utils`).
    """
    found = training_of(template.text)
    return None if found is None else ChatTemplate(*found)


def render(chat: Chat, template: ChatTemplate, tokenizer: PreTrainedTokenizerBase, *, end: End) -> str:
    """The chat as text. Raises `BadRow` if the template rejects it.

    The text ends as the template ends the last message (`turn`), with the generation prompt after it (`prompt`), or
    with the content of the last message, which a model continues (`prefill`).
    """
    return _render(
        chat, template, tokenizer, add_generation_prompt=end == "prompt", continue_final_message=end == "prefill"
    )[0]


def render_marked(chat: Chat, template: ChatTemplate, tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[Span]]:
    """The chat as text, and the character spans in it that the `{% generation %}` marks of the template enclose.

    Raises `BadRow` if the template rejects the chat.
    """
    text, spans = _render(chat, template, tokenizer, return_assistant_tokens_mask=True)
    return text, [(start, end) for start, end in spans[0]]


def _render(
    chat: Chat, template: ChatTemplate, tokenizer: PreTrainedTokenizerBase, **how: bool
) -> tuple[str, Sequence[Sequence[Span]]]:
    """The text and the marked spans; the one place where a template runs, in Jinja's sandbox and within `LIMITS`."""
    from transformers.utils.chat_template_utils import render_jinja_template

    if taken := RESERVED & chat.variables.keys():
        raise BadRow(f"`chat_template_kwargs` sets `{min(taken)}`", "the rendering sets it")
    variables = {**tokenizer.special_tokens_map, **chat.variables}
    named = f"the chat template of `{tokenizer.name_or_path}`" if tokenizer.name_or_path else "the chat template"
    if len(template.text) > MAX_TEMPLATE:
        raise DataError(f"{named} has {len(template.text)} characters", f"use one of at most {MAX_TEMPLATE}")

    def rendered() -> Any:
        return render_jinja_template(
            conversations=[[_fields(template.form(message)) for message in chat.messages]],
            tools=[dict(tool) for tool in chat.tools] or None,
            chat_template=_with_date(template.text, _day.get() or _first_day()),
            **cast(dict[str, Any], how | variables),
        )

    try:
        (text,), spans = LIMITS.run(rendered)
    except LimitError as error:
        raise DataError(f"{named} {error}", "correct its chat_template.jinja, or use another model") from None
    except Exception as error:  # whatever the operations of a template raise: ZeroDivisionError, RecursionError, ...
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise TemplateFault(f"{named} {REJECTED}", reason) from error
    return text, spans


@contextmanager
def dated(day: date | Literal["today"]) -> Iterator[None]:
    """A context manager in which templates that write the current date write `day`."""
    token = _day.set(None if day == "today" else day)
    try:
        yield
    finally:
        _day.reset(token)


@lru_cache(maxsize=1)
def _first_day() -> date:
    """Today, or the day on which this process rendered its first chat."""
    return date.today()


@lru_cache(maxsize=64)
def _with_date(text: str, day: date) -> str:
    """The template with the date in place of each call of `strftime_now`, a function of transformers for the date."""
    moment = datetime.combine(day, time())
    return _NOW.sub(lambda call: json.dumps(moment.strftime(call[2])), text)


def _fields(message: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != "weight"}  # it is for training, not for templates


def in_all_forms(template: ChatTemplate, chat: Chat) -> list[ChatTemplate]:
    """The template with each form in which templates ask for the messages of this chat, the most common form first.

    Templates differ in whether the arguments of a tool call are an object or JSON text, whether a turn that only calls
    tools has empty or null content, and whether content is a string or a list of blocks.
    """
    calls = any(message.get("tool_calls") for message in chat.messages)
    several = (as_given, _null_content, _argument_text, _both, _blocks) if calls else (as_given, _blocks)
    return [replace(template, form=form) for form in several]


def _null_content(message: Message) -> Any:
    return {**message, "content": message["content"] or None} if message.get("tool_calls") else message


def _argument_text(message: Message) -> Any:
    calls = [_call_with_text(call) for call in message.get("tool_calls", ())]
    return {**message, "tool_calls": calls} if calls else message


def _both(message: Message) -> Any:
    return _null_content(_argument_text(message))


def _blocks(message: Message) -> Any:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def _call_with_text(call: Any) -> Any:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
