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

    def ids(self, answers: Sequence[Message], chat: Chat, *, ended_by: str) -> tuple[int, ...]:
        """The ids from the end of a turn to the beginning of the next, with the answers between them.

        Of `chat`, only the tools and the variables count. `ended_by` is the text of the token with which the model
        ended its turn, empty if there is none; if the template writes another one, the ids begin with that. Raises
        `BadRow` if the template rejects the answers, or writes the turn before them differently.
        """
        text = self._after_turn(answers, chat, ended_by)
        return tuple(continuation_tokens(text, self.tokenizer)[0])

    def check(self) -> None:
        """Raises `BadRow` if the template cannot go on after a turn with a call."""
        result = Message(role="tool", name="lookup", content="nine")
        if "nine" not in self._after_turn([result], Chat((_ASKED,)), ""):
            raise TemplateFault("the chat template leaves out the results of tools")

    def check_written(self, tools: Sequence[Mapping[str, Any]]) -> None:
        """Raises `BadRow` if the template does not write the names of these tools (schemas) into a prompt."""
        chat = Chat((_ASKED,), tuple(tools))
        text = render(chat, own_template(self.tokenizer, chat), self.tokenizer, end="prompt")
        for tool in tools:
            if tool["function"]["name"] not in text:
                raise TemplateFault("the chat template leaves out the definitions of tools")

    def _after_turn(self, answers: Sequence[Message], chat: Chat, ended_by: str) -> str:
        asked, turn, after = self._rendered(answers, chat)
        begins = num_shared(asked, turn)
        closed = [(turn.rfind(stop, begins), stop) for stop in self.stops]
        at, stop = max((one for one in closed if one[0] >= 0), default=(len(turn), ""))
        cut = at + len(stop)
        if not after.startswith(turn[:cut]):
            what = "the chat template writes a turn of the assistant differently once a message follows"
            raise TemplateFault(what, _difference(turn[:cut], after))
        if stop != ended_by and stop:
            return stop + after[cut:]
        # Some templates write the token that ends a call as the beginning of what follows (GLM's `<|observation|>`).
        return after[cut:].removeprefix("" if stop else ended_by)

    def _rendered(self, answers: Sequence[Message], chat: Chat) -> tuple[str, str, str]:
        """The stand-in chat as text: the question, with a turn of the assistant after it, and with the answers too.

        The turn calls the tools of the answers; only the first of them if the template writes a single call. Whether it
        does, and in which form it takes messages, is tried with other contents, which no template rejects.
        """
        calls = [_call(answer) for answer in answers if answer["role"] == "tool"]
        harmless = [cast(Message, {**answer, "content": "nine"}) for answer in answers]
        fault: BadRow | None = None
        for count in dict.fromkeys((len(calls), min(len(calls), 1))):
            said: Any = {"role": "assistant", "content": "" if calls else "dummy"}
            said |= {"tool_calls": calls[:count]} if calls else {}
            asked = replace(chat, messages=(_ASKED,))
            turn = replace(asked, messages=(_ASKED, cast(Message, said)))
            tried, answered = (replace(asked, messages=(*turn.messages, *some)) for some in (harmless, answers))
            for template in in_all_forms(own_template(self.tokenizer, asked), answered):
                try:
                    one, two = (render(chat, template, self.tokenizer, end="turn") for chat in (asked, turn))
                    render(tried, template, self.tokenizer, end="prompt")
                except BadRow as error:
                    fault = fault or error
                    continue
                return one, two, render(answered, template, self.tokenizer, end="prompt")
        assert fault is not None, "there is at least one form"
        raise fault


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
