"""Renders a chat for sampling and for training, and finds the text in it that is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar, cast

from rung.data.completeness import ABOUT_TOOLS, check_prompt_text, end_of_messages
from rung.data.open_calls import has_open_call
from rung.data.prompt_checks import check_same_prompt, check_tools
from rung.data.records import BadRow, Message, Messages, TemplateFault
from rung.data.templates import (
    REJECTED,
    Chat,
    ChatTemplate,
    in_all_forms,
    own_template,
    render,
    render_marked,
    training_template,
)
from rung.data.tokens import Span, num_shared
from rung.data.turns import ADVICE, end_of_turn, find_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRAINING = "rendered with TRL's training template `{}`, since the model's own has no {{% generation %}} marks"
OTHER_START = "the chat template begins the answer differently from its generation prompt"
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Rendering:
    """A chat as text: the answer begins at `boundary`, and the characters in `spans` are trained."""

    text: str
    boundary: int
    spans: tuple[Span, ...]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A prompt: the chat, and the text after which an answer is sampled (see `render_prompt`)."""

    chat: Chat
    text: str


def render_prompt(chat: Chat, tokenizer: PreTrainedTokenizerBase) -> RenderedPrompt:
    """The chat with the text that an answer is sampled after, rendered with the model's own template.

    The text ends with the generation prompt; if the last message is the assistant's, it ends with that message, which a
    model continues, or, if it calls a tool, with its turn. Raises `DataError` if the tokenizer has no template, and
    `BadRow` if the template rejects the messages, or leaves out the tools or a message that is not the assistant's.
    """
    end = "turn" if chat.messages[-1].get("tool_calls") else "prefill" if chat.is_prefill else "prompt"

    def asked(template: ChatTemplate) -> RenderedPrompt:
        text = render(chat, template, tokenizer, end=end)
        check_prompt_text(chat, text)
        check_tools(chat, text, template, tokenizer, end)
        return RenderedPrompt(chat, text)

    return _first_possible(asked, in_all_forms(own_template(tokenizer, chat), chat))


def training_templates(chat: Chat, tokenizer: PreTrainedTokenizerBase, *, prefer_own: bool) -> list[ChatTemplate]:
    """The templates that may render a chat for training, in the order in which they are tried.

    The model's own template is enough if it has `{% generation %}` marks. Otherwise TRL's training template for it, if
    there is one, comes before it, or after it with `prefer_own`.
    """
    own = own_template(tokenizer, chat)
    training = None if own.is_marked else training_template(own)
    if training is None:
        return [own]
    return [own, training] if prefer_own else [training, own]


@dataclass(frozen=True, slots=True)
class AnswerRenderer:
    """Renders prompts with their answers for training.

    `stops` are the texts of the tokens that end a turn. `by_turn`: only the assistant turns of an answer are trained,
    otherwise the whole answer.
    """

    tokenizer: PreTrainedTokenizerBase
    stops: tuple[str, ...]
    by_turn: bool

    def render(
        self, asked: RenderedPrompt, answers: Sequence[Messages], templates: Sequence[ChatTemplate]
    ) -> list[Rendering]:
        """A prompt with each of its answers, rendered by the first of `templates` that writes all that they say.

        Raises `BadRow` if no template gives every assistant turn exactly once, for an answer that does not begin with
        the assistant (or with the result of a call in the prompt), and for `weight: 0` if the whole answer is trained.
        """
        for answer in answers:
            _check_answer(asked, answer, self.by_turn)
        chats = [_joined(asked, answer) for answer in answers]
        messages = replace(asked.chat, messages=tuple(message for chat in chats for message in chat.messages))

        def renderings(template: ChatTemplate) -> list[Rendering]:
            make = self._marked if template.is_marked and self.by_turn else self._unmarked
            made = [make(asked, answer, chat, template) for answer, chat in zip(answers, chats, strict=True)]
            if not template.name:
                return made
            notice = TRAINING.format(template.name)
            return [replace(one, notices=(*one.notices, notice)) for one in made]

        return _first_possible(
            renderings, [form for template in templates for form in in_all_forms(template, messages)]
        )

    def _marked(self, asked: RenderedPrompt, answer: Messages, chat: Chat, template: ChatTemplate) -> Rendering:
        """The rendering by a template with marks, which are taken as they are."""
        text, marks = render_marked(chat, template, self.tokenizer)
        check_prompt_text(chat, text)
        spans = _merged(marks)
        begins = text.startswith(asked.text)
        if not begins:
            check_same_prompt(asked.chat, asked.text, text, template, self.tokenizer)
        shared = len(asked.text) if begins else num_shared(asked.text, text)
        earlier = self._spans_of_prompt(asked, template)
        answered = [(start, end) for start, end in spans[len(earlier) :] if end > shared or not begins]
        if not answered or (asked.chat.is_prefill and not begins):
            raise TemplateFault(OTHER_START, ADVICE)
        # A mark may begin before the generation prompt ends; the prompt then ends where the mark begins. A template
        # that writes earlier turns differently shares only a part of the prompt.
        is_whole = not earlier or shared >= spans[len(earlier) - 1][1]
        boundary = shared if asked.chat.is_prefill else min(shared, answered[0][0]) if is_whole else answered[0][0]
        assistants = [message for message in answer if message["role"] == "assistant"]
        end_of_messages(assistants, "\0".join(text[max(start, boundary) : end] for start, end in answered))
        trained = answered
        if not all(map(is_trained, answer)):
            turns = [message for message in chat.messages if message["role"] == "assistant"]
            if len(turns) != len(spans):
                raise TemplateFault("the {% generation %} marks do not show which turn has `weight: 0`", ADVICE)
            trained = [span for span, turn in zip(spans, turns, strict=True) if span in answered and is_trained(turn)]
        closed = tuple((max(start, boundary), self._with_stop(text, end)) for start, end in trained)
        return Rendering(text, boundary, closed, () if begins else (OTHER_START,))

    def _spans_of_prompt(self, asked: RenderedPrompt, template: ChatTemplate) -> list[Span]:
        """The marked spans of the assistant turns in a prompt, but for a prefill, which the answer continues."""
        turns = asked.chat.messages[:-1] if asked.chat.is_prefill else asked.chat.messages
        if not any(message["role"] == "assistant" for message in turns):
            return []
        return _merged(render_marked(replace(asked.chat, messages=turns), template, self.tokenizer)[1])

    def _unmarked(self, asked: RenderedPrompt, answer: Messages, chat: Chat, template: ChatTemplate) -> Rendering:
        """The rendering by a template without marks, or of an answer that is trained as a whole."""
        text = render(chat, template, self.tokenizer, end="turn")
        check_prompt_text(chat, text)
        begins = text.startswith(asked.text)
        if not begins:
            check_same_prompt(asked.chat, asked.text, text, template, self.tokenizer)
        if not self.by_turn or len(answer) == 1:
            boundary = num_shared(asked.text, text)
            said = end_of_messages(answer, text, boundary)
            if not begins:
                raise TemplateFault(OTHER_START, ADVICE)
            end = end_of_turn(text, said, len(text), self.stops)
            spans = ((boundary, len(text) if end is None else end),)
            return Rendering(text, boundary, spans if all(map(is_trained, answer)) else ())
        first = len(chat.messages) - len(answer)
        turns = find_turns(chat, text, template, self.tokenizer, self.stops)
        last = max(turns)
        boundary = len(asked.text) if begins else turns[first].start
        if not turns[last].is_sampled or (asked.chat.is_prefill and not begins):
            raise TemplateFault(OTHER_START, ADVICE)
        spans = tuple(
            (max(turn.start, boundary), turn.end)
            for i, turn in turns.items()
            if i >= first and is_trained(chat.messages[i])
        )
        sampled = all(turn.is_sampled for i, turn in turns.items() if i >= first)
        return Rendering(text, boundary, spans, () if sampled else (OTHER_START,))

    def _with_stop(self, text: str, end: int) -> int:
        """The end of a span, moved to the end of the stop token that follows it directly, if there is one."""
        return next((end + len(stop) for stop in self.stops if text.startswith(stop, end)), end)


def is_trained(message: Message) -> bool:
    """Whether a message may be trained: its `weight` is not 0."""
    return message.get("weight") != 0


def _check_answer(asked: RenderedPrompt, answer: Messages, by_turn: bool) -> None:
    begins = answer[0]["role"]
    after_call = begins == "tool" and has_open_call(asked.chat.messages)
    if begins != "assistant" and not after_call:
        raise BadRow("the completion does not begin with an assistant turn", f"but with a {begins} turn")
    if not any(message["role"] == "assistant" for message in answer):
        raise BadRow("the completion has no assistant turn")
    if not by_turn and not all(map(is_trained, answer)):
        raise BadRow("a turn with `weight: 0` is trained if every turn is", "set `assistant_only_loss: true`")


def _joined(asked: RenderedPrompt, answer: Messages) -> Chat:
    """The chat of a prompt and its answer, in which the answer continues a prefill."""
    messages = asked.chat.messages
    if asked.chat.is_prefill and answer[0]["role"] == "assistant":
        prefill, continued = messages[-1], answer[0]
        whole = {**continued, "content": prefill["content"] + continued["content"]}
        return replace(asked.chat, messages=(*messages[:-1], cast(Message, whole), *answer[1:]))
    return replace(asked.chat, messages=(*messages, *answer))


def _merged(spans: Sequence[Span]) -> list[Span]:
    """The spans with adjacent ones joined, and empty ones left out.

    >>> _merged([(0, 2), (2, 3), (5, 5), (6, 8)])
    [(0, 3), (6, 8)]
    """
    merged: list[Span] = []
    for start, end in spans:
        if merged and start == merged[-1][1]:
            merged[-1] = (merged[-1][0], end)
        elif end > start:
            merged.append((start, end))
    return merged


def _first_possible(make: Callable[[ChatTemplate], Made], templates: Sequence[ChatTemplate]) -> Made:
    """The result for the first template for which `make` raises no `BadRow`.

    If there is none, raises the first error, or one about tools, which says more than that a form of calls is rejected.
    """
    error: BadRow | None = None
    for template in templates:
        try:
            return make(template)
        except BadRow as fault:
            if error is None or (fault.cause in ABOUT_TOOLS and REJECTED in error.cause):
                error = fault
    assert error is not None, "there is at least one template"
    raise error
