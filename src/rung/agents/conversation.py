"""One row of a rollout as a conversation: the messages so far, the calls, and the environment it acts on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rung.agents.environments import reset as _reset
from rung.agents.parsing import Call, ParsedTurn
from rung.agents.results import ToolResult, mistake
from rung.agents.tools import Tool
from rung.data.records import Message
from rung.data.templates import Chat
from rung.reward.trajectory import CallRecord, Trajectory


@dataclass(slots=True, eq=False)
class Conversation:
    """The state of a row; `prompt_ids` come before its first turn, and `tools` are those that it may call."""

    prompt_ids: Sequence[int]
    tools: Mapping[str, Tool]
    variables: Mapping[str, Any] = field(default_factory=dict)  # of the chat template
    environment: Any = None
    messages: list[Message] = field(default_factory=list)
    calls: list[CallRecord] = field(default_factory=list)
    turns: int = 0
    iterations: int = 0  # turns with calls that were answered
    failure: str = ""
    ids: list[int] = field(default_factory=list)
    answer_ids: Sequence[int] = ()  # of the last answer
    begin: Callable[[], str | None] | None = None  # resets the environment

    @property
    def schemas(self) -> list[Mapping[str, Any]]:
        """The schemas of the tools."""
        return [tool.schema for tool in self.tools.values()]

    @property
    def chat(self) -> Chat:
        """What the chat template is given beside messages: the schemas of the tools, and the variables."""
        return Chat((), tuple(self.schemas), self.variables)

    @property
    def before(self) -> Sequence[int]:
        """The ids that precede the next turn, from the end of the turn before."""
        return self.answer_ids if self.turns else self.prompt_ids

    def reset(self, row: Mapping[str, Any], seed: int) -> str | None:
        """Resets the environment; returns what it tells, or None if it tells nothing or fails."""
        self.begin = partial(_reset, self.environment, row, seed)
        return self._begun()

    def restart(self) -> None:
        """Forgets everything after the prompt; the environment is reset if it has been acted on."""
        begun = self.turns > 0
        self.messages, self.calls, self.ids = [], [], []
        self.turns = self.iterations = 0
        self.answer_ids = ()
        if begun:
            self.failure = ""
            self._begun()

    def _begun(self) -> str | None:
        if self.begin is None:
            return None
        try:
            return self.begin()
        except Exception as error:  # the code of a user may raise anything
            self.failure = f"`reset` raised {type(error).__name__}: {str(error)[:200]}"
            return None

    def hear(self, ids: Sequence[int], parsed: ParsedTurn) -> None:
        """Takes a turn of the model."""
        self.ids += ids
        self.messages.append(parsed.message)
        self.turns += 1

    def record(self, parsed: ParsedTurn, results: Sequence[ToolResult]) -> list[Message]:
        """Takes the results of the calls of the last turn; returns the messages that tell them to the model.

        Calls that could not be read come after the others; each has a message of its own.
        """
        unread = [mistake(told) for told in parsed.mistakes]
        told = [*((call, result) for call, result in zip(parsed.calls, results, strict=True))]
        told += [(Call("unknown", {}), result) for result in unread]
        for number, (call, result) in enumerate(told):
            kind = "unreadable" if number >= len(parsed.calls) else "known" if call.name in self.tools else "unknown"
            one = CallRecord(
                turn=self.turns - 1,
                name=call.name,
                arguments=call.arguments,
                content=result.content,
                status=result.status,
                kind=kind,
                seconds=result.seconds,
            )
            self.calls.append(replace(one, repeated=_signature(one) in map(_signature, self.calls)))
            if result.status == "failed" and not self.failure:
                self.failure = f"tool `{call.name}` failed ({result.note})"
        return [_message(call, result) for call, result in told]

    def answer(self, messages: Sequence[Message], ids: Sequence[int]) -> None:
        """Takes the messages that answer the last turn, and their ids."""
        self.messages += messages
        self.ids += ids
        self.answer_ids = ids
        self.iterations += 1

    @property
    def is_done(self) -> bool:
        """Whether the environment says that the task is over."""
        return getattr(self.environment, "done", False) is True

    def trajectory(self) -> Trajectory:
        """What rewards read of the row."""
        return Trajectory(tuple(self.messages), tuple(self.calls), self.turns, self.environment, self.failure)


def _signature(call: CallRecord) -> str:
    return json.dumps([call.name, call.arguments, call.content], sort_keys=True, default=str)


def _message(call: Call, result: ToolResult) -> Message:
    message = Message(role="tool", name=call.name, content=result.content)
    return {**message, "tool_call_id": call.id} if call.id else message
