"""The token ids between two turns of the model: the end of a turn, the answers to it, and the header of the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from rung.data.records import BadRow, Message, TemplateFault
from rung.data.templates import Chat, in_all_forms, own_template, render
from rung.data.tokens import continuation_tokens, num_shared

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ASKED = Message(role="user", content="dummy")


@dataclass(frozen=True, slots=True)
class Bridge:
    """Makes the ids that follow a turn, which are only ever appended to what was sampled.

    `stops` are the texts of the tokens that end a turn. The template renders a stand-in for the chat, with and without
    the answers: nothing that the model wrote is rendered, so nothing is tokenised twice.
    """

    tokenizer: PreTrainedTokenizerBase
    stops: tuple[str, ...]

    def ids(
        self,
        answers: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any],
        *,
        closed: bool,
    ) -> tuple[int, ...]:
        """The ids from the end of a turn to the beginning of the next, with the answers between them.

        `tools` (schemas) and `variables` are those of the chat. `closed`: the model has written the token that ends its
        turn; if not, the ids begin with it. Raises `BadRow` if the template rejects the answers, or writes the turn
        before them differently.
        """
        turn, after = self._rendered(answers, tools, variables)
        cut = self._end(turn)
        text = self._text(turn, after, cut, answers[0]["role"])
        if not closed:
            text = next((stop for stop in self.stops if turn[:cut].endswith(stop)), "") + text
        return tuple(continuation_tokens(text, self.tokenizer)[0])

    def check(self) -> None:
        """Raises `BadRow` if the template cannot go on after a turn with a call."""
        result = Message(role="tool", name="lookup", content="nine")
        turn, after = self._rendered([result], (), {})
        if "nine" not in self._text(turn, after, self._end(turn), "tool"):
            raise TemplateFault("the chat template leaves out the results of tools")

    def check_written(self, tools: Sequence[Mapping[str, Any]]) -> None:
        """Raises `BadRow` if the template does not write the names of these tools (schemas) into a prompt."""
        chat = Chat((_ASKED,), tuple(tools))
        text = render(chat, own_template(self.tokenizer, chat), self.tokenizer, end="prompt")
        for tool in tools:
            if tool["function"]["name"] not in text:
                raise TemplateFault("the chat template leaves out the definitions of tools")

    def _text(self, turn: str, after: str, cut: int, role: str) -> str:
        """What `after` has behind the first `cut` characters, with which the text `turn` begins. Raises `BadRow`."""
        if not after.startswith(turn[:cut]):
            what = f"the chat template writes a turn of the assistant differently once a {role} message follows"
            raise TemplateFault(what, _difference(turn[:cut], after))
        return after[cut:]

    def _rendered(
        self, answers: Sequence[Message], tools: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> tuple[str, str]:
        """The stand-in chat as text: with the turn of the assistant at its end, and with the answers after it."""
        calls = [_call(answer) for answer in answers if answer["role"] == "tool"]
        said: Any = {"role": "assistant", "content": "" if calls else "dummy"}
        if calls:
            said["tool_calls"] = calls
        asked = Chat((_ASKED, cast(Message, said)), tuple(tools), variables)
        answered = replace(asked, messages=(*asked.messages, *answers))
        fault: BadRow | None = None
        for template in in_all_forms(own_template(self.tokenizer, asked), answered):
            try:
                turn = render(asked, template, self.tokenizer, end="turn")
                return turn, render(answered, template, self.tokenizer, end="prompt")
            except BadRow as error:
                fault = fault or error
        assert fault is not None, "there is at least one form"
        raise fault

    def _end(self, turn: str) -> int:
        """Where the turn that ends `turn` has been closed: after the last of the texts `stops`, else at the end."""
        return max((at + len(stop) for stop in self.stops if (at := turn.rfind(stop)) >= 0), default=len(turn))


def _call(answer: Message) -> dict[str, Any]:
    """The call that a result belongs to, without arguments; templates name the function, and some its id."""
    call: dict[str, Any] = {
        "type": "function",
        "function": {"name": answer.get("name", ""), "arguments": {}},
    }
    known = answer.get("tool_call_id")
    return {"id": known, **call} if known else call


def _difference(before: str, after: str) -> str:
    """The first place where the text of a turn is not what it was before."""
    at = num_shared(before, after)
    return f"{after[max(at - 8, 0) : at + 24]!r}, not {before[max(at - 8, 0) : at + 24]!r}"
