"""Finds a row of a stage's data, and encodes it as the stage trains it: the command `rung data show`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rung.artifacts.locate import locate
from rung.config import PathConfig, StageConfig
from rung.config.algorithms import make_algorithm
from rung.data.encode import OverLong
from rung.data.load import NoExamplesError
from rung.data.records import BadRow, Encoded, Example
from rung.data.report import DataReport
from rung.errors import ConfigError, DataError, UserError
from rung.models.load import load_meta_model, num_positions
from rung.models.stops import stop_ids
from rung.models.vocabulary import num_embeddings
from rung.pipeline.check import origins
from rung.pipeline.model_size import resolve_by_model
from rung.pipeline.stage_data import check_ids, check_positions, encode_examples, read_examples, split_examples
from rung.pipeline.stage_settings import StageSettings, stage_settings
from rung.utils.allowed_code import only_allowed
from rung.utils.messages import did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROW = re.compile(r"(?:.*:)?\d+(?:#\d+)?")  # as in `pairs.jsonl:12`, `12` and `rows.jsonl:3#2`


class NotTrainedError(DataError):
    """A row that a stage drops or refuses."""


@dataclass(frozen=True, slots=True)
class TrainedRow:
    """A row as a stage trains it. `is_held_out`: early stopping reads its loss, and it is not trained."""

    encoded: Encoded
    notices: tuple[str, ...]
    is_held_out: bool


@dataclass(frozen=True, slots=True)
class FoundRow:
    """The examples that a stage makes of one row (two of a pair if it trains on single answers), with its tokenizer."""

    stage: str
    tokenizer: PreTrainedTokenizerBase
    examples: tuple[TrainedRow, ...]


def find_row(config: PathConfig, row: str | None, stage: str | None) -> FoundRow:
    """The row with a name such as `pairs.jsonl:12` or `12`, by default the first one, as a stage trains it.

    `stage` is by default the first one that trains. Raises ConfigError for an unknown stage or row, `NotTrainedError`
    with the reason for a row that the stage drops or refuses, and UserError for data that it cannot use at all.
    """
    with only_allowed(config.code):
        path = resolve_by_model(config)
        found = _stage(path, stage)
        settings = stage_settings(found, path, make_algorithm(found.algorithm, path.base))
        examples, report = _read(settings)
        source = _source(row, [*(one.source for one in examples), *_left_out(report)], found.name)
        of_row = [example for example in examples if _is_of(example.source, source)]
        if not of_row:
            verb = "refused" if found.on_bad_row == "error" and source in _refused(report) else "dropped"
            raise NotTrainedError(f"{source} is {verb}: {_left_out(report)[source]}", "fix the row, or leave it out")
        _, held_out = split_examples(settings, examples)
        model, tokenizer = load_meta_model(_location(path, found))
        shown = []
        for example in of_row:
            told = DataReport()
            encoded = _encoded(example, settings, model, tokenizer, told)
            notices = (*_noticed(report, example.source), *told.noticed, *_others(report, found))
            shown.append(TrainedRow(encoded, notices, any(example is other for other in held_out)))
    return FoundRow(found.name, tokenizer, tuple(shown))


def _stage(path: PathConfig, name: str | None) -> StageConfig:
    training = [stage for stage in path.stages if make_algorithm(stage.algorithm, path.base).data_kind() is not None]
    if name is None and training:
        return training[0]
    if name not in [stage.name for stage in training]:
        what = f"{path.name} has no stage `{name}` that trains" if name else f"{path.name} has no stage that trains"
        raise ConfigError(what, did_you_mean(name or "", [stage.name for stage in training]))
    return next(stage for stage in training if stage.name == name)


def _location(path: PathConfig, stage: StageConfig) -> str:
    """The model from which the stage starts or, if a gate decides on that, the model of the path."""
    locations = origins(path, stage)
    return min(locations) if len(locations) == 1 else locate(path.model, base=path.base, runs=Path(path.output))


def _read(settings: StageSettings) -> tuple[list[Example], DataReport]:
    """The examples of a stage, and a report that has the reason for every other row: none of them is an error."""
    try:
        return read_examples(_changed(settings, on_bad_row="quarantine", max_bad_share=1.0))
    except NoExamplesError as error:
        return [], error.report


def _changed(settings: StageSettings, **keys: object) -> StageSettings:
    return replace(settings, config=settings.config.model_copy(update=keys))


def _refused(report: DataReport) -> dict[str, str]:
    return {line["source"]: line["cause"] for line in report.quarantined}


def _left_out(report: DataReport) -> dict[str, str]:
    """The reason for each row that was left out when the data were read, by source."""
    dropped = {source: cause for cause, tally in report.dropped.items() for source in tally.sources}
    return dropped | _refused(report)


def _noticed(report: DataReport, source: str) -> list[str]:
    return [what for what, tally in report.noticed.items() if source in tally.sources]


def _others(report: DataReport, stage: StageConfig) -> list[str]:
    if not report.quarantined or stage.on_bad_row != "error":
        return []
    return [f"bad rows stop the stage: {len(report.quarantined)} (`rung check` names them)"]


def _source(row: str | None, sources: Sequence[str], stage: str) -> str:
    """The source that a row's name on the command line means."""
    if row is None:
        return sources[0]
    if not ROW.fullmatch(row):
        raise ConfigError(f"`{row}` is not the name of a row", f"give a number, or a name as in `{sources[0]}`")
    found = dict.fromkeys(source for source in sources if _is_of(source, row))
    files = dict.fromkeys(source.rpartition(":")[0] for source in found)
    if len(files) > 1:
        raise ConfigError(
            f"row {row} may be one of {' and '.join(files)}", f"name the file, as in `{next(iter(found))}`"
        )
    if not found:
        what = f"stage `{stage}` has no row `{row}` among the {len(sources)} that it reads, the first `{sources[0]}`"
        raise ConfigError(
            what, "name another row; `share`, `limit`, `pairs_by` and weights of a mixture leave rows out"
        )
    return row if row in found else next(iter(found)).partition("#")[0]


def _is_of(source: str, row: str) -> bool:
    """Whether an example with this source is of the row with this name.

    >>> [_is_of("a.jsonl:3#2", row) for row in ("a.jsonl:3", "3", "a.jsonl:3#2", "a.jsonl:3#1", "b.jsonl:3")]
    [True, True, True, False, False]
    """
    names = (source, source.rpartition("#")[0]) if "#" in source.rpartition(":")[2] else (source,)
    return any(row in (name, name.rpartition(":")[2]) for name in names)


def _encoded(
    example: Example,
    settings: StageSettings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    report: DataReport,
) -> Encoded:
    """The example as the stage trains it. Raises `NotTrainedError` with the reason if the stage does not."""
    drops = settings.config.on_overlong == "drop"
    strict = _changed(settings, on_bad_row="error", on_overlong="error" if drops else settings.config.on_overlong)
    try:
        (one,) = encode_examples(strict, [example], tokenizer, stop_ids(model, tokenizer), report)
    except DataError as error:
        fault = error.__cause__
        if not isinstance(fault, BadRow):
            raise
        is_long = isinstance(fault, OverLong)
        verb = "dropped" if (drops if is_long else settings.config.on_bad_row != "error") else "refused"
        remedy = "raise the limit, or set `on_overlong: truncate`" if is_long else fault.remedy
        raise NotTrainedError(f"{example.source} is {verb}: {fault}", remedy) from fault
    try:
        check_positions(settings, [one], num_positions(model))
        check_ids([one], num_embeddings(model), tokenizer)
    except UserError as error:
        raise NotTrainedError(error.what, error.remedy) from error
    return one
