"""The sample that a reward judges, and the standard fields that its parameters can refer to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rung.reward.returned import copied
from rung.reward.text import raw_text, visible_text
from rung.reward.trajectory import Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rung.batch import Completion

Text = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One completion, its prompt, and the columns of the row that the prompt came from.

    `prompt` and `completion` are strings, or messages if the data are conversational. `n_tokens` is the number of
    completion tokens, EOS included; of a trajectory, that of the tokens that the model sampled. `raw_completion` is the
    text with special tokens, without EOS at its end. Samples of the same `group` have the same prompt and are compared
    with each other. `trajectory` is set in stages with tools or environments.
    """

    prompt: Text
    completion: Text
    completion_ids: Sequence[int]
    prompt_ids: Sequence[int]
    raw_completion: str | None = None
    finish_reason: str
    n_tokens: int
    row_id: str
    group: int
    columns: Mapping[str, Any] = field(default_factory=dict)
    trajectory: Trajectory | None = None

    @property
    def answer(self) -> str:
        """The text of the model's answer; of a trajectory, that of its last turn."""
        return text_of(self.completion) if self.trajectory is None else self.trajectory.final_text

    @property
    def raw(self) -> str:
        """The text of the completion with its special tokens, if they are known."""
        return self.answer if self.raw_completion is None else self.raw_completion

    @property
    def has_hidden_tokens(self) -> bool:
        """Whether the completion has special tokens that its text leaves out."""
        return self.raw != self.answer


def text_of(text: Text) -> str:
    """The text of a string or of messages: a string is unchanged, contents of messages are joined by blank lines.

    >>> text_of([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
    'Be brief.\\n\\nWhy?'
    """
    if isinstance(text, str):
        return text
    return "\n\n".join(str(message.get("content") or "") for message in text)


def messages_of(text: Text, role: str) -> list[dict[str, Any]]:
    """Converts a string to a list with one message of `role`; messages are returned as a list of copies.

    >>> messages_of("Why?", "user")
    [{'role': 'user', 'content': 'Why?'}]
    """
    if isinstance(text, str):
        return [{"role": role, "content": text}]
    return [copied(dict(message)) for message in text]


def native(text: Text, role: str) -> str | list[dict[str, Any]]:
    """The form that TRL passes to reward functions: a string, or a list of messages."""
    return text if isinstance(text, str) else messages_of(text, role)


STANDARD_FIELDS: Mapping[str, Callable[[Sample], Any]] = {
    "prompt": lambda sample: text_of(sample.prompt),
    "messages": lambda sample: messages_of(sample.prompt, "user") + messages_of(sample.completion, "assistant"),
    "completion": lambda sample: sample.answer,
    "completion_ids": lambda sample: list(sample.completion_ids),
    "prompt_ids": lambda sample: list(sample.prompt_ids),
    "raw_completion": lambda sample: sample.raw,
    "finish_reason": lambda sample: sample.finish_reason,
    "n_tokens": lambda sample: sample.n_tokens,
    "row_id": lambda sample: sample.row_id,
}

# Fields of stages with tools or environments; elsewhere, these are names of columns.
TRAJECTORY_FIELDS: Mapping[str, Callable[[Sample], Any]] = {
    "turns": lambda sample: 1 if sample.trajectory is None else sample.trajectory.turns,
    "tool_calls": lambda sample: [call.as_dict() for call in sample.trajectory.calls] if sample.trajectory else [],
    "environment": lambda sample: sample.trajectory and sample.trajectory.environment,
}
TRL_TRAJECTORY_FIELDS: Mapping[str, Callable[[Sample], Any]] = {"environments": TRAJECTORY_FIELDS["environment"]}

TRL_FIELDS: Mapping[str, Callable[[Sample], Any]] = {
    "prompts": lambda sample: native(sample.prompt, "user"),
    "completions": lambda sample: native(sample.completion, "assistant"),
    "completion_ids": lambda sample: list(sample.completion_ids),
    "prompt_ids": lambda sample: list(sample.prompt_ids),
}


def answered_sample(
    prompt: Text,
    completion: Completion,
    tokenizer: PreTrainedTokenizerBase,
    *,
    prompt_ids: Sequence[int],
    row_id: str,
    group: int,
    columns: Mapping[str, Any],
    skip_special_tokens: bool = True,
    trajectory: Trajectory | None = None,
) -> Sample:
    """The Sample for a sampled completion, which is decoded; if the prompt is conversational, it becomes a message.

    A trajectory has its own messages. With `skip_special_tokens`, tokens such as `<think>` are only in
    `raw_completion`, if they are special tokens.
    """
    raw = raw_text(completion, tokenizer)
    text = visible_text(completion, tokenizer) if skip_special_tokens else raw
    messages = ({"role": "assistant", "content": text},) if trajectory is None else trajectory.messages
    return Sample(
        prompt=prompt,
        completion=text if isinstance(prompt, str) else messages,
        completion_ids=completion.ids,
        raw_completion=raw,
        prompt_ids=prompt_ids,
        finish_reason=completion.finish_reason,
        n_tokens=sum(completion.trained),
        row_id=row_id,
        group=group,
        columns=columns,
        trajectory=trajectory,
    )
