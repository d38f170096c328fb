"""Loads the examples of a data set in a config: reads rows, detects their format, converts them and reports on them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from rung.data.formats import FORMATS, Format, detect, strip_repeated_prompts
from rung.data.read import READERS, Row, read_hub, read_path
from rung.data.records import BadRow, Example, digest
from rung.data.report import MAX_BAD_SHARE, DataReport
from rung.data.splits import between, sample
from rung.data.template_columns import with_template_columns
from rung.errors import ConfigError, DataError
from rung.utils.messages import settings_error

OnBadRow = Literal["error", "skip", "quarantine"]
Share = Annotated[float, Field(ge=0, le=1)]


class ShareSpec(BaseModel):
    """A slice of the data: the examples whose group has a position (`splits.position`, in [0, 1)) in [`from`, `to`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    salt: str = ""
    low: Share = Field(0.0, alias="from")
    high: Share = Field(1.0, alias="to")


class DataSpec(BaseModel):
    """The settings of one data set in a config: where it is, how to read it, and which part of it to use.

    `columns` maps rung's column names to those of the data. `columns: {group: document}` has a special meaning: rows
    with the same value in the column `document` are never separated by a split.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = None  # a file or folder, or task:NAME/SPLIT
    name: str | None = None  # a hub id
    subset: str | None = None  # a subset (configuration) of a hub data set
    split: str | None = None  # a split of a hub data set or a folder
    format: str | None = None
    columns: dict[str, str] = {}
    share: ShareSpec | None = None
    limit: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_place(self) -> "DataSpec":
        if (self.path is None) == (self.name is None):
            what = "`path` and `name` are both set" if self.path else "neither `path` nor `name` is set"
            raise ConfigError(what, "set either `path` (a file, a folder, task:NAME/SPLIT) or `name` (a hub id)")
        return self


def load_examples(
    spec: str | Mapping[str, Any] | DataSpec | Iterable[Mapping[str, Any] | Example],
    *,
    on_bad_row: OnBadRow = "error",
    max_bad_share: float = MAX_BAD_SHARE,
    base: Path | None = None,
    seed: int = 0,
) -> tuple[list[Example], DataReport]:
    """Loads the examples of a data set, and a report on its rows.

    `spec` is a file, a folder, a hub id, `task:NAME/SPLIT`, a mapping with the keys of `DataSpec`, or the rows
    themselves. Paths are relative to `base`. `on_bad_row`: with `error`, a bad row raises DataError; with `skip`, it is
    dropped and counted; with `quarantine`, the report also keeps the row. A share of bad rows above `max_bad_share` is
    always an error. `seed` determines the rows of a task and the sample that `limit` draws. Raises `DataError` for data
    that cannot be used, and `ConfigError` for an unknown key or format.
    """
    if isinstance(spec, str | Mapping | DataSpec):
        settings = _settings(cast("str | Mapping[str, Any] | DataSpec", spec), base)
        rows = list(_read(settings, base, seed))
    else:
        given = list(spec)
        if given and all(isinstance(item, Example) for item in given):
            return cast(list[Example], given), DataReport(rows=len(given), examples=len(given))
        settings = DataSpec(path="rows")
        rows = [_given(number, item) for number, item in enumerate(given, 1)]
    if not rows:
        raise DataError(f"{settings.path or settings.name}: the data set has no rows", "add at least one row")

    report = DataReport(rows=len(rows))
    rows = _with_all_columns([_renamed(row, settings.columns) for row in rows])
    form = FORMATS.find(settings.format, base) if settings.format else detect(rows)
    report.formats[form.name] = len(rows)
    examples, bad = _convert(rows, form, settings.columns.get("group"), report)
    if bad:
        _check_bad_rows(bad, rows, on_bad_row, max_bad_share, report)
    if on_bad_row == "quarantine":
        report.quarantined += [_quarantined(rows[i], fault) for i, fault in bad.items()]
    examples = _finish(examples, form, report)
    if settings.share is not None:
        examples = between(examples, settings.share.low, settings.share.high, settings.share.salt)
    if settings.limit is not None:
        examples = sample(examples, settings.limit, seed)
    if not examples:
        what = f"{settings.path or settings.name}: no example is left: {'; '.join(report.lines())}"
        raise DataError(what, "fix the dropped rows, or widen `share`")
    report.examples = len(examples)
    return examples, report


def _settings(spec: str | Mapping[str, Any] | DataSpec, base: Path | None) -> DataSpec:
    if isinstance(spec, DataSpec):
        return spec
    if isinstance(spec, Mapping):
        try:
            return DataSpec.model_validate(spec)
        except ValidationError as error:
            raise settings_error("data", error, DataSpec.model_fields) from error
    is_file = spec.startswith("task:") or (base or Path()).joinpath(spec).exists() or spec.endswith((*READERS, ".gz"))
    is_hub = not is_file and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", spec) is not None
    return DataSpec(name=spec) if is_hub else DataSpec(path=spec)


def _read(settings: DataSpec, base: Path | None, seed: int) -> Iterable[Row]:
    if settings.name is not None:
        return read_hub(settings.name, subset=settings.subset, split=settings.split)
    path = settings.path or ""
    if path.startswith("task:"):
        from rung.tiny.tasks import rows

        return (
            Row(path, number, columns) for number, columns in enumerate(rows(path.removeprefix("task:"), seed=seed), 1)
        )
    return read_path((base or Path()) / path, split=settings.split)


def _given(number: int, item: object) -> Row:
    if not isinstance(item, Mapping):
        raise DataError(
            f"rows, row {number} is not a mapping (found {type(item).__name__})",
            "give all rows as dicts, or all as `Example`",
        )
    return Row("rows", number, item)


def _renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """The row with its columns renamed to rung's names, except `group`, which is not a column of an example."""
    if row.fault is not None or not columns:
        return row
    names = {theirs: ours for ours, theirs in columns.items() if ours != "group"}
    missing = next((theirs for theirs in columns.values() if theirs not in row.columns), None)
    if missing is not None:
        known = ", ".join(row.columns)
        return replace(
            row, fault=BadRow(f"the row has no column `{missing}`", f"`columns:` names it; the columns are {known}")
        )
    kept = {name: value for name, value in row.columns.items() if name not in names and name not in names.values()}
    return replace(row, columns=kept | {ours: row.columns[theirs] for theirs, ours in names.items()})


def _with_all_columns(rows: Sequence[Row]) -> list[Row]:
    """The rows, each with the columns of all rows (null where missing), so that rewards find them in every row."""
    names = dict.fromkeys(name for row in rows for name in row.columns)
    return [replace(row, columns=dict.fromkeys(names) | dict(row.columns)) for row in rows]


def _convert(
    rows: Sequence[Row], form: Format, group: str | None, report: DataReport
) -> tuple[list[Example], dict[int, BadRow]]:
    examples: list[Example] = []
    bad: dict[int, BadRow] = {}
    for index, row in enumerate(rows):
        try:
            if row.fault is not None:
                raise row.fault
            made = [with_template_columns(example) for example in form.convert(row.columns, row.source)]
        except BadRow as fault:
            bad[index] = fault
            report.refuse(fault.cause, row.source)
            report.unreadable += 1
            continue
        notice = form.notice(row.columns)
        if notice:
            report.notice(notice, row.source)
        if not made:
            report.drop(f"{form.name}: the row has nothing to train on", row.source)
        examples += [replace(one, group=digest(row.columns[group])) for one in made] if group else made
    return examples, bad


def _check_bad_rows(
    bad: Mapping[int, BadRow], rows: Sequence[Row], on_bad_row: OnBadRow, max_bad_share: float, report: DataReport
) -> None:
    """Raises `DataError`, naming the first bad row, if `on_bad_row` is `error` or if too many rows are bad."""
    first = min(bad)
    if on_bad_row == "error":
        remedy = "fix the row, or set `on_bad_row: skip` (or `quarantine`)"
        raise DataError(f"{rows[first].place}: {bad[first]}", remedy)
    report.check_bad_share(rows[first].place, bad[first], max_bad_share)


def _quarantined(row: Row, fault: BadRow) -> dict[str, Any]:
    return {"source": row.source, "cause": str(fault), "row": row.columns}


def _finish(examples: list[Example], form: Format, report: DataReport) -> list[Example]:
    """The examples after the steps that need all of them: repeated prompts, the label set, and exact duplicates.

    Prompts that both sides of every pair repeat are removed from them; labels and duplicates go into the report.
    """
    if form.name == "preference":
        stripped = strip_repeated_prompts(examples)
        for example in stripped or ():
            report.notice("the prompt is removed from the start of both sides, which repeat it", example.source)
        examples = stripped or examples
    if form.name == "classification":
        report.labels = tuple(sorted({str(example.completion) for example in examples}))
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            report.notice("an exact duplicate of an earlier row", example.source)
        seen.add(example.id)
    return examples
