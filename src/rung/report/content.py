"""The content of a report: sections with sentences and tables, independent of how they are rendered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rung.artifacts.lineage import StageRecord
from rung.evaluation import comparison
from rung.evaluation.comparison import ALPHA, Comparison, compare, pooled_ratio
from rung.evaluation.evaluate import TRUNCATED, Estimate, Evaluation, Row
from rung.evaluation.gate import unit_of
from rung.evaluation.statistics import detectable_difference, holm
from rung.report.curves import Curves
from rung.report.plot import is_smoothed
from rung.report.records import Entry, Report, Section, Table
from rung.report.svg import number
from rung.reward.decorator import Goal
from rung.utils.conversation import conversation_text

EXAMPLES = 5  # examples of gains, and as many of losses, per stage; also the comparisons that a warning lists
VALIDATION = "validation"
CURVES = "curves.svg"  # the picture of the training curves, in the folder of a stage
_TYPICAL_FLIPS = 0.25  # a typical share of items whose 0/1 score differs between two models
_GAINS = ("stage", "against", "metric", "gain", "p", "p (Holm)", "better / worse", "after / before")


def sections(report: Report) -> list[Section]:
    """The sections of a report, the most important first; sections without content are left out."""
    made = [_outcome(report), _warnings(report)]
    if report.final:
        made += [_scores(report), _gains(report), _lengths(report)]
    made += [_gates(report), _data(report)]
    made += [_training(stage, curves) for stage, curves in report.curves.items()]
    made += _examples(report)
    return [
        section for section in made if section.sentences or section.panels or (section.table and section.table.rows)
    ]


def measured(evaluation: Evaluation) -> Section:
    """A section with the scores of a single evaluation, one row per metric."""
    entry = Entry("", evaluation)
    shares = {name: is_share(name, [entry]) for name in evaluation.metrics}
    rows = tuple(
        (f"{name}, %" if shares[name] else name, _estimate(estimate, shares[name]), str(estimate.n))
        for name, estimate in evaluation.metrics.items()
    )
    failed = (f"`{name}` failed on items: {_plain(e.failure)}" for name, e in evaluation.metrics.items() if e.failure)
    return Section("", tuple(failed), Table(("metric", "score [95 % interval]", "items"), rows))


def is_share(name: str, entries: Sequence[Entry]) -> bool:
    """Whether all scores of a metric are between 0 and 1 in all entries, so that it is shown in per cent."""
    return comparison.is_share(name, *(entry.evaluation for entry in entries))


def predecessors(report: Report, entry: Entry, entries: Sequence[Entry]) -> list[Entry]:
    """The earlier entries with which an entry is compared: those of accepted stages with the same evaluation setup.

    This is only the last one before the entry or, for the final policy, all of them, the last one first.
    """
    accepted = {record.stage for record in report.lineage.stages if record.accepted}
    earlier = entries[: next(i for i, other in enumerate(entries) if other is entry)]
    alike = [
        other
        for other in reversed(earlier)
        if other.stage != entry.stage and other.stage in accepted and other.evaluation.hash == entry.evaluation.hash
    ]
    last = report.lineage.last_accepted()
    return alike if last and last.stage == entry.stage else alike[:1]


def _outcome(report: Report) -> Section:
    last = report.lineage.last_accepted()
    final = f"The final policy is that of stage `{last.stage}`." if last else "No stage was promoted."
    rows = tuple((record.stage, record.start, record.outcome) for record in report.lineage.stages)
    changes = (f"{change.words}." for change in report.lineage.changes)
    return Section("Outcome", (final, *changes), Table(("stage", "started from", "outcome"), rows, num_texts=3))


def _warnings(report: Report) -> Section:
    told = (f"`{stage}`, {words}." for stage, several in report.symptoms.items() for words in several)
    return Section("Warnings", tuple(told))


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
    adjusted = holm({str(i): change.p for i, (_, _, change) in enumerate(compared) if change.p is not None})
    rows = tuple(
        (
            entry.label,
            before.label,
            change.metric,
            _change(change, is_share(change.metric, report.final)),
            _p(change.p),
            _p(adjusted.get(str(i))),
            f"{change.gained} / {change.lost}",
            _ratio(before.evaluation, entry.evaluation, change),
        )
        for i, (entry, before, change) in enumerate(compared)
    )
    strong = frozenset(int(i) for i, p in adjusted.items() if p < ALPHA)
    note = f"Paired by item, shares in points, up is better. Bold: Holm's p over this table is below {ALPHA:g}."
    table = Table(_GAINS, rows, num_texts=3, num_keys=2, strong=strong, optional=_GAINS[-1:])
    return Section("Gains", (note, *_caveats(compared)) if rows else (), table)


def _caveats(compared: Sequence[tuple[Entry, Entry, Comparison]]) -> Iterator[str]:
    """The warnings about the intervals, each once, with the comparisons to which it applies."""
    found: dict[str, list[str]] = {}
    for entry, before, change in compared:
        if change.caveat:
            found.setdefault(change.caveat, []).append(f"`{change.metric}`, {entry.label} against {before.label}")
    for caveat, where in found.items():
        if len(where) == len(compared):
            yield f"All of them: {caveat}."
        else:
            more = f" and {len(where) - EXAMPLES} more" if len(where) > EXAMPLES else ""
            yield f"{'; '.join(where[:EXAMPLES])}{more}: {caveat}."


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
                unit = unit_of(name, before.evaluation, entry.evaluation)
                yield f"`{record.stage}`: `{name}` {unit.change(change.low)}{unit.name}."


def _data(report: Report) -> Section:
    """How many rows each stage read and trained on, and for each cause the rows that were left out or noticed."""
    told, rows = [], []
    for stage, card in report.data.items():
        dropped = sum(tally["count"] for tally in card["dropped"].values())
        numbers = (card["rows"], card["examples"], card["encoded"], dropped)
        rows.append((stage, ", ".join(card["formats"]), card["fingerprint"][:12], *map(str, numbers)))
        for verb in ("dropped", "noticed"):
            for cause, tally in card[verb].items():
                more = ", ..." if tally["count"] > len(tally["first"]) else ""
                told.append(f"{stage}: {verb} {tally['count']}: {_plain(cause)} ({', '.join(tally['first'])}{more})")
        told += [f"{stage}: {_plain(warning)}" for warning in card["warnings"]]
    headers = ("stage", "format", "fingerprint", "rows", "examples", "encoded", "dropped")
    return Section("Data", tuple(told), Table(headers, tuple(rows), num_texts=3, optional=("fingerprint", "format")))


def _training(stage: str, curves: Curves) -> Section:
    thick = "Thin: each step; thick: the mean over a twentieth of the steps around it. "
    smooth = thick if any(map(is_smoothed, curves.panels)) else ""
    notes = [f"{smooth}The last value stands beside each name. All metrics: `{stage}/metrics.jsonl`."]
    if curves.still:
        notes.append(f"Never moved: {', '.join(f'`{name}` {number(value)}' for name, value in curves.still.items())}.")
    picture = f"{stage}/{CURVES}"
    return Section(f"Training: {stage}", tuple(notes), kind="curves", panels=curves.panels, picture=picture)


def _examples(report: Report) -> Iterator[Section]:
    for record in report.lineage.stages:
        entry, before = _gate_pair(report, record)
        if record.decision and entry and before:
            name, goal = record.decision.gain.metric, record.decision.gain.goal
            rows = tuple(_moved(before.evaluation, entry.evaluation, name, goal))
            headers = ("change", "asked", "expected", before.label, entry.label)
            table = Table(headers, rows, num_texts=len(headers))
            yield Section(f"Examples: {record.stage} ({name}, {VALIDATION})", (), table, "examples")


def _gate_pair(report: Report, record: StageRecord) -> tuple[Entry | None, Entry | None]:
    """The validation entries of a stage and of the accepted stage before it, with the same evaluation setup."""
    for entry in report.validation:
        if entry.stage == record.stage and (earlier := predecessors(report, entry, report.validation)):
            return entry, earlier[0]
    return None, None


def _moved(before: Evaluation, after: Evaluation, name: str, goal: Goal) -> Iterator[tuple[str, ...]]:
    """Table rows for the items that got worse most, then for those that improved most."""
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
        yield f"{change:+.2g}", old.prompt, old.expected or "", _said(old), _said(new)


def _said(row: Row) -> str:
    """The completion of a row, or its conversation."""
    return conversation_text(row.messages) if row.messages else row.completion


def _estimate(estimate: Estimate, share: bool) -> str:
    if estimate.value is None:
        return "not scored"
    scale = 100 if share else 1
    bounds = ""
    if estimate.low is not None and estimate.high is not None:
        # Student's t interval can exceed the range of scores from 0 to 1
        low, high = (max(0.0, estimate.low), min(1.0, estimate.high)) if share else (estimate.low, estimate.high)
        bounds = f" [{scale * low:.1f}, {scale * high:.1f}]"
    lost = f" (n = {estimate.n})" if estimate.lost else ""
    return f"{scale * estimate.value:.1f}{bounds}{lost}"


def _change(change: Comparison, share: bool) -> str:
    if change.gain is None or change.low is None or change.high is None:
        return "not scored"
    scale = 100 if share else 1
    return f"{_signed(scale * change.gain)} [{_signed(scale * change.low)}, {_signed(scale * change.high)}]"


def _signed(value: float) -> str:
    """A number with its sign and one decimal; without a sign if it rounds to 0.

    >>> _signed(1.24), _signed(-0.04)
    ('+1.2', '0.0')
    """
    return f"{value:+.1f}" if round(value, 1) else "0.0"


def _plain(text: str) -> str:
    """Text from outside (such as an error) made fit for a sentence: one line, printable, at most 160 characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text.replace("`", "'")).split())[:160]


def _p(p: float | None) -> str:
    return "" if p is None else "< .0001" if p < 1e-4 else f"{p:.4f}".lstrip("0")


def _ratio(before: Evaluation, after: Evaluation, change: Comparison) -> str:
    """The ratio after / before with its interval, as text; empty if higher is better or if the metric was 0 before."""
    ratio = pooled_ratio([(before, after)], change.metric) if change.goal == "min" else None
    if ratio is None:
        return ""
    return f"{ratio.value:.2f} [{ratio.interval.low:.2f}, {ratio.interval.high:.2f}]"
