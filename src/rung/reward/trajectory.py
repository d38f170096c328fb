"""What a row with tools or an environment went through, as rewards, metrics and reports read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rung.reward.returned import copied

CallStatus = Literal["ok", "mistake", "failed"]
Kind = Literal["known", "unknown", "unreadable"]


@dataclass(frozen=True, slots=True)
class CallRecord:
    """A call of a tool and its result; `turn` is the number of the model's turn, from 0.

    `status`: `ok`, the model's `mistake`, or the tool itself `failed`. An `unreadable` call could not be parsed, and an
    `unknown` one names no tool. `repeated`: an earlier call of the row was the same and had the same result.
    """

    turn: int
    name: str
    arguments: Mapping[str, Any]
    content: str
    status: CallStatus
    kind: Kind = "known"
    repeated: bool = False
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The call as rewards see it: a copy as JSON values, without the time that it took."""
        return {
            "turn": self.turn,
            "name": self.name,
            "arguments": copied(dict(self.arguments)),
            "content": self.content,
            "status": self.status,
            "kind": self.kind,
            "repeated": self.repeated,
        }


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The messages after the prompt (turns of the model and answers), the calls in order, and the number of turns.

    `environment` is the instance that the row acted on, None if there is none. `failure` says why the row cannot be
    scored, and is empty if it can.
    """

    messages: Sequence[Mapping[str, Any]]
    calls: Sequence[CallRecord] = ()
    turns: int = 1
    environment: Any = None
    failure: str = ""

    @property
    def turn_rewards(self) -> list[float]:
        """The rewards that the environment gave for the turns so far, which are part of its reward."""
        return [float(reward) for reward in getattr(self.environment, "turn_rewards", None) or ()]

    @property
    def final_text(self) -> str:
        """The text of the model's last turn, empty if that turn only calls tools."""
        said = [message for message in self.messages if message["role"] == "assistant"]
        return str(said[-1].get("content") or "") if said else ""
