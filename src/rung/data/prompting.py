"""How questions are put to a model: the prompt template and the system message of a config."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from rung.data.json_text import loads
from rung.data.records import Example, Message, Messages, Text
from rung.errors import ConfigError, DataError
from rung.utils.files import write_text

CHAT = "chat"  # the prompt template that makes a chat of plain text
FILE = "prompt.json"  # beside the weights of a saved model
_FIELD = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True, slots=True)
class Prompting:
    """The keys `prompt_template` and `system` of a config.

    A row with a plain prompt is asked with the template: a text with `{prompt}` and, if there is a system message,
    `{system}`; or `chat`, which makes a user turn of the prompt and an assistant turn of each completion. A row with
    messages gets the system message if it has none. Raw text stays as it is. Raises ConfigError for a template that
    leaves one of them out.

    >>> Prompting("Q: {prompt}\\nA:").ask("2 + 2?")
    'Q: 2 + 2?\\nA:'
    """

    template: str | None = None
    system: str | None = None

    def __post_init__(self) -> None:
        if self.template is None or self.template == CHAT:
            return
        given = {"prompt"} if self.system is None else {"prompt", "system"}
        fields = set(_FIELD.findall(self.template))
        if fields != given:
            wanted = " and ".join(f"{{{name}}}" for name in sorted(given))
            what = f"`prompt_template` {self.template!r:.60} does not have exactly the fields {wanted}"
            raise ConfigError(what, f"write {wanted} into it, or `prompt_template: chat` for a chat model")

    def ask(self, prompt: Text) -> Text:
        """The prompt as it is put to the model."""
        if not isinstance(prompt, str):
            return self._with_system(prompt)
        if self.template == CHAT:
            return self._with_system((Message(role="user", content=prompt),))
        if self.template is None:
            return prompt
        values = {"prompt": prompt, "system": self.system or ""}
        return _FIELD.sub(lambda found: values[found[1]], self.template)

    def asked(self, example: Example) -> Example:
        """The example with its prompt as it is put to the model, and completions of the same form; its id is kept."""
        if self == Prompting() or example.kind == "text":
            return example
        if example.messages is not None:
            return replace(example, messages=self._with_system(example.messages))
        prompt = cast(Text, example.prompt)
        if isinstance(prompt, str) and self.template is None:
            what = f"{example.place}: `system` is set, but the prompt is plain text"
            raise DataError(what, "set `prompt_template: chat`, or to a text with {system} and {prompt}")
        if not isinstance(prompt, str) or self.template != CHAT:
            return replace(example, prompt=self.ask(prompt))
        completions = example.completions and tuple(_answer(text) for text in example.completions)
        return replace(
            example,
            prompt=self.ask(prompt),
            completion=_answer(example.completion),
            chosen=_answer(example.chosen),
            rejected=_answer(example.rejected),
            completions=completions,
        )

    def _with_system(self, messages: Messages) -> Messages:
        if self.system is None or messages[0]["role"] == "system":
            return messages
        return (Message(role="system", content=self.system), *messages)


@dataclass(frozen=True, slots=True)
class PromptForm:
    """How the rows asked on which a model was trained: as a chat or as plain text, and with which template.

    `rung generate` and `rung chat` ask the saved model in the same way.
    """

    chat: bool
    prompt_template: str | None = None
    system: str | None = None

    def ask(self, prompt: str) -> Text:
        """The question of a user as it is put to the model."""
        asked = Prompting(self.prompt_template, self.system).ask(prompt)
        if self.chat and isinstance(asked, str):
            return Prompting(CHAT, self.system).ask(prompt)
        return asked

    def save(self, folder: Path) -> None:
        """Writes `prompt.json` into the folder of a model."""
        write_text(folder / FILE, json.dumps(asdict(self), indent=2) + "\n")


def prompt_form_of(examples: Sequence[Example], prompting: Prompting) -> PromptForm:
    """How most of the examples ask, which have been put in the form of `prompting` already."""
    chats = sum(one.messages is not None or isinstance(one.prompt, tuple) for one in examples)
    return PromptForm(2 * chats > len(examples), prompting.template, prompting.system)


def read_prompt_form(folder: str, *, has_chat_template: bool) -> PromptForm:
    """How to ask the model in a folder: as `prompt.json` says, else as a chat if its tokenizer has a chat template."""
    file = Path(folder) / FILE
    if not file.is_file():
        return PromptForm(has_chat_template)
    try:
        known: Mapping[str, Any] = loads(file.read_text(encoding="utf-8"))
        texts = known.get("prompt_template"), known.get("system")
        if not all(text is None or isinstance(text, str) for text in texts):
            raise TypeError("`prompt_template` and `system` are texts")
        Prompting(*texts)  # raises ConfigError for a template without `{prompt}`
        return PromptForm(bool(known["chat"]), *texts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} cannot be read ({error})", "remove the file, or train the model again") from error


def _answer(text: Text | None) -> Text | None:
    return (Message(role="assistant", content=text),) if isinstance(text, str) else text
