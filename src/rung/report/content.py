"""What a report says: sections of sentences and tables, whatever they are rendered to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rung.comparison import ALPHA, Comparison, Goal, compare, pooled_ratio
from rung.evaluate import TRUNCATED, Estimate, Evaluation, Row
from rung.lineage import Lineage, StageRecord
from rung.statistics import detectable_difference, holm

EXAMPLES = 5  # of each kind and stage
VALIDATION = "validation"
_TYPICAL_FLIPS = 0.25


@dataclass(frozen=True, slots=True)
class Entry:
    """A stage's model, asked in one way: its evaluation on one set."""

    stage: str
    evaluation: Evaluation

    @property
    def label(self) -> str:
        """The stage, and the number of shots where there are some."""
        shots = self.evaluation.num_shots
        return f"{self.stage}, {shots} shots" if shots else self.stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a finished run leaves behind: entries in the order of the stages, `metrics` in the order of the columns.

    The tables are of the test set (of validation where there is none); examples and gates are of validation, since
    whoever looks at single test items tunes on them.
    """

    name: str
    lineage: Lineage
    metrics: Sequence[str]
    goals: Mapping[str, Goal] = field(default_factory=dict)
    test: Sequence[Entry] = ()
    validation: Sequence[Entry] = ()

    @property
    def final(self) -> Sequence[Entry]:
        """The entries that the tables show."""
        return self.test or self.validation


@dataclass(frozen=True, slots=True)
class Table:
    """Headers and cells, as text; the first column names the row."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with sentences (names in backticks) and a table, of numbers or of what models wrote."""

    title: str
    sentences: tuple[str, ...] = ()
    table: Table | None = None
    kind: Literal["numbers", "examples"] = "numbers"


def sections(report: Report) -> list[Section]:
    """Everything that the report says, most important first; a section without content is left out."""
    made = [_outcome(report)]
    if report.final:
        made += [_scores(report), _gains(report), _lengths(report)]
    made.append(_gates(report))
    made += _examples(report)
    return [section for section in made if section.sentences or (section.table and section.table.rows)]


def is_share(name: str, entries: Sequence[Entry]) -> bool:
    """Whether all scores of a metric lie within 0 and 1, so that it reads as per cent."""
    scores = (row.scores.get(name) for entry in entries for row in entry.evaluation.rows)
    return all(0 <= score <= 1 for score in scores if score is not None)


def predecessors(report: Report, entry: Entry, entries: Sequence[Entry]) -> list[Entry]:
    """The promoted stage before an entry, asked alike; for the final policy all of them, the nearest first."""
    promoted = {record.stage for record in report.lineage.stages if record.outcome == "promoted"}
    earlier = entries[: next(i for i, other in enumerate(entries) if other is entry)]
    alike = [
        other
        for other in reversed(earlier)
        if other.stage != entry.stage and other.stage in promoted and other.evaluation.hash == entry.evaluation.hash
    ]
    last = report.lineage.last_promoted()
    return alike if last and last.stage == entry.stage else alike[:1]


def _outcome(report: Report) -> Section:
    last = report.lineage.last_promoted()
    final = f"The final policy is that of stage `{last.stage}`." if last else "No stage was promoted."
    rows = tuple(
        (record.stage, record.start, record.outcome if record.decision else f"{record.outcome}, no gate")
        for record in report.lineage.stages
    )
    return Section("Outcome", (final,), Table(("stage", "started from", "outcome"), rows))


def _scores(report: Report) -> Section:
    names = [name for name in report.metrics if name in report.final[0].evaluation.metrics]
    shares = {name: is_share(name, report.final) for name in names}
    n = len(report.final[0].evaluation.rows)
    rows = tuple(
        (entry.label, *(_estimate(entry.evaluation.metrics[name], shares[name]) for name in names))
        for entry in report.final
    )
    headers = tuple(f"{name}, %" if shares[name] else name for name in names)
    seen = 100 * detectable_difference(_TYPICAL_FLIPS, n)
    note = (
        f"{n} items, 95 % intervals. With a quarter of the answers changing, a difference of {seen:.1f} points shows."
    )
    failures = tuple(
        f"`{name}` failed on items of {entry.label}: {_plain(estimate.failure)}"
        for entry in report.final
        for name, estimate in entry.evaluation.metrics.items()
        if estimate.failure
    )
    return Section("Test" if report.test else "Validation", (note, *failures), Table(("stage", *headers), rows))


def _gains(report: Report) -> Section:
    compared = [
        (entry, before, compare(before.evaluation, entry.evaluation, name, report.goals))
        for entry in report.final
        for before in predecessors(report, entry, report.final)
        for name in report.metrics
        if name in entry.evaluation.metrics
    ]
    found = {str(i): change.p for i, (_, _, change) in enumerate(compared) if change.p is not None}
    adjusted = holm(found)
    rows = tuple(
        (
            entry.label,
            before.label,
            change.metric,
            *_change(change, is_share(change.metric, report.final)),
            _p(change.p),
            _p(adjusted.get(str(i))),
            f"+{change.gained} / -{change.lost}",
            _ratio(before.evaluation, entry.evaluation, change),
        )
        for i, (entry, before, change) in enumerate(compared)
    )
    headers = ("stage", "against", "metric", "gain", "p", "p (Holm)", "better / worse", "ratio")
    note = "Paired by item, shares in points, up is better. `ratio` is after over before, where less is better."
    caveats = dict.fromkeys(
        f"`{change.metric}`, {entry.label} against {before.label}: {change.caveat}."
        for entry, before, change in compared
        if change.caveat
    )
    return Section("Gains", (note, *caveats) if rows else (), Table(headers, rows))


def _lengths(report: Report) -> Section:
    rows = tuple(
        (
            entry.label,
            *(f"{value:.1f}" for value in entry.evaluation.output_tokens.model_dump().values()),
            f"{100 * (entry.evaluation.metrics[TRUNCATED].value or 0):.1f}",
        )
        for entry in report.final
    )
    headers = ("stage", "mean", "median", "sd", "p95", "min", "max", "truncated, %")
    return Section("Output tokens", (), Table(headers, rows))


def _gates(report: Report) -> Section:
    gated = [record for record in report.lineage.stages if record.decision]
    sentences = [sentence for record in gated for sentence in _reasons(record)]
    reads = report.lineage.reads(VALIDATION)
    if gated and reads > 1:
        sentences.append(f"Validation was read {reads} times; at alpha / {reads} the lower bounds of the gains are:")
        sentences += list(_strict_bounds(report, gated, 1 - ALPHA / reads))
    return Section("Gates", tuple(sentences))


def _reasons(record: StageRecord) -> Iterator[str]:
    assert record.decision is not None
    needed = record.decision.items_needed
    size = f" (about {needed} items would settle it)" if needed else ""
    yield f"`{record.stage}`: {record.decision.outcome}{size}. " + ". ".join(record.decision.reasons) + "."


def _strict_bounds(report: Report, gated: Sequence[StageRecord], level: float) -> Iterator[str]:
    for record in gated:
        assert record.decision is not None
        entry, before = _gate_pair(report, record)
        if entry and before:
            name = record.decision.gain.metric
            change = compare(before.evaluation, entry.evaluation, name, report.goals, level=level)
            if change.low is not None:
                yield f"`{record.stage}`: `{name}` {change.low:+.4f}."


def _examples(report: Report) -> Iterator[Section]:
    for record in report.lineage.stages:
        entry, before = _gate_pair(report, record)
        if record.decision and entry and before:
            name, goal = record.decision.gain.metric, record.decision.gain.goal
            rows = tuple(_moved(before.evaluation, entry.evaluation, name, goal))
            headers = ("change", "asked", "expected", before.label, entry.label)
            yield Section(f"Examples: {record.stage} ({name}, {VALIDATION})", (), Table(headers, rows), "examples")


def _gate_pair(report: Report, record: StageRecord) -> tuple[Entry | None, Entry | None]:
    """The validation entries of a stage and of the promoted stage before it, as they were asked alike."""
    for entry in report.validation:
        if entry.stage == record.stage and (earlier := predecessors(report, entry, report.validation)):
            return entry, earlier[0]
    return None, None


def _moved(before: Evaluation, after: Evaluation, name: str, goal: Goal) -> Iterator[tuple[str, ...]]:
    """The items that lost most, then those that gained most."""
    sign = 1 if goal == "max" else -1
    moved: list[tuple[float, Row, Row]] = []
    for old, new in zip(before.rows, after.rows, strict=True):
        was, now = old.scores[name], new.scores[name]
        if was is not None and now is not None and was != now:
            moved.append((sign * (now - was), old, new))
    moved.sort(key=lambda each: each[0])
    lost = [each for each in moved if each[0] < 0][:EXAMPLES]
    gained = [each for each in reversed(moved) if each[0] > 0][:EXAMPLES]
    for change, old, new in lost + gained:
        yield f"{change:+.2g}", old.prompt, old.expected or "", old.completion, new.completion


def _estimate(estimate: Estimate, share: bool) -> str:
    if estimate.value is None:
        return "not scored"
    scale = 100 if share else 1
    bounds = (
        f" [{scale * estimate.low:.1f}, {scale * estimate.high:.1f}]"
        if estimate.low is not None and estimate.high is not None
        else ""
    )
    lost = f" (n = {estimate.n})" if estimate.lost else ""
    return f"{scale * estimate.value:.1f}{bounds}{lost}"


def _change(change: Comparison, share: bool) -> tuple[str]:
    if change.gain is None or change.low is None or change.high is None:
        return ("not scored",)
    scale = 100 if share else 1
    return (f"{scale * change.gain:+.1f} [{scale * change.low:+.1f}, {scale * change.high:+.1f}]",)


def _plain(text: str) -> str:
    """A foreign text as part of a sentence: one line, printable, at most 160 characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text.replace("`", "'")).split())[:160]


def _p(p: float | None) -> str:
    return "" if p is None else "< .0001" if p < 1e-4 else f"{p:.4f}".lstrip("0")


def _ratio(before: Evaluation, after: Evaluation, change: Comparison) -> str:
    """After over before with its interval, for a metric of which less is better and which was above 0 before."""
    ratio = pooled_ratio([(before, after)], change.metric) if change.goal == "min" else None
    if ratio is None:
        return ""
    return f"{ratio.value:.2f} [{ratio.interval.low:.2f}, {ratio.interval.high:.2f}]"
