"""Encodes examples as token ids with loss masks, and applies the length limits."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

from rung.data.chat import AnswerRenderer, render_prompt, training_templates
from rung.data.open_calls import check_not_open, with_call_in_answers
from rung.data.records import Answer, BadRow, Encoded, Example, Messages, Text, as_row, first_turns
from rung.data.report import MAX_BAD_SHARE, DataReport
from rung.data.templates import LIMITS, Chat
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
    max_bad_share: float = MAX_BAD_SHARE,
    assistant_only: bool = True,
    stop_ids: Collection[int] = (),
) -> list[Encoded]:
    """Encodes examples as token ids, in order; rows that are dropped are counted in `report` by cause.

    `max_prompt_length` limits the length of the prompt, `max_length` that of the prompt with its longest completion,
    in tokens. `on_overlong="truncate"` cuts the end of completions; a prompt is never cut, since training and sampling
    would then see different prompts. With `assistant_only`, the assistant turns of a conversation are trained,
    otherwise everything after its prompt. Raises `DataError`, naming the row, for chat data if the tokenizer has no
    chat template, for bad rows if `on_bad_row` is `error` or if their share, together with those that could not be
    read, is above `max_bad_share`, and for over-long rows if `on_overlong` is `error`.
    """
    if not tokenizer.is_fast:
        raise DataError(
            "the tokenizer is not a fast tokenizer, so it has no character offsets",
            "convert it to a fast tokenizer first",
        )
    encoder = _Encoder(tokenizer, stop_ids, assistant_only, report)
    encoded, bad = [], []
    report.tried += len(examples)
    with LIMITS:
        for example in examples:
            try:
                one = encoder.encode(example)
                one = _within_limits(one, max_prompt_length, max_length, on_overlong, report)
            except OverLong as fault:
                if on_overlong == "error":
                    remedy = "raise the limit, or set `on_overlong: drop` (or `truncate`)"
                    raise DataError(f"{example.place}: {fault}", remedy) from fault
                report.drop(fault.cause, example.source)
            except BadRow as fault:
                if on_bad_row == "error":
                    remedy = f"{fault.remedy}, or set `on_bad_row: skip`"
                    raise DataError(f"{example.place}: {fault}", remedy) from fault
                report.refuse(fault.cause, example.source)
                bad.append((example, fault))
            except DataError as fault:
                raise DataError(f"{example.place}: {fault.what}", fault.remedy) from fault
            else:
                encoded.append(one)
                report.measure("prompt", len(one.prompt_ids))
                for answer in one.answers:
                    report.measure("completion", len(answer.ids))
    if not encoded:
        what = "no example is left to train on: " + "; ".join(report.lines())
        raise DataError(what, _remedy_for(report))
    if bad:
        report.check_bad_share(bad[0][0].place, bad[0][1], max_bad_share)
    if on_bad_row == "quarantine":
        report.quarantined += [
            {"source": example.source, "cause": str(fault), "row": as_row(example)} for example, fault in bad
        ]
    _warn_of_length_bias(encoded, report)
    report.encoded += len(encoded)
    return encoded


def _remedy_for(report: DataReport) -> str:
    """What can be done if no example is left, by the causes for which examples were dropped."""
    limits = [key for key in ("max_prompt_length", "max_length") if any(f" {key} " in each for each in report.dropped)]
    others = [cause for cause in report.dropped if not any(f" {key} " in cause for key in limits)]
    parts = ["fix the rows"] if others or not limits else []
    return ", and ".join([*parts, *(f"raise `{key}`" for key in limits)])


def encode_prompt(
    prompt: Text,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    variables: Mapping[str, Any] | None = None,
) -> tuple[int, ...]:
    """The token ids of a prompt (at least one), which are the same in training and in sampling.

    Messages are rendered with the generation prompt, and with `tools` and `variables` (see `Chat`); a string is
    tokenised as it is, with BOS if the tokenizer adds it. Raises `BadRow` for a prompt without tokens or one that the
    template does not write as a whole, and `DataError` for messages if the tokenizer has no chat template.
    """
    if isinstance(prompt, str):
        return tuple(_text_ids(prompt, tokenizer))
    check_not_open(prompt)
    asked = render_prompt(Chat(prompt, tuple(tools), variables or {}), tokenizer)
    return tuple(_chat_ids(asked.text, tokenizer))


def _text_ids(text: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    ids, _ = tokens(text, tokenizer, special=True)
    eos = stop_id(tokenizer)
    # Some tokenizers append EOS to every text; a model stops at once after a prompt that ends with EOS.
    while len(ids) > 1 and ids[-1] == eos and not text.endswith(str(tokenizer.eos_token)):
        ids = ids[:-1]
    if not ids:
        raise BadRow("the prompt has no token")
    return ids


def _chat_ids(text: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    ids, _ = tokens(text, tokenizer, special=False)
    if not ids:
        raise BadRow("the prompt has no token")
    return ids


class _Encoder:
    """Encodes one example at a time; notices are counted in `report`."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        stop_ids: Collection[int],
        assistant_only: bool,
        report: DataReport,
    ):
        own = stop_id(tokenizer)
        self.tokenizer, self.report = tokenizer, report
        self.stop_ids = {*stop_ids, *([] if own is None else [own])}
        stops = cast(list[str], tokenizer.convert_ids_to_tokens(sorted(self.stop_ids)))
        self.renderer = AnswerRenderer(tokenizer, tuple(filter(None, stops)), assistant_only)

    def encode(self, example: Example) -> Encoded:
        if example.text is not None:
            prompt_ids, answer = _raw_text(example.text, self.tokenizer)
            return Encoded(example.id, example.source, prompt_ids, (answer,), example)
        prompt: Text = first_turns(example.messages) if example.messages is not None else cast(Text, example.prompt)
        if example.messages is not None:
            completions: Sequence[Text] = [example.messages[len(prompt) :]]
        else:
            sides = (example.completion, example.chosen, example.rejected, *(example.completions or ()))
            completions = [side for side in sides if side is not None]
        make = self._texts if isinstance(prompt, str) else self._chats
        prompt_ids, answers = make(example, prompt, completions)
        if _has_duplicates(answers):
            raise BadRow(_duplicate_cause(example))
        if not all(any(answer.trained) for answer in answers):
            raise BadRow("a completion has no trained token")
        return Encoded(example.id, example.source, tuple(prompt_ids), tuple(answers), example)

    def _texts(self, example: Example, prompt: Text, completions: Sequence[Text]) -> tuple[Sequence[int], list[Answer]]:
        text = cast(str, prompt)
        prompt_ids = _text_ids(text, self.tokenizer)
        answers = []
        for completion in completions:
            ids, _, joint = _ids_after(text, prompt_ids, text + cast(str, completion), self.tokenizer, special=True)
            ids = with_eos(ids, self.tokenizer)
            answers.append(Answer(tuple(ids), (True,) * len(ids)))
            self._notice(example, answers[-1], joint)
        return prompt_ids, answers

    def _chats(self, example: Example, prompt: Text, completions: Sequence[Text]) -> tuple[Sequence[int], list[Answer]]:
        messages, answered = cast(Messages, prompt), cast(list[Messages], completions)
        if any(answer[0]["role"] != "tool" for answer in answered) or not answered:
            check_not_open(messages)
        if self.renderer.by_turn:
            messages, answered = with_call_in_answers(messages, answered)
        chat = Chat(messages, example.tools, example.template_variables)
        asked = render_prompt(chat, self.tokenizer)
        if not answered:
            return _chat_ids(asked.text, self.tokenizer), []
        templates = training_templates(chat, self.tokenizer, prefer_own=example.messages is None)
        made = self.renderer.render(asked, answered, templates)
        start = min((one.text[: one.boundary] for one in made), key=len)
        if not all(one.text.startswith(start) for one in made):
            raise BadRow("the chat template writes the prompt differently before the two completions")
        prompt_ids = _chat_ids(start, self.tokenizer)
        answers = []
        for one in made:
            ids, spans, joint = _ids_after(start, prompt_ids, one.text, self.tokenizer, special=False)
            answers.append(Answer(tuple(ids), tuple(overlapping(spans, one.spans))))
            self._notice(example, answers[-1], joint)
            for notice in one.notices:
                self.report.notice(notice, example.source)
        return prompt_ids, answers

    def _notice(self, example: Example, answer: Answer, joint: bool) -> None:
        if not joint:
            self.report.notice(SEPARATE, example.source)
        if not self._stops(answer):
            self.report.notice(NO_STOP, example.source)

    def _stops(self, answer: Answer) -> bool:
        """Whether the trained tokens end with a stop token, apart from white space after it."""
        for token, is_trained in zip(reversed(answer.ids), reversed(answer.trained), strict=True):
            if is_trained and (token in self.stop_ids or str(self.tokenizer.decode([token])).strip()):
                return token in self.stop_ids
        return True


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


def _ids_after(
    prompt: str, prompt_ids: Sequence[int], whole: str, tokenizer: "PreTrainedTokenizerBase", *, special: bool
) -> tuple[list[int], list[Span], bool]:
    """The token ids after the prompt in the text `whole`, their character spans, and whether tokenisation was joint.

    If the ids of `whole` do not begin with those of the prompt, the text after the prompt is tokenised separately (not
    jointly), without the space that some tokenizers add before every text.
    """
    ids, spans = tokens(whole, tokenizer, special=special)
    n = len(prompt_ids)
    if ids[:n] == prompt_ids:
        return ids[n:], spans[n:], True
    separate, spans = continuation_tokens(whole[len(prompt) :], tokenizer)
    return separate, [(a + len(prompt), b + len(prompt)) for a, b in spans], False


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
