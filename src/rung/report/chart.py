"""The final table as a picture: a dot with its 95 % interval for every stage and metric, as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from rung.evaluation.evaluate import Estimate
from rung.report.content import is_share
from rung.report.records import Report
from rung.report.svg import alone, number, within

WIDTH, LABELS, ROW, TOP, GAP = 960, 160, 24, 44, 28
MOST = 5  # metrics side by side


def chart(report: Report) -> str:
    """SVG with a panel for each metric and a line for each entry; empty where there is nothing to draw.

    The dot is filled where the stage was promoted. Colours come from the page's style sheet.
    """
    body, height = _drawn(report)
    return within(body, WIDTH, height, _about(report)) if body else ""


def chart_file(report: Report) -> str:
    """The same as a file of its own; empty where there is nothing to draw."""
    body, height = _drawn(report)
    return alone(body, WIDTH, height, _about(report)) if body else ""


def _about(report: Report) -> str:
    return escape(f"{report.name}: {', '.join(_names(report))} by stage, with 95 % intervals")


def _names(report: Report) -> list[str]:
    return [name for name in report.metrics if any(name in entry.evaluation.metrics for entry in report.final)]


def _drawn(report: Report) -> tuple[str, float]:
    """The panels, in rows of about as many each, and their height."""
    names = _names(report)
    num_rows = -(-len(names) // MOST)
    size = -(-len(names) // num_rows) if names else 0
    height = TOP + ROW * len(report.final) + 8
    rows = [names[i : i + size] for i in range(0, len(names), size)] if names else []
    parts = [
        f'<g transform="translate(0 {i * (height + GAP)})">{"".join(_row(report, row, size))}</g>'
        for i, row in enumerate(rows)
    ]
    return "\n".join(parts), len(rows) * (height + GAP) - GAP


def _row(report: Report, names: Sequence[str], size: int) -> Iterator[str]:
    promoted = {record.stage for record in report.lineage.stages if record.outcome == "promoted"}
    filled = [entry.stage in promoted for entry in report.final]
    width = (WIDTH - LABELS) / size
    yield '<text class="note" x="0" y="32">filled: promoted</text>'
    for i, entry in enumerate(report.final):
        end, y = LABELS + len(names) * width - GAP, _line(i) + ROW / 2
        yield f'<text x="0" y="{_line(i) + 4}">{escape(entry.label)}</text>'
        yield f'<line class="rule" x1="0" x2="{end:.1f}" y1="{y}" y2="{y}"/>'
    for column, name in enumerate(names):
        estimates = [entry.evaluation.metrics.get(name) for entry in report.final]
        share = is_share(name, report.final)
        yield from _panel(name, estimates, filled, share, LABELS + column * width, width - GAP)


def _panel(
    name: str, estimates: Sequence[Estimate | None], filled: Sequence[bool], share: bool, left: float, width: float
) -> Iterator[str]:
    low, high = (0.0, 1.0) if share else _ends(estimates)
    ends = ("0", "100 %") if share else (number(low), number(high))
    yield f'<text class="name" x="{left:.1f}" y="14">{escape(name)}</text>'
    yield f'<text class="note" x="{left:.1f}" y="32">{ends[0]}</text>'
    yield f'<text class="note" x="{left + width:.1f}" y="32" text-anchor="end">{ends[1]}</text>'
    yield f'<line class="axis" x1="{left:.1f}" x2="{left + width:.1f}" y1="{TOP - 6}" y2="{TOP - 6}"/>'
    for i, (estimate, solid) in enumerate(zip(estimates, filled, strict=True)):
        if estimate is None or estimate.value is None:
            continue
        places = (min(1.0, max(0.0, (bound - low) / (high - low))) for bound in _bounds(estimate))
        x1, x, x2 = (left + width * place for place in places)
        told = f"{100 * estimate.value:.1f} %" if share else number(estimate.value)
        yield (
            f"<g><title>{escape(name)} {told}</title>"
            f'<line class="interval" x1="{x1:.1f}" x2="{x2:.1f}" y1="{_line(i)}" y2="{_line(i)}"/>'
            f'<circle class="{"solid" if solid else "hollow"}" cx="{x:.1f}" cy="{_line(i)}" r="4.5"/></g>'
        )


def _ends(estimates: Sequence[Estimate | None]) -> tuple[float, float]:
    """From 0, or below where a value is, to the largest of what is drawn."""
    bounds = [bound for estimate in estimates if estimate for bound in _bounds(estimate)]
    low, high = min(0.0, *bounds), max(0.0, *bounds)
    return (low, high) if high > low else (low, low + 1.0)


def _bounds(estimate: Estimate) -> tuple[float, float, float]:
    """The lower end, the value and the upper end; one without an interval is a point, without a value it is 0."""
    value = 0.0 if estimate.value is None else estimate.value
    return (
        value if estimate.low is None else estimate.low,
        value,
        value if estimate.high is None else estimate.high,
    )


def _line(i: int) -> float:
    return TOP + ROW * (i + 0.5)
