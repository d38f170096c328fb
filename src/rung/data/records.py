"""The records to which rows are converted: first `Example` (text), then `Encoded` (token ids)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NotRequired, TypedDict

from rung.errors import DataError

Kind = Literal["text", "messages", "prompt-completion", "preference", "ranking", "unpaired", "prompt"]


class Message(TypedDict):
    """One message of a conversation, as in TRL's conversational format."""

    role: str
    content: str
    name: NotRequired[str]
    tool_call_id: NotRequired[str]
    tool_calls: NotRequired[list[Any]]
    weight: NotRequired[Literal[0]]  # an assistant turn that is not trained


Messages = tuple[Message, ...]
Text = str | Messages


class BadRow(ValueError):
    """Raised for a row that cannot be used; `cause` names the kind of fault, `detail` is about this row.

    The data report counts rows by `cause`; `remedy` is what can be done about the row.
    """

    remedy: ClassVar[str] = "fix the row"

    def __init__(self, cause: str, detail: str = ""):
        super().__init__(f"{cause} ({detail})" if detail else cause)
        self.cause = cause


class TemplateFault(BadRow):
    """Raised for a chat that the chat template does not write as a whole."""

    remedy: ClassVar[str] = "change the chat, give the model a chat template that writes all of it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A training or evaluation example, converted from a row; which fields are set depends on `kind`.

    `columns` has the columns that the conversion did not use, and, if the format has a gold answer, that answer as
    `ground_truth`; rewards and metrics read them. Splits never separate examples with equal `group`; by default these
    are the examples with equal prompts.
    """

    kind: Kind
    source: str  # file and row, as in "pairs.jsonl:12"
    id: str  # a hash of the content, 16 hex digits
    group: str
    prompt: Text | None = None
    completion: Text | None = None
    chosen: Text | None = None
    rejected: Text | None = None
    completions: tuple[Text, ...] | None = None  # those of a ranking, the best one first
    text: str | None = None
    messages: Messages | None = None
    label: bool | None = None
    margin: float | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()  # JSON schemas, for the chat template
    template_variables: Mapping[str, Any] = field(default_factory=dict)  # of the chat template
    line: int | None = None  # of the row in its file, if it is not the number of the row

    @property
    def place(self) -> str:
        """The file, row and line in words, for error messages, as in `pairs.csv, row 12 (line 15)`."""
        return place_of(self.source, self.line)


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion: its token ids and its loss mask (`trained`), which have the same length."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example as token ids: a prompt of at least one token, and its completions (`answers`).

    There is one answer for raw text and for a prompt with a completion, two for a pair (chosen first), all completions
    for a ranking (best first), and none for a prompt for which completions are to be sampled.
    """

    id: str
    source: str
    prompt_ids: tuple[int, ...]
    answers: tuple[Answer, ...]
    example: Example

    @property
    def num_tokens(self) -> int:
        """The number of tokens of the prompt and all completions."""
        return len(self.prompt_ids) + sum(len(answer.ids) for answer in self.answers)


def place_of(source: str, line: int | None = None) -> str:
    """The place of a row in words, from its short form and its line, if that is not the number of the row.

    >>> place_of("a.jsonl:41"), place_of("a.csv:41", 50), place_of("a.jsonl:41#2")
    ('a.jsonl, row 41', 'a.csv, row 41 (line 50)', 'a.jsonl, row 41, part 2')
    """
    file, colon, number = source.rpartition(":")
    if not colon:
        return source
    number, mark, part = number.partition("#")
    return (
        f"{file}, row {number}" + (f" (line {line})" if line is not None else "") + (f", part {part}" if mark else "")
    )


def digest(*content: Any) -> str:
    """A hash (16 hex digits) of JSON-like values; it is the same in every process and for any order of keys.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_example(
    kind: Kind,
    source: str,
    columns: Mapping[str, Any],
    *,
    prompt: Text | None = None,
    completion: Text | None = None,
    chosen: Text | None = None,
    rejected: Text | None = None,
    completions: tuple[Text, ...] | None = None,
    text: str | None = None,
    messages: Messages | None = None,
    label: bool | None = None,
    margin: float | None = None,
) -> Example:
    """An example whose `id` is a hash of its content and whose `group` is a hash of its prompt.

    >>> a = make_example("prompt", "x.jsonl:1", {"answer": "4"}, prompt="2 + 2?")
    >>> b = make_example("prompt", "y.jsonl:7", {"answer": "5"}, prompt="2 + 2?")
    >>> a.id == b.id, a.group == b.group
    (False, True)
    """
    known = {name: value for name, value in columns.items() if value is not None}
    answers = () if completions is None else (completions,)  # so that examples of other kinds keep their ids
    shown = first_turns(messages) if messages is not None else prompt if prompt is not None else text
    return Example(
        kind=kind,
        source=source,
        id=digest(kind, prompt, completion, chosen, rejected, *answers, text, messages, label, margin, known),
        group=digest(shown),
        prompt=prompt,
        completion=completion,
        chosen=chosen,
        rejected=rejected,
        completions=completions,
        text=text,
        messages=messages,
        label=label,
        margin=margin,
        columns=columns,
    )


def first_turns(messages: Messages) -> Messages:
    """The turns before the first assistant turn.

    >>> first_turns(({"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}))
    ({'role': 'user', 'content': 'hi'},)
    """
    end = next((i for i, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
    return messages[:end]


def as_row(example: Example) -> dict[str, Any]:
    """The example as a row that can be read again: its texts or messages, and its columns.

    >>> as_row(make_example("prompt", "x.jsonl:1", {"answer": "4"}, prompt="2 + 2?"))
    {'prompt': '2 + 2?', 'answer': '4'}
    """
    names = ("prompt", "completion", "chosen", "rejected", "completions", "text", "messages", "label", "margin")
    values = {name: getattr(example, name) for name in names}
    return {name: value for name, value in values.items() if value is not None} | dict(example.columns)


def as_unpaired(example: Example) -> list[Example]:
    """Converts a pair to two unpaired examples: the chosen completion with label true, the rejected one with false.

    An example that is unpaired already is returned unchanged.

    >>> pair = make_example("preference", "x.jsonl:1", {}, prompt="2 + 2?", chosen="4", rejected="5")
    >>> [(one.completion, one.label) for one in as_unpaired(pair)]
    [('4', True), ('5', False)]
    """
    if example.kind == "unpaired":
        return [example]
    rows = ((example.chosen, True), (example.rejected, False))
    return [
        replace(
            example,
            kind="unpaired",
            id=digest(example.id, label),
            completion=side,
            chosen=None,
            rejected=None,
            label=label,
            margin=None,
        )
        for side, label in rows
    ]


def once_each(examples: Iterable[Example]) -> list[Example]:
    """The unpaired examples without repeats: an answer that several pairs of one row share is one example.

    >>> pair = make_example("preference", "x.jsonl:1#1", {}, prompt="2 + 2?", chosen="4", rejected="5")
    >>> other = make_example("preference", "x.jsonl:1#2", {}, prompt="2 + 2?", chosen="4", rejected="6")
    >>> [one.completion for one in once_each(one for both in (pair, other) for one in as_unpaired(both))]
    ['4', '5', '6']
    """
    seen: set[str] = set()
    kept = []
    for example in examples:
        row, mark, _ = example.source.rpartition("#")
        name = digest(row, example.completion, example.label)
        if not mark or name not in seen:
            kept.append(example)
        seen.add(name)
    return kept


def as_prompt(example: Example) -> Example:
    """Converts an example to one that has only a prompt, for which completions are sampled; the id stays the same.

    The prompt of a conversation is everything before its last turn, and the last turn becomes the column
    `ground_truth`, unless the row has this column already, or the turn only calls tools. Raises `DataError` for raw
    text.
    """
    if example.kind == "text":
        raise DataError(
            f"{example.place}: raw text has no prompt to sample from", "use rows that have a `prompt` or `messages`"
        )
    prompt, gold = example.prompt, None
    if example.messages is not None:
        prompt, gold = example.messages[:-1], example.messages[-1]["content"] or None
    columns = example.columns if gold is None else {"ground_truth": gold} | dict(example.columns)
    return replace(
        example,
        kind="prompt",
        prompt=prompt,
        completion=None,
        chosen=None,
        rejected=None,
        completions=None,
        messages=None,
        label=None,
        margin=None,
        columns=columns,
    )
