"""Loads the examples of a data set in a config: reads rows, detects their format, converts them and reports on them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from rung.data.column_map import check_columns, group_of, mapped
from rung.data.formats import FORMATS, Format, detect, strip_repeated_prompts
from rung.data.mixtures import Mixture, drawn
from rung.data.pairing import pairs_by
from rung.data.read import Row, read_hub, read_path
from rung.data.records import BadRow, Example, digest
from rung.data.report import MAX_BAD_SHARE, NUM_NAMED, DataReport
from rung.data.spec import DataSpec, data_spec
from rung.data.splits import between, sample
from rung.data.template_columns import COLUMNS_OF_TEMPLATE, is_chat, with_template_columns
from rung.errors import DataError

OnBadRow = Literal["error", "skip", "quarantine"]
Specified = str | Mapping[str, Any] | DataSpec


class NoExamplesError(DataError):
    """Data of which no example is left; `report` says why each row was dropped."""

    def __init__(self, what: str, remedy: str, report: DataReport):
        super().__init__(what, remedy)
        self.report = report


def load_examples(
    spec: Specified | Mixture | Iterable[Mapping[str, Any] | Example],
    *,
    on_bad_row: OnBadRow = "error",
    max_bad_share: float = MAX_BAD_SHARE,
    base: Path | None = None,
    seed: int = 0,
    remedy: str = "fix the row, or set `on_bad_row: skip` (or `quarantine`)",
) -> tuple[list[Example], DataReport]:
    """Loads the examples of a data set, and a report on its rows.

    `spec` is a file, a folder, a hub id, `task:NAME/SPLIT`, a mapping with the keys of `DataSpec`, a `Mixture` of such
    data sets, or the rows themselves. Paths are relative to `base`. `on_bad_row`: with `error`, a bad row raises
    DataError, which advises `remedy`; with `skip`, it is dropped and counted; with `quarantine`, the report also keeps
    the row. A share of bad rows above `max_bad_share` is always an error. `seed` determines the rows of a task, the
    sample that `limit` draws, and those of a mixture. Raises `DataError` for data that cannot be used, and
    `ConfigError` for an unknown key or format.
    """
    if isinstance(spec, Mixture):
        loaded = [
            load_examples(
                part.spec, on_bad_row=on_bad_row, max_bad_share=max_bad_share, base=base, seed=seed, remedy=remedy
            )
            for part in spec.parts
        ]
        return _mixed(spec, loaded, base, seed)
    if isinstance(spec, str | Mapping | DataSpec):
        settings = data_spec(cast(Specified, spec), base)
        rows = list(_read(settings, base, seed))
    else:
        given = list(spec)
        if given and all(isinstance(item, Example) for item in given):
            return cast(list[Example], given), DataReport(rows=len(given), examples=len(given))
        settings = DataSpec(path="rows")
        rows = [_given(number, item) for number, item in enumerate(given, 1)]
    if not rows:
        raise DataError(f"{settings.place}: the data set has no rows", "add at least one row")

    report = DataReport(rows=len(rows))
    check_columns(rows, settings.columns, settings.place)
    rows = _with_all_columns([mapped(row, settings.columns) for row in rows])
    form = FORMATS.find(settings.format, base) if settings.format else detect(rows)
    report.formats[form.name] = len(rows)
    examples, bad = _convert(rows, form, settings.columns, report)
    if bad:
        first = min(bad)
        if on_bad_row == "error":
            raise DataError(f"{rows[first].place}: {bad[first]}{_others(rows, bad)}", remedy)
        report.check_bad_share(rows[first].place, bad[first], max_bad_share)
    if on_bad_row == "quarantine":
        report.quarantined += [_quarantined(rows[i], fault) for i, fault in bad.items()]
    examples = _finish(examples, form, report)
    if settings.pairs_by is not None:
        examples = pairs_by(examples, settings.pairs_by, report)
    if settings.share is not None:
        examples = between(examples, settings.share.low, settings.share.high, settings.share.salt)
    if settings.limit is not None:
        examples = sample(examples, settings.limit, seed)
    if not examples:
        what = f"{settings.place}: no example is left: {'; '.join(report.lines())}"
        raise NoExamplesError(what, "fix the dropped rows, or widen `share`", report)
    report.examples = len(examples)
    report.columns = _unused(examples, rows)
    return examples, report


def _unused(examples: Sequence[Example], rows: Sequence[Row]) -> tuple[str, ...]:
    """The columns of the rows that an example has as they were, since neither format nor chat template reads them."""
    columns_of = {row.source: row.columns for row in rows}
    found: set[str] = set()
    for one in examples:
        own = columns_of.get(one.source) or columns_of.get(one.source.rpartition("#")[0], {})
        read = COLUMNS_OF_TEMPLATE if is_chat(one) else ()
        found |= {name for name, value in one.columns.items() if value is not None and own.get(name) is value}
        found -= {*read}
    return tuple(sorted(found))


def _mixed(
    spec: Mixture, loaded: Sequence[tuple[list[Example], DataReport]], base: Path | None, seed: int
) -> tuple[list[Example], DataReport]:
    """The examples that a mixture draws from its data sets, one data set after the other, and the report on all."""
    names = [data_spec(part.spec, base).place for part in spec.parts]
    weights = [part.weight for part in spec.parts]
    counts = drawn(names, [len(examples) for examples, _ in loaded], weights)
    mixed = [one for (examples, _), count in zip(loaded, counts, strict=True) for one in sample(examples, count, seed)]
    report = DataReport()
    for name, weight, count, (examples, part) in zip(names, weights, counts, loaded, strict=True):
        report = report.merge(part)
        report.mixture.append({"data": name, "weight": weight, "examples": len(examples), "drawn": count})
    report.examples = len(mixed)
    return mixed, report


def _read(settings: DataSpec, base: Path | None, seed: int) -> Iterable[Row]:
    if settings.name is not None:
        return read_hub(settings.name, subset=settings.subset, split=settings.split)
    path = settings.path or ""
    if path.startswith("task:"):
        from rung.tiny.tasks import rows

        return (
            Row(path, number, columns) for number, columns in enumerate(rows(path.removeprefix("task:"), seed=seed), 1)
        )
    return read_path((base or Path()) / path, split=settings.split, delimiter=settings.delimiter)


def _given(number: int, item: object) -> Row:
    if not isinstance(item, Mapping):
        raise DataError(
            f"rows, row {number} is not a mapping (found {type(item).__name__})",
            "give all rows as dicts, or all as `Example`",
        )
    return Row("rows", number, item)


def _with_all_columns(rows: Sequence[Row]) -> list[Row]:
    """The rows, each with the columns of all rows (null where missing), so that rewards find them in every row."""
    names = dict.fromkeys(name for row in rows for name in row.columns)
    return [replace(row, columns=dict.fromkeys(names) | dict(row.columns)) for row in rows]


def _convert(
    rows: Sequence[Row], form: Format, columns: Mapping[str, str], report: DataReport
) -> tuple[list[Example], dict[int, BadRow]]:
    examples: list[Example] = []
    bad: dict[int, BadRow] = {}
    for index, row in enumerate(rows):
        try:
            made = _converted(row, form)
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
        group = group_of(row, columns)
        examples += made if group is None else [replace(one, group=digest(group)) for one in made]
    return examples, bad


def _converted(row: Row, form: Format) -> list[Example]:
    if row.fault is not None:
        raise row.fault
    try:
        made = [with_template_columns(example) for example in form.convert(row.columns, row.source)]
        return made if row.line is None else [replace(example, line=row.line) for example in made]
    except OverflowError as error:  # an integer of 400 digits, of which a format makes a float
        raise BadRow("a number is too large", str(error)) from None


def _others(rows: Sequence[Row], bad: Mapping[int, BadRow]) -> str:
    """The bad rows after the first one in words, so that all of them can be mended at once."""
    others = [f"{rows[i].place.rpartition(', row ')[2]} ({bad[i]})" for i in sorted(bad)[1:]]
    more = f" and {len(others) - NUM_NAMED} more" if len(others) > NUM_NAMED else ""
    return f"; also bad: rows {', '.join(others[:NUM_NAMED])}{more}" if others else ""


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
