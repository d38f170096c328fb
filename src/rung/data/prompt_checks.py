"""Checks of how a template writes a prompt, by rendering it once more in another way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rung.data.completeness import NO_TOOLS
from rung.data.records import TemplateFault
from rung.data.templates import Chat, ChatTemplate, End, render
from rung.data.tokens import num_shared

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_tools(chat: Chat, text: str, template: ChatTemplate, tokenizer: PreTrainedTokenizerBase, end: End) -> None:
    """Raises `BadRow` if a chat that has tools is written as if it had none, though its calls name them."""
    if not chat.tools:
        return
    try:
        bare = render(replace(chat, tools=()), template, tokenizer, end=end)
    except TemplateFault:  # it needs them
        return
    if bare == text:
        raise TemplateFault(NO_TOOLS, "it writes the same without them")


def check_same_prompt(
    chat: Chat, asked: str, text: str, template: ChatTemplate, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raises `BadRow` if a text that does not begin with the prompt differs from it in more than the generation prompt.

    The sequence would then be neither that of sampling nor one that the template writes.
    """
    bare = render(chat, template, tokenizer, end="turn")
    shared = num_shared(asked, text)
    if shared < num_shared(asked, bare):
        found, expected = (f"{side[max(shared - 8, 0) : shared + 24]!r}" for side in (text, asked))
        raise TemplateFault(
            "the chat template writes the prompt differently once an answer follows", f"{found}, not {expected}"
        )
