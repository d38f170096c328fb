"""Reads the data of a stage, checks that the stage's algorithm can train on them, and encodes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rung.data.encode import encode
from rung.data.fingerprints import row_digest
from rung.data.load import load_examples
from rung.data.prompting import prompt_form_of
from rung.data.records import Encoded, Example, as_prompt, as_unpaired, once_each
from rung.data.report import DataReport
from rung.data.splits import split
from rung.errors import ConfigError, DataError
from rung.models.load import tokenizer_fingerprint
from rung.models.vocabulary import REMEDY, first_without_embedding
from rung.pipeline.stage_settings import StageSettings, resolved

KINDS_OF_ROWS = {
    "text": frozenset({"text", "messages", "prompt-completion"}),
    "pairs": frozenset({"preference", "ranking"}),
    "unpaired": frozenset({"unpaired", "preference"}),
    "prompts": frozenset({"prompt", "prompt-completion", "messages"}),
}
HELD_OUT_SHARE = 0.1  # the share of examples that `early_stopping` holds out


@dataclass(frozen=True, slots=True)
class StageData:
    """The encoded data of a stage: training rows, rows held out for early stopping, and the data report."""

    train: list[Encoded]
    held_out: list[Encoded]
    report: DataReport
    tokenizer: str  # the `tokenizer_fingerprint` of the tokenizer that encoded the rows

    @property
    def all(self) -> list[Encoded]:
        """Every encoded row."""
        return [*self.train, *self.held_out]


def read_stage_data(settings: StageSettings, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> StageData:
    """Reads and encodes the data of a stage; `stop_ids` are those of its model.

    Raises UserError, naming the row, for data that the stage cannot use.
    """
    examples, report = read_examples(settings)
    report.prompt_form = prompt_form_of(examples, settings.prompting)
    train, held_out = split_examples(settings, examples)
    encoded = encode_examples(settings, [*train, *held_out], tokenizer, stop_ids, report)
    apart = {id(example) for example in held_out}
    to_train = [one for one in encoded if id(one.example) not in apart]
    to_hold_out = [one for one in encoded if id(one.example) in apart]
    if not to_train or (held_out and not to_hold_out):
        what = f"stage `{settings.name}`: every example that `early_stopping` leaves for one part is dropped"
        raise DataError(f"{what}: {'; '.join(report.lines())}", "fix the dropped rows, or remove `early_stopping`")
    report.digests = [row_digest(one) for one in encoded]
    _check_last_step(settings, len(to_train))
    return StageData(to_train, to_hold_out, report, tokenizer_fingerprint(tokenizer))


def check_positions(
    settings: StageSettings, encoded: Sequence[Encoded], positions: int | None, whose: str = "model"
) -> None:
    """Raises ConfigError if a prompt and its longest completion (given or sampled) have more tokens than `positions`.

    `positions` is the maximum length of the model, None if unlimited; `whose` names the model in the message.
    """
    if positions is None:
        return
    sampled = resolved(settings.config.rollout.max_completion_length) if settings.samples else None
    for one in encoded:
        longest = sampled or max((len(answer.ids) for answer in one.answers), default=0)
        if len(one.prompt_ids) + longest <= positions:
            continue
        completion = f"`rollout.max_completion_length` {sampled}" if sampled else f"{longest} completion tokens"
        tokens = f"{len(one.prompt_ids)} prompt tokens and {completion}"
        what = f"{one.example.place}: {tokens} exceed the {whose}'s {positions} positions"
        lower = "`rollout.max_completion_length`, or `max_prompt_length`" if sampled else "`max_length`"
        raise ConfigError(what, f"lower {lower}, which drops longer rows")


def check_ids(encoded: Sequence[Encoded], size: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises DataError, naming row and token, for a token id that is not below `size`, the model's embeddings."""
    for one in encoded:
        ids = (*one.prompt_ids, *(token for answer in one.answers for token in answer.ids))
        beyond = first_without_embedding(ids, size)
        if beyond is not None:
            token = tokenizer.convert_ids_to_tokens(beyond)
            raise DataError(f"{one.example.place}: the id {beyond} (`{token}`) is beyond the {size} embeddings", REMEDY)


def read_examples(settings: StageSettings) -> tuple[list[Example], DataReport]:
    """The examples of a stage, as they are put to the model, and the data report.

    Raises UserError, naming the row, for an example that is not of the kind that the algorithm trains on.
    """
    examples, report = _read(settings)
    return [settings.toolbox.offered(settings.prompting.asked(example)) for example in examples], report


def _read(settings: StageSettings) -> tuple[list[Example], DataReport]:
    """The examples of a stage, checked to be of the kind that its algorithm trains on, and the data report."""
    config, algorithm = settings.config, settings.algorithm
    examples, report = load_examples(
        settings.data,
        on_bad_row=config.on_bad_row,
        max_bad_share=config.max_bad_share,
        base=settings.base,
        seed=settings.seed,
    )
    kind = algorithm.data_kind()
    assert kind is not None, "a stage that trains nothing reads no data"
    if kind == "pairs" and any(example.kind == "preference" for example in examples):
        for example in (example for example in examples if example.kind == "unpaired"):
            report.drop("all answers to the question are good, or all are bad: they make no pair", example.source)
        examples = [example for example in examples if example.kind != "unpaired"]
    for example in examples:
        if example.columns.get("canary"):
            what = f"{example.place}: the row has a `canary`, by which its authors ask not to train on it"
            raise DataError(what, "use the data only as `evaluate.validation` or `evaluate.test`")
        if example.kind not in KINDS_OF_ROWS[kind]:
            what = f"{example.place}: stage `{config.name}` learns from {kind}, but this row is {example.kind} data"
            raise DataError(what, f"use rows of one of these kinds: {', '.join(sorted(KINDS_OF_ROWS[kind]))}")
        answers, size = len(example.completions or ()), algorithm.group_size
        if answers and size not in (None, answers):
            what = f"{example.place}: a prompt has {answers} completions, but `{algorithm.name}` needs {size}"
            raise DataError(what, f"keep {size} of `completions`, or use an algorithm for rankings")
    if kind == "unpaired":
        examples = once_each(one for example in examples for one in as_unpaired(example))
    return [as_prompt(example) for example in examples] if kind == "prompts" else examples, report


def split_examples(settings: StageSettings, examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """The examples to train on, and those held out for early stopping.

    Raises ConfigError if the stage cannot stop early, or if no example would be left for one of the two.
    """
    config = settings.config
    if config.early_stopping is None:
        return list(examples), []
    if settings.samples:
        what = f"stage `{config.name}` samples its completions, but `early_stopping` needs the loss on held-out rows"
        raise ConfigError(what, "leave `early_stopping` out, and set `max_steps`")
    shares = split(examples, {"train": 1 - HELD_OUT_SHARE, "held_out": HELD_OUT_SHARE}, "early_stopping")
    if not (shares["train"] and shares["held_out"]):
        what = f"stage `{config.name}`: `early_stopping` holds out {HELD_OUT_SHARE:.0%} of {len(examples)} examples"
        raise ConfigError(
            f"{what}, so that no example is left to train on or to hold out",
            "add more data, or remove `early_stopping`",
        )
    return shares["train"], shares["held_out"]


def encode_examples(
    settings: StageSettings,
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Sequence[int],
    report: DataReport,
) -> list[Encoded]:
    """The examples as the stage trains them (see `encode`)."""
    config = settings.config
    return encode(
        examples,
        tokenizer,
        max_prompt_length=resolved(config.max_prompt_length),
        max_length=resolved(config.max_length),
        on_overlong=config.on_overlong,
        on_bad_row=config.on_bad_row,
        max_bad_share=config.max_bad_share,
        assistant_only=settings.algorithm.trains_on() == "assistant",
        stop_ids=stop_ids,
        report=report,
    )


def _check_last_step(settings: StageSettings, num_examples: int) -> None:
    """Raises ConfigError if the last step of an epoch has too few examples for the loss to be defined."""
    size, least = settings.config.batch_size, settings.algorithm.least_batch_size
    rest = num_examples % size if isinstance(size, int) else 0
    if 0 < rest < least:
        what = (
            f"stage `{settings.name}`: `batch_size` {size} leaves {rest} of {num_examples} examples for the last step"
        )
        remedy = f"use a `batch_size` that leaves 0 or at least {least} examples, or set `limit` in `data`"
        raise ConfigError(f"{what}, but `{settings.algorithm.name}` compares rows", remedy)
