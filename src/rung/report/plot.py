"""The curves of a stage as SVG: one panel for each group of metrics, alone or in a grid of three columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from rung.report.axes import LEFT, Axes, thinned
from rung.report.curves import Line, Panel, smoothed
from rung.report.svg import alone, number, within

WIDTH, HEIGHT = 300, 190
COLUMNS, GAP = 3, 28
_HEADING, _LEGEND, _ABOVE = 20, 17, 8
_CHARACTER = 5.9  # width of one, about
_SHORTEST, _WINDOWS = 40, 20  # so many noisy steps are smoothed, over a twentieth of them
_NOISY = 4  # a noisy line goes this many times up and down between its lowest and its highest value
_DOTS = 12  # so few points are seen one by one
_EDGE = 3  # room for a dot on the edge of the plot

Floats = NDArray[np.float64]


def figure(panels: Sequence[Panel], about: str) -> str:
    """An SVG file with all panels of a stage."""
    rows = -(-len(panels) // COLUMNS)
    body = "\n".join(
        f'<g transform="translate({i % COLUMNS * (WIDTH + GAP)} {i // COLUMNS * (HEIGHT + GAP)})">{_body(panel)}</g>'
        for i, panel in enumerate(panels)
    )
    width = min(len(panels), COLUMNS) * (WIDTH + GAP) - GAP
    return alone(body, width, rows * (HEIGHT + GAP) - GAP, escape(about))


def single(panel: Panel) -> str:
    """One panel, for a page that has the style sheet."""
    names = ", ".join(line.label for line in panel.lines)
    return within(_body(panel), WIDTH, HEIGHT, escape(f"{panel.title}: {names}"))


def is_smoothed(panel: Panel) -> bool:
    """Whether the panel shows means over the raw values: where these are many, and a line of them is noisy."""
    return any(map(_is_noisy, panel.lines))


@dataclass(frozen=True, slots=True)
class _Curve:
    """A line as it is drawn: values, or means over `window` of them; what is not finite stays a gap."""

    line: Line
    window: int
    values: Floats

    @property
    def last(self) -> str:
        """The last value."""
        return number(float(self.values[np.isfinite(self.values)][-1]))


def _curve(line: Line, *, smooth: bool) -> _Curve:
    window = len(line.values) // _WINDOWS // 2 * 2 + 1
    if not smooth or window == 1:
        return _Curve(line, 1, line.values)
    means = smoothed(line.values, window)
    return _Curve(line, window, np.where(np.isfinite(line.values), means, np.nan))


def _is_noisy(line: Line) -> bool:
    values = line.values[np.isfinite(line.values)]
    return len(values) >= _SHORTEST and bool(np.abs(np.diff(values)).sum() > _NOISY * np.ptp(values))


def _body(panel: Panel) -> str:
    smooth = is_smoothed(panel)
    curves = [_curve(line, smooth=smooth) for line in panel.lines]
    band = [_curve(line, smooth=smooth) for line in panel.band or ()]
    legend, num_rows = _legend(panel, curves)
    top = _HEADING + num_rows * _LEGEND + _ABOVE
    axes = Axes(panel, [curve.values for curve in (*curves, *band)], width=WIDTH, height=HEIGHT, top=top)
    return "".join([*_head(panel), *legend, *axes.drawn(), *_plot(axes, curves, band)])


def _head(panel: Panel) -> Iterator[str]:
    yield f'<text y="13"><tspan class="name">{escape(panel.title)}</tspan>'
    yield f'<tspan class="note" dx="6">{escape(panel.unit)}</tspan></text>'


def _legend(panel: Panel, curves: Sequence[_Curve]) -> tuple[list[str], int]:
    """Each line's name with its last value, in as many rows as they take; none for one that the title names."""
    if len(curves) == 1 and curves[0].line.label == panel.title:
        return [f'<text class="note" x="{WIDTH}" y="13" text-anchor="end">{curves[0].last}</text>'], 0
    words: list[str] = []
    x, row = 0.0, 0
    for i, curve in enumerate(curves):
        text = f"{curve.line.label} {curve.last}"
        width = 14 + _CHARACTER * len(text)
        if x and x + width > WIDTH:
            x, row = 0.0, row + 1
        y = _HEADING + row * _LEGEND + 7
        words.append(f'<line class="s{i}" x1="{x:.0f}" x2="{x + 10:.0f}" y1="{y}" y2="{y}" stroke-width="2.5"/>')
        words.append(f'<text class="note" x="{x + 14:.0f}" y="{y + 4}">{escape(text)}</text>')
        x += width + 12
    return words, row + 1


def _plot(axes: Axes, curves: Sequence[_Curve], band: Sequence[_Curve]) -> Iterator[str]:
    """The band and the lines, cut at the edges of the plot."""
    width, height = WIDTH - LEFT + 2 * _EDGE, axes.height + 2 * _EDGE
    yield f'<svg x="{LEFT - _EDGE}" y="{axes.top - _EDGE}" width="{width}" height="{height}">'
    yield f'<g transform="translate({_EDGE} {_EDGE})">'
    if band:
        yield f'<path class="band f0" d="{_ring(axes, *band)}"/>'
    for i, curve in enumerate(curves):
        yield f"<g><title>{escape(_told(curve.line))}</title>{''.join(_drawn(axes, curve, i))}</g>"
    yield "</g></svg>"


def _drawn(axes: Axes, curve: _Curve, i: int) -> Iterator[str]:
    if curve.window > 1:
        yield f'<path class="raw s{i}" d="{_path(*_places(axes, curve.line.steps, curve.line.values))}"/>'
    x, y = _places(axes, curve.line.steps, curve.values)
    yield f'<path class="s{i}" d="{_path(x, y)}"/>'
    if len(x) <= _DOTS:
        dots = zip(x[np.isfinite(y)], y[np.isfinite(y)], strict=True)
        yield "".join(f'<circle class="f{i}" cx="{px:.1f}" cy="{py:.1f}" r="2.5"/>' for px, py in dots)


def _places(axes: Axes, steps: Floats, values: Floats) -> tuple[Floats, Floats]:
    kept = thinned(values)
    return axes.x(steps[kept]), axes.y(values[kept])


def _ring(axes: Axes, low: _Curve, high: _Curve) -> str:
    """Along one edge and back along the other, without what is not finite."""
    edges = [_places(axes, curve.line.steps, curve.values) for curve in (low, high)]
    (x1, y1), (x2, y2) = ((x[np.isfinite(y)], y[np.isfinite(y)]) for x, y in edges)
    return _path(np.concatenate([x1, x2[::-1]]), np.concatenate([y1, y2[::-1]]))


def _path(x: Floats, y: Floats) -> str:
    """SVG's words for a line; one that is not finite breaks it."""
    words, pen = [], "M"
    for px, py, finite in zip(x.tolist(), y.tolist(), np.isfinite(y).tolist(), strict=True):
        words.append(f"{pen}{px:.1f} {py:.1f}" if finite else "")
        pen = "L" if finite else "M"
    return "".join(words)


def _told(line: Line) -> str:
    """A line in words: where it began and ended, and between what it moved."""
    finite = np.isfinite(line.values)
    values, steps = line.values[finite], line.steps[finite]
    ends = f"{number(values[0])} at step {steps[0]:.0f}, {number(values[-1])} at step {steps[-1]:.0f}"
    return f"{line.label}: {ends}; lowest {number(values.min())}, highest {number(values.max())}"
