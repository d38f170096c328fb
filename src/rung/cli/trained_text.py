"""The text of a row as a stage trains it, with what is trained in colour or in brackets; or a line for each token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast

from rich.text import Text

from rung.data.chat import TRAINING
from rung.data.template_columns import is_chat
from rung.utils.console import printable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rung.data.records import Answer, Example
    from rung.pipeline.trained_row import FoundRow, TrainedRow

TRAINED, UNTRAINED = "green", "dim"
CONTEXT = 4  # tokens decoded before one: some decoders drop a space at the beginning, and write bytes together


def shown(found: FoundRow, *, in_colour: bool) -> Iterator[Text]:
    """The row in parts, to be printed by rich: counts, notices, and the prompt and each answer as text."""
    for row in found.examples:
        yield from _head(row, found.stage)
        ids, answers = row.encoded.prompt_ids, row.encoded.answers
        texts = [_runs(ids, answer, found.tokenizer) for answer in answers]
        whole = "".join(text for runs in texts for text, _ in runs)
        opening, closing = ("", "") if in_colour else _brackets(whole)
        if answers:
            yield Text("trained: green; attended only: dim" if in_colour else f"trained: in {opening} {closing}")
        yield _title(f"prompt, {_tokens(len(ids))}")
        yield Text(printable(_decoded(ids, found.tokenizer)), style=UNTRAINED)
        for name, answer, runs in zip(_names(row.encoded.example), answers, texts, strict=True):
            yield _title(f"{name}, {_counts(answer)}")
            line = Text()
            for text, is_trained in runs:
                said = printable(text)
                line.append(f"{opening}{said}{closing}" if is_trained else said, TRAINED if is_trained else UNTRAINED)
            yield line


def listed(found: FoundRow) -> Iterator[Text]:
    """A line for each token of the row: its id, whether it is trained, and its text as a literal."""
    for row in found.examples:
        yield from _head(row, found.stage)
        prompt = row.encoded.prompt_ids
        yield _title(f"prompt, {_tokens(len(prompt))}")
        yield from _lines(prompt, [False] * len(prompt), 0, found.tokenizer)
        for name, answer in zip(_names(row.encoded.example), row.encoded.answers, strict=True):
            yield _title(f"{name}, {_counts(answer)}")
            yield from _lines((*prompt, *answer.ids), answer.trained, len(prompt), found.tokenizer)


def _head(row: TrainedRow, stage: str) -> Iterator[Text]:
    answers = row.encoded.answers
    trained = sum(map(sum, (answer.trained for answer in answers)))
    untrained = sum(len(answer.ids) for answer in answers) - trained
    counts = f"{_tokens(len(row.encoded.prompt_ids))} of the prompt"
    counts += f", {trained} trained, {untrained} attended only" if answers else "; completions are sampled after it"
    yield _title(f"{row.encoded.source} in stage {stage}: {counts}")
    if is_chat(row.encoded.example) and not _by_trl(row):
        yield Text("rendered with the model's own chat template")
    yield from (Text(printable(notice)) for notice in row.notices)
    if row.is_held_out:
        yield Text("held out for `early_stopping`: its loss is read, and it is not trained")


def _by_trl(row: TrainedRow) -> bool:
    return any(notice.startswith(TRAINING.partition("{")[0]) for notice in row.notices)


def _title(text: str) -> Text:
    return Text(printable(text), style="bold")


def _tokens(count: int) -> str:
    return f"{count} token" if count == 1 else f"{count} tokens"


def _counts(answer: Answer) -> str:
    return f"{_tokens(len(answer.ids))}, {sum(answer.trained)} trained"


def _names(example: Example) -> list[str]:
    """What the answers of an example are called."""
    if example.kind == "preference":
        return ["chosen", "rejected"]
    if example.completions is not None:
        return [f"completion {number}" for number in range(1, len(example.completions) + 1)]
    if example.kind == "unpaired":
        return [f"completion labelled {str(example.label).lower()}"]
    return [] if example.kind == "prompt" else ["completion"]


def _brackets(text: str) -> tuple[str, str]:
    """Brackets that are not in the text.

    >>> _brackets("Hi."), _brackets("a[[0]]")
    (('[[', ']]'), ('[[[', ']]]'))
    """
    size = 2
    while "[" * size in text or "]" * size in text:
        size += 1
    return "[" * size, "]" * size


def _decoded(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    decode = cast(Any, tokenizer.decode)
    return str(decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _runs(prompt: Sequence[int], answer: Answer, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, bool]]:
    """The text of an answer in runs of tokens that are all trained, or all not."""
    runs, before = [], list(prompt)
    for is_trained, run in groupby(zip(answer.ids, answer.trained, strict=True), key=lambda pair: pair[1]):
        ids = [token for token, _ in run]
        runs.append((_text_after(before, ids, tokenizer), is_trained))
        before += ids
    return runs


def _text_after(before: Sequence[int], ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of tokens that follow others."""
    context = before[-CONTEXT:]
    text, start = _decoded([*context, *ids], tokenizer), _decoded(context, tokenizer)
    return text.removeprefix(start) if text.startswith(start) else _decoded(ids, tokenizer)


def _lines(
    ids: Sequence[int], trained: Sequence[bool], start: int, tokenizer: PreTrainedTokenizerBase
) -> Iterator[Text]:
    """A line for each of the tokens from `start` on; a token that is a part of a character is shown as its own name."""
    for at, is_trained in enumerate(trained, start):
        text = _text_after(ids[:at], ids[at : at + 1], tokenizer)
        if "\ufffd" in text or not text:
            text = str(tokenizer.convert_ids_to_tokens(ids[at]))
        line = f"{ids[at]:>7}  {'trained' if is_trained else '-':<7}  {printable(repr(text))}"
        yield Text(line, style=TRAINED if is_trained else UNTRAINED)
