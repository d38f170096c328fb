"""Examples become token ids: where the completion begins, how it ends, which of it is trained, what is too long."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

from rung.data.chat import assistant_spans, close_turns, render
from rung.data.records import Answer, BadRow, Encoded, Example, Messages, Text, first_turns
from rung.data.report import DataReport
from rung.data.tokens import Span, continued, ended, overlapping, stop_id, tokens
from rung.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OnOverlong = Literal["drop", "error", "truncate"]
ALONE = "the prompt's ids are no prefix of the whole: the completion is tokenised alone"
NO_STOP = "the last trained token is not the stop token: the model may not learn to stop"
LOPSIDED = (0.35, 0.65)  # shares of pairs with the longer side chosen, beyond which length tells the sides apart
MIN_PAIRS = 50  # fewer tell nothing about that share


class OverLong(BadRow):
    """A row that does not fit the length limits; `on_overlong` decides about it."""


def encode(
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_prompt_length: int | None,
    max_length: int | None,
    report: DataReport,
    on_overlong: OnOverlong = "drop",
    on_bad_row: Literal["error", "skip", "quarantine"] = "error",
    assistant_only: bool = True,
) -> list[Encoded]:
    """The examples as ids, in order; rows left out are counted in `report`, by cause.

    `max_prompt_length` bounds prompts, `max_length` a prompt with its longest answer, in tokens. `truncate` cuts the
    ends of answers; a prompt is never cut, since it would no longer be what the sampler sees. `assistant_only` trains
    the assistant's turns of a conversation, else all that follows its prompt. Raises `DataError`, naming the row, for
    chat data without a chat template, and for bad or over-long rows where the settings say `error`.
    """
    if not tokenizer.is_fast:
        raise DataError("the tokenizer is a slow one, without character offsets", "save it as a fast tokenizer first")
    encoded = []
    for example in examples:
        try:
            one = _encode(example, tokenizer, assistant_only, report)
            one = _fitted(one, max_prompt_length, max_length, on_overlong, report)
        except OverLong as fault:
            if on_overlong == "error":
                remedy = "raise the limit, or set `on_overlong: drop` (or `truncate`)"
                raise DataError(f"{example.source}: {fault}", remedy) from fault
            report.drop(fault.cause, example.source)
        except BadRow as fault:
            if on_bad_row == "error":
                raise DataError(f"{example.source}: {fault}", "fix the row, or set `on_bad_row: skip`") from fault
            report.drop(fault.cause, example.source)
        except DataError as fault:
            raise DataError(f"{example.source}: {fault.what}", fault.remedy) from fault
        else:
            encoded.append(one)
            report.measure("prompt", len(one.prompt_ids))
            for answer in one.answers:
                report.measure("completion", len(answer.ids))
    if not encoded:
        what = "no example is left to train on: " + "; ".join(report.lines())
        raise DataError(what, "mend the rows, or raise `max_prompt_length` and `max_length`")
    _weigh_sides(encoded, report)
    report.encoded += len(encoded)
    return encoded


def encode_prompt(prompt: Text, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """The ids that training and the sampler put before a completion: at least one.

    Messages are rendered with the generation prompt; a text is tokenised plainly, with BOS where the tokenizer adds it.
    Raises `BadRow` for a prompt without a token, `DataError` for messages without a chat template.
    """
    return tuple(_asked(prompt, tokenizer).ids)


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt as given, as the text that is tokenised, and as ids."""

    given: Text
    text: str
    ids: list[int]


def _asked(prompt: Text, tokenizer: "PreTrainedTokenizerBase") -> _Prompt:
    is_text = isinstance(prompt, str)
    text = prompt if is_text else render(prompt, tokenizer, add_generation_prompt=True)
    ids, _ = tokens(text, tokenizer, special=is_text)
    eos = stop_id(tokenizer)
    # Some tokenizers put EOS after every text; a prompt that ends in it is answered by silence.
    while is_text and len(ids) > 1 and ids[-1] == eos and not text.endswith(str(tokenizer.eos_token)):
        ids = ids[:-1]
    if not ids:
        raise BadRow("the prompt has no token")
    return _Prompt(prompt, text, ids)


def _encode(
    example: Example, tokenizer: "PreTrainedTokenizerBase", assistant_only: bool, report: DataReport
) -> Encoded:
    if example.text is not None:
        prompt_ids, answer = _raw_text(example.text, tokenizer)
        return Encoded(example.id, example.source, prompt_ids, (answer,), example)
    if example.messages is not None:
        given: Text = first_turns(example.messages)
        completions: Sequence[Text] = [example.messages[len(given) :]]
    else:
        given = cast(Text, example.prompt)
        sides = (example.completion, example.chosen, example.rejected, *(example.completions or ()))
        completions = [side for side in sides if side is not None]
    prompt = _asked(given, tokenizer)
    by_turn = assistant_only and example.messages is not None
    answers = []
    for completion in completions:
        answer, notices = _answer(prompt, completion, tokenizer, by_turn)
        answers.append(answer)
        for notice in notices:
            report.notice(notice, example.source)
    if _repeats(answers):
        raise BadRow(_same(example))
    if not all(any(answer.trained) for answer in answers):
        raise BadRow("a completion has no trained token")
    return Encoded(example.id, example.source, tuple(prompt.ids), tuple(answers), example)


def _raw_text(text: str, tokenizer: "PreTrainedTokenizerBase") -> tuple[tuple[int, ...], Answer]:
    """BOS is the prompt where the tokenizer has one (also where it does not add it by itself), else the first token."""
    ids = ended(tokens(text, tokenizer, special=False)[0], tokenizer)
    bos = tokenizer.bos_token_id
    if isinstance(bos, int) and ids[:1] != [bos]:
        ids = [bos, *ids]
    if len(ids) < 2:
        raise BadRow("a completion has no trained token", "the text is one token")
    return (ids[0],), Answer(tuple(ids[1:]), (True,) * (len(ids) - 1))


def _answer(
    prompt: _Prompt, completion: Text, tokenizer: "PreTrainedTokenizerBase", by_turn: bool
) -> tuple[Answer, list[str]]:
    """The completion as ids with its mask, and what is worth a notice."""
    if isinstance(prompt.given, str):
        ids, _, exact = _after(prompt, prompt.text + cast(str, completion), tokenizer)
        ids = ended(ids, tokenizer)
        trained = [True] * len(ids)
    else:
        messages = prompt.given + cast(Messages, completion)
        whole = render(messages, tokenizer, add_generation_prompt=False)
        ids, spans, exact = _after(prompt, whole, tokenizer)
        said = assistant_spans(messages, whole, tokenizer) if by_turn else [(0, len(whole))]
        trained = close_turns(ids, overlapping(spans, said), stop_id(tokenizer))
    last = next((token for token, now in zip(reversed(ids), reversed(trained), strict=True) if now), None)
    stops = last is None or last == stop_id(tokenizer)
    notices = [notice for notice, fine in ((ALONE, exact), (NO_STOP, stops)) if not fine]
    return Answer(tuple(ids), tuple(trained)), notices


def _after(prompt: _Prompt, whole: str, tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[Span], bool]:
    """The ids that follow the prompt in `whole`, their characters in it, and whether the joint ids were used.

    Where the prompt's ids are no prefix of the joint ids, what follows the prompt's text is tokenised alone, without
    the space that some tokenizers write before every text. A template that writes the generation prompt otherwise than
    a told turn is cut where the tokens part.
    """
    ids, spans = tokens(whole, tokenizer, special=isinstance(prompt.given, str))
    n = len(prompt.ids)
    if ids[:n] == prompt.ids:
        return ids[n:], spans[n:], True
    if whole.startswith(prompt.text):
        start = len(prompt.text)
    else:
        parted = next((i for i, (a, b) in enumerate(zip(ids, prompt.ids, strict=False)) if a != b), len(ids))
        start = spans[parted][0] if parted < len(ids) else len(whole)
    alone, spans = continued(whole[start:], tokenizer)
    return alone, [(a + start, b + start) for a, b in spans], False


def _fitted(
    one: Encoded, max_prompt_length: int | None, max_length: int | None, on_overlong: OnOverlong, report: DataReport
) -> Encoded:
    size = len(one.prompt_ids)
    if max_prompt_length is not None and one.example.kind != "text" and size > max_prompt_length:
        raise OverLong(f"the prompt is over max_prompt_length {max_prompt_length}", f"{size} tokens")
    if max_length is None:
        return one
    room = max_length - size
    if room < 1:
        raise OverLong(f"the prompt fills max_length {max_length}", f"{size} tokens")
    longest = max((len(answer.ids) for answer in one.answers), default=0)
    if longest <= room:
        return one
    if on_overlong != "truncate":
        raise OverLong(f"longer than max_length {max_length}", f"{size} + {longest} tokens")
    answers = tuple(Answer(answer.ids[:room], answer.trained[:room]) for answer in one.answers)
    if not all(any(answer.trained) for answer in answers):
        raise OverLong("no trained token is left after the cut")
    if _repeats(answers):
        raise OverLong(f"{_same(one.example)} after the cut")
    report.notice(f"cut to max_length {max_length}", one.source)
    return replace(one, answers=answers)


def _repeats(answers: Sequence[Answer]) -> bool:
    return len({answer.ids for answer in answers}) < len(answers)


def _same(example: Example) -> str:
    return "`chosen` equals `rejected`" if example.completions is None else "two of `completions` are equal"


def _weigh_sides(encoded: Sequence[Encoded], report: DataReport) -> None:
    pairs = [one.answers for one in encoded if len(one.answers) == 2]
    if len(pairs) < MIN_PAIRS:
        return
    share = sum(len(chosen.ids) > len(rejected.ids) for chosen, rejected in pairs) / len(pairs)
    if not LOPSIDED[0] <= share <= LOPSIDED[1]:
        report.warnings.append(
            f"the chosen side is the longer one in {share:.0%} of the pairs: length alone tells them apart"
        )
