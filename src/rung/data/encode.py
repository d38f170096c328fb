"""Encodes examples as token ids with loss masks, and applies the length limits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

from rung.data.chat import assistant_spans, close_turns, render
from rung.data.records import Answer, BadRow, Encoded, Example, Messages, Text, first_turns
from rung.data.report import DataReport
from rung.data.tokens import Span, continuation_tokens, overlapping, stop_id, tokens, with_eos
from rung.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OnOverlong = Literal["drop", "error", "truncate"]
SEPARATE = "the joint token ids do not begin with those of the prompt: the completion is tokenised separately"
NO_STOP = "the last trained token is not the stop token: the model may not learn to stop"
BALANCED = (0.35, 0.65)  # warn if the share of pairs whose chosen side is longer is outside: length predicts preference
MIN_PAIRS = 50  # with fewer pairs, that share is too noisy for a warning


class OverLong(BadRow):
    """Raised for a row that exceeds a length limit; `on_overlong` decides what happens to the row."""


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
    """Encodes examples as token ids, in order; rows that are dropped are counted in `report` by cause.

    `max_prompt_length` limits the length of the prompt, `max_length` that of the prompt with its longest completion,
    in tokens. `on_overlong="truncate"` cuts the end of completions; a prompt is never cut, since training and sampling
    would then see different prompts. With `assistant_only`, the assistant turns of a conversation are trained,
    otherwise everything after its prompt. Raises `DataError`, naming the row, for chat data if the tokenizer has no
    chat template, for bad rows if `on_bad_row` is `error`, and for over-long rows if `on_overlong` is `error`.
    """
    if not tokenizer.is_fast:
        raise DataError(
            "the tokenizer is not a fast tokenizer, so it has no character offsets",
            "convert it to a fast tokenizer first",
        )
    encoded = []
    for example in examples:
        try:
            one = _encode(example, tokenizer, assistant_only, report)
            one = _within_limits(one, max_prompt_length, max_length, on_overlong, report)
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
        raise DataError(what, "fix the rows, or raise `max_prompt_length` and `max_length`")
    _warn_of_length_bias(encoded, report)
    report.encoded += len(encoded)
    return encoded


def encode_prompt(prompt: Text, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """The token ids of a prompt (at least one), which are the same in training and in sampling.

    Messages are rendered with the generation prompt; a string is tokenised as it is, with BOS if the tokenizer adds it.
    Raises `BadRow` for a prompt without tokens, and `DataError` for messages if the tokenizer has no chat template.
    """
    return tuple(_prepare_prompt(prompt, tokenizer).ids)


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt in three forms: as given in the data, as the text that is tokenised, and as token ids."""

    given: Text
    text: str
    ids: list[int]


def _prepare_prompt(prompt: Text, tokenizer: "PreTrainedTokenizerBase") -> _Prompt:
    is_text = isinstance(prompt, str)
    text = prompt if is_text else render(prompt, tokenizer, add_generation_prompt=True)
    ids, _ = tokens(text, tokenizer, special=is_text)
    eos = stop_id(tokenizer)
    # Some tokenizers append EOS to every text; a model stops at once after a prompt that ends with EOS.
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
    prompt = _prepare_prompt(given, tokenizer)
    by_turn = assistant_only and example.messages is not None
    answers = []
    for completion in completions:
        answer, notices = _answer(prompt, completion, tokenizer, by_turn)
        answers.append(answer)
        for notice in notices:
            report.notice(notice, example.source)
    if _has_duplicates(answers):
        raise BadRow(_duplicate_cause(example))
    if not all(any(answer.trained) for answer in answers):
        raise BadRow("a completion has no trained token")
    return Encoded(example.id, example.source, tuple(prompt.ids), tuple(answers), example)


def _raw_text(text: str, tokenizer: "PreTrainedTokenizerBase") -> tuple[tuple[int, ...], Answer]:
    """The prompt ids and the answer of raw text, which has no prompt of its own.

    The prompt is BOS if the tokenizer has a BOS token (even one that it does not add by itself), else the first token.
    """
    ids = with_eos(tokens(text, tokenizer, special=False)[0], tokenizer)
    bos = tokenizer.bos_token_id
    if isinstance(bos, int) and ids[:1] != [bos]:
        ids = [bos, *ids]
    if len(ids) < 2:
        raise BadRow("a completion has no trained token", "the text has only one token")
    return (ids[0],), Answer(tuple(ids[1:]), (True,) * (len(ids) - 1))


def _answer(
    prompt: _Prompt, completion: Text, tokenizer: "PreTrainedTokenizerBase", by_turn: bool
) -> tuple[Answer, list[str]]:
    """The token ids and loss mask of a completion, and remarks on it for the data report.

    `by_turn`: only the assistant turns of the completion are trained.
    """
    if isinstance(prompt.given, str):
        ids, _, joint = _ids_after(prompt, prompt.text + cast(str, completion), tokenizer)
        ids = with_eos(ids, tokenizer)
        trained = [True] * len(ids)
    else:
        messages = prompt.given + cast(Messages, completion)
        whole = render(messages, tokenizer, add_generation_prompt=False)
        ids, spans, joint = _ids_after(prompt, whole, tokenizer)
        trained_spans = assistant_spans(messages, whole, tokenizer) if by_turn else [(0, len(whole))]
        trained = close_turns(ids, overlapping(spans, trained_spans), stop_id(tokenizer))
    last = next((token for token, is_trained in zip(ids[::-1], trained[::-1], strict=True) if is_trained), None)
    stops = last is None or last == stop_id(tokenizer)
    notices = [notice for notice, fine in ((SEPARATE, joint), (NO_STOP, stops)) if not fine]
    return Answer(tuple(ids), tuple(trained)), notices


def _ids_after(prompt: _Prompt, whole: str, tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[Span], bool]:
    """The token ids after the prompt in the text `whole`, their character spans, and whether tokenisation was joint.

    If the ids of `whole` do not begin with those of the prompt, the text after the prompt is tokenised separately (not
    jointly), without the space that some tokenizers add before every text. If `whole` does not begin with the text of
    the prompt, because the chat template renders the generation prompt differently from an assistant turn, the
    completion begins at the first token that differs.
    """
    ids, spans = tokens(whole, tokenizer, special=isinstance(prompt.given, str))
    n = len(prompt.ids)
    if ids[:n] == prompt.ids:
        return ids[n:], spans[n:], True
    if whole.startswith(prompt.text):
        start = len(prompt.text)
    else:
        first = next((i for i, (a, b) in enumerate(zip(ids, prompt.ids, strict=False)) if a != b), len(ids))
        start = spans[first][0] if first < len(ids) else len(whole)
    separate, spans = continuation_tokens(whole[start:], tokenizer)
    return separate, [(a + start, b + start) for a, b in spans], False


def _within_limits(
    one: Encoded, max_prompt_length: int | None, max_length: int | None, on_overlong: OnOverlong, report: DataReport
) -> Encoded:
    size = len(one.prompt_ids)
    if max_prompt_length is not None and one.example.kind != "text" and size > max_prompt_length:
        raise OverLong(f"the prompt is longer than max_prompt_length {max_prompt_length}", f"{size} tokens")
    if max_length is None:
        return one
    room = max_length - size
    if room < 1:
        raise OverLong(f"the prompt leaves no room for a completion within max_length {max_length}", f"{size} tokens")
    longest = max((len(answer.ids) for answer in one.answers), default=0)
    if longest <= room:
        return one
    if on_overlong != "truncate":
        what = "the text is" if one.example.kind == "text" else "prompt and completion are"
        raise OverLong(f"{what} longer than max_length {max_length}", f"{size} + {longest} tokens")
    answers = tuple(Answer(answer.ids[:room], answer.trained[:room]) for answer in one.answers)
    if not all(any(answer.trained) for answer in answers):
        raise OverLong("no trained token is left after truncation")
    if _has_duplicates(answers):
        raise OverLong(f"{_duplicate_cause(one.example)} after truncation")
    report.notice(f"truncated to max_length {max_length}", one.source)
    return replace(one, answers=answers)


def _has_duplicates(answers: Sequence[Answer]) -> bool:
    return len({answer.ids for answer in answers}) < len(answers)


def _duplicate_cause(example: Example) -> str:
    return "`chosen` equals `rejected`" if example.completions is None else "two of `completions` are equal"


def _warn_of_length_bias(encoded: Sequence[Encoded], report: DataReport) -> None:
    pairs = [one.answers for one in encoded if len(one.answers) == 2]
    if len(pairs) < MIN_PAIRS:
        return
    share = sum(len(chosen.ids) > len(rejected.ids) for chosen, rejected in pairs) / len(pairs)
    if not BALANCED[0] <= share <= BALANCED[1]:
        report.warnings.append(
            f"the chosen side is longer in {share:.0%} of the pairs: length alone predicts the preference"
        )
