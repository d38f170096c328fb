"""The world of a rollout: reads the turns of the model, calls the tools, and writes the answers as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rung.agents.bridge import Bridge
from rung.agents.calling import ToolCaller
from rung.agents.conversation import Conversation
from rung.agents.parsing import ParsedTurn, TurnParser
from rung.agents.protocol import Answer, RowName, Turn
from rung.agents.results import ToolResult
from rung.batch import Completion
from rung.data.records import BadRow, Message
from rung.data.tokens import tokens
from rung.errors import DataError
from rung.reward.trajectory import Trajectory

CUT = " ... (cut off)"
_MOST_CHARACTERS = 256  # of a token; a text with more for each token that has room is not tokenised


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a row: the turns whose calls are answered, and the tokens of one result; None for no limit."""

    max_tool_calling_iterations: int | None = None
    max_tool_result_tokens: int | None = None


class ToolWorld:
    """Answers the turns of conversations with the results of their calls.

    `conversations` has the state of each row, `visits` the visit of each prompt: the random numbers of a tool depend
    on the visit, the sample, and the place of the call.
    """

    def __init__(
        self,
        conversations: Mapping[RowName, Conversation],
        visits: Sequence[int],
        *,
        parser: TurnParser,
        bridge: Bridge,
        caller: ToolCaller,
        limits: Limits,
    ):
        self.conversations, self.visits = conversations, visits
        self.parser, self.bridge, self.caller, self.limits = parser, bridge, caller, limits
        self._ready: list[tuple[RowName, Answer]] = []
        self._open: dict[int, tuple[RowName, ParsedTurn, Turn]] = {}

    def start(self, rows: Sequence[RowName]) -> None:
        """Begins rows, from the start if they have begun before."""
        again = set(rows)
        for ticket in [ticket for ticket, (row, *_) in self._open.items() if row in again]:
            self.caller.forget(ticket)
            del self._open[ticket]
        self._ready = [(row, answer) for row, answer in self._ready if row not in again]
        for row in rows:
            self.conversations[row].restart()

    def submit(self, row: RowName, turn: Turn) -> bool:
        """Takes a turn and starts its calls; false if it has none, so that the row has ended."""
        conversation = self.conversations[row]
        parsed = self.parser.parse(turn.ids, conversation.before, conversation.schemas)
        conversation.hear(turn.ids, parsed)
        if conversation.failure:
            self._ready.append((row, Answer(end="tool_failed")))
            return True
        if not parsed.calls and not parsed.mistakes:
            return False
        if conversation.iterations == self.limits.max_tool_calling_iterations:
            self._ready.append((row, Answer(end="turns")))
            return True
        ticket = _ticket(self.visits[row[0]], row[1], conversation.turns)
        self._open[ticket] = row, parsed, turn
        self.caller.submit(ticket, parsed.calls, conversation.tools)
        return True

    def answers(self, timeout_s: float) -> list[tuple[RowName, Answer]]:
        """The answers that have come since the last call; waits for the first at most `timeout_s` seconds."""
        for ticket, results in self.caller.poll(0.0 if self._ready else timeout_s):
            row, parsed, turn = self._open.pop(ticket)
            self._ready.append((row, self._answer(self.conversations[row], parsed, results, turn)))
        ready, self._ready = self._ready, []
        return ready

    def trajectory(self, row: RowName, completion: Completion) -> Trajectory:
        """What a row went through, once it has ended: `completion` has its tokens.

        A turn that the limit of tokens cut off is not submitted, and is taken from the completion.
        """
        conversation = self.conversations[row]
        rest = completion.ids[len(conversation.ids) :]
        if rest:
            parsed = self.parser.parse(rest, conversation.before, conversation.schemas)
            text = parsed.message["content"]
            conversation.hear(rest, ParsedTurn(Message(role="assistant", content=text), (), ()))
        return conversation.trajectory()

    def _answer(
        self, conversation: Conversation, parsed: ParsedTurn, results: Sequence[ToolResult], turn: Turn
    ) -> Answer:
        messages = [self._within_limit(message) for message in conversation.record(parsed, results)]
        if conversation.failure:
            return Answer(end="tool_failed")
        if conversation.is_done:
            conversation.messages += messages
            return Answer(end="done")
        if sum(len(message["content"]) for message in messages) > _MOST_CHARACTERS * turn.room:
            return Answer(end="answer_length")
        last = str(self.bridge.tokenizer.decode([turn.ids[-1]])) if turn.finish_reason == "eos" else ""
        try:
            ids = self.bridge.ids(messages, conversation.chat, ended_by=last)
        except (BadRow, DataError) as fault:
            conversation.failure = f"the result of a tool cannot be written: {fault}"
            return Answer(end="tool_failed")
        if len(ids) >= turn.room:
            return Answer(end="answer_length")
        conversation.answer(messages, ids)
        return Answer(ids)

    def _within_limit(self, message: Message) -> Message:
        limit, content = self.limits.max_tool_result_tokens, message["content"]
        if limit is None or len(content.encode()) <= limit:  # a token has at least one byte
            return message
        spans = tokens(content[: _MOST_CHARACTERS * limit], self.bridge.tokenizer, special=False)[1]
        if len(spans) <= limit and len(content) <= _MOST_CHARACTERS * limit:
            return message
        return {**message, "content": content[: spans[limit - 1][1]] + CUT}


def _ticket(visit: int, sample: int, turn: int) -> int:
    """A number for the calls of a turn, which no other turn of the run has."""
    return (visit << 64) | (sample << 32) | turn
