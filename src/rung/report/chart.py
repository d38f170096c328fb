"""The final table as a picture: a dot with its 95 % interval for every stage and metric, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from rung.evaluate import Estimate
from rung.report.content import Report, is_share

WIDTH, LABELS, ROW, TOP, GAP = 960, 190, 26, 44, 28


def chart(report: Report) -> str:
    """SVG with a panel for each metric and a line for each entry; empty where there is nothing to draw.

    The dot is filled where the stage was promoted. Colours come from the page's style sheet.
    """
    entries = report.final
    names = [name for name in report.metrics if any(name in entry.evaluation.metrics for entry in entries)]
    if not names:
        return ""
    promoted = {record.stage for record in report.lineage.stages if record.outcome == "promoted"}
    height = TOP + ROW * len(entries) + 8
    parts = [
        f'<text x="0" y="{_line(i) + 4}">{escape(entry.label)}</text>'
        f'<line class="rule" x1="0" x2="{WIDTH}" y1="{_line(i) + ROW / 2}" y2="{_line(i) + ROW / 2}"/>'
        for i, entry in enumerate(entries)
    ]
    width = (WIDTH - LABELS) / len(names)
    for column, name in enumerate(names):
        estimates = [entry.evaluation.metrics.get(name) for entry in entries]
        filled = [entry.stage in promoted for entry in entries]
        top = 1.0 if is_share(name, entries) else max(1e-9, *(_highest(estimate) for estimate in estimates))
        parts.append(_panel(name, estimates, filled, top, LABELS + column * width, width - GAP))
    label = escape(f"{report.name}: {', '.join(names)} by stage, with 95 % intervals")
    body = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{body}</svg>'


def _panel(
    name: str, estimates: Sequence[Estimate | None], filled: Sequence[bool], top: float, left: float, width: float
) -> str:
    share = top == 1.0
    end = "100 %" if share else f"{top:.3g}"
    parts = [
        f'<text class="name" x="{left:.1f}" y="14">{escape(name)}</text>',
        f'<text class="axis" x="{left:.1f}" y="32">0</text>',
        f'<text class="axis" x="{left + width:.1f}" y="32" text-anchor="end">{end}</text>',
        f'<line class="axis" x1="{left:.1f}" x2="{left + width:.1f}" y1="{TOP - 6}" y2="{TOP - 6}"/>',
    ]
    for i, (estimate, solid) in enumerate(zip(estimates, filled, strict=True)):
        if estimate is None or estimate.value is None:
            continue
        low = estimate.value if estimate.low is None else estimate.low
        high = estimate.value if estimate.high is None else estimate.high
        x1, x, x2 = (left + width * min(1.0, max(0.0, bound / top)) for bound in (low, estimate.value, high))
        number = f"{100 * estimate.value:.1f} %" if share else f"{estimate.value:.1f}"
        parts.append(
            f"<g><title>{escape(name)} {number}</title>"
            f'<line class="interval" x1="{x1:.1f}" x2="{x2:.1f}" y1="{_line(i)}" y2="{_line(i)}"/>'
            f'<circle class="{"solid" if solid else "hollow"}" cx="{x:.1f}" cy="{_line(i)}" r="4.5"/></g>'
        )
    return "".join(parts)


def _line(i: int) -> float:
    return TOP + ROW * (i + 0.5)


def _highest(estimate: Estimate | None) -> float:
    """The right end of what is drawn of an estimate."""
    if estimate is None or estimate.value is None:
        return 0.0
    return estimate.value if estimate.high is None else estimate.high
