"""Draws the training curves of a stage as SVG, one picture per panel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rung.report.curves import Line, Panel, smoothed
from rung.report.svg import TOLD, number, pictures
from rung.report.theme import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

WIDTH, HEIGHT = 300, 190
_LEFT, _BOTTOM, _HEADING, _LEGEND, _ABOVE = 44, 20, 22, 17, 6
_CHARACTER, _HANDLE = 6.2, 26  # approximate widths of a character in the legend, and of a legend entry without its text
_SHORTEST, _WINDOWS = 40, 20  # a noisy line with at least 40 values is smoothed, over a twentieth of its values
_NOISY = 4  # a line is noisy if its total up and down movement exceeds this many times its range
_DOTS = 12  # a line with at most this many points shows a dot at each of them
_BUCKETS = 300  # a band is drawn with at most this many points, each for the extremes of several steps
_EDGE = 3  # pixels by which a dot may extend beyond the edge of the plot
_FAR = 4  # outliers (1 % on each side) are cut off if the range with them is more than this many times as large
_NEAR = 0.4  # the y axis begins at 0 if the lowest value is below this share of the highest

Floats = NDArray[np.float64]


def figures(panels: Sequence[Panel], stage: str) -> list[str]:
    """The panels as SVG pictures, for a page that contains the style sheet of `theme`."""
    return pictures({_about(panel, stage): partial(paint, panel=panel) for panel in panels}, WIDTH, HEIGHT)


def is_smoothed(panel: Panel) -> bool:
    """Whether the panel shows moving averages on top of the raw values, because one of its lines is long and noisy."""
    return any(map(_is_noisy, panel.lines))


def paint(figure: Figure, panel: Panel) -> None:
    """Draws a panel: a title, the lines, and a legend with the last value of each line.

    If the only line has the name of the panel, there is no legend, and its last value is beside the title.
    """
    smooth = is_smoothed(panel)
    curves = [_curve(line) if smooth else line for line in panel.lines]
    band = [_curve(line) if smooth else line for line in panel.band or ()]
    named = len(curves) == 1 and curves[0].label == panel.title
    labels = [] if named else [f"{line.label} {number(line.last)}" for line in curves]
    columns = max(1, int(WIDTH / (_CHARACTER * max(map(len, labels), default=1) + _HANDLE)))
    top = _HEADING + -(-len(labels) // columns) * _LEGEND + _ABOVE
    axes = figure.subplots()
    figure.subplots_adjust(left=_LEFT / WIDTH, right=1, bottom=_BOTTOM / HEIGHT, top=1 - top / HEIGHT)
    if band:
        axes.fill_between(*_filled(*band), color="C0", alpha=0.16, linewidth=0)
    lines = [_paint_line(axes, *each, f"C{i}") for i, each in enumerate(zip(panel.lines, curves, strict=True))]
    _scale(axes, panel, [line.values for line in (*curves, *band)])
    for artist in (*axes.lines, *axes.collections):
        artist.set_clip_box(axes.bbox.padded(_EDGE))
    note = ": ".join(filter(None, (panel.unit, number(curves[0].last) if named else "")))
    figure.text(0, 1 - 13 / HEIGHT, panel.title, color=LIGHT["ink"], size=13, weight=600)
    figure.text(1, 1 - 13 / HEIGHT, note, ha="right")
    figure.text((_LEFT - 6) / WIDTH, 5 / HEIGHT, "step", ha="right")
    if labels:
        figure.legend(lines, labels, loc="upper left", bbox_to_anchor=(0, 1 - _HEADING / HEIGHT), ncols=columns)


def _curve(line: Line) -> Line:
    """The moving average of a line over a twentieth of its steps; values that are not finite remain gaps."""
    window = len(line.values) // _WINDOWS // 2 * 2 + 1
    if window == 1:
        return line
    return replace(line, values=np.where(np.isfinite(line.values), smoothed(line.values, window), np.nan))


def _is_noisy(line: Line) -> bool:
    values = line.values[np.isfinite(line.values)]
    return len(values) >= _SHORTEST and bool(np.abs(np.diff(values)).sum() > _NOISY * np.ptp(values))


def _paint_line(axes: Axes, line: Line, curve: Line, colour: str) -> Line2D:
    """Draws a curve with a tooltip and, if it is a moving average, the raw values of the line below it."""
    if curve is not line:
        axes.plot(line.steps, line.values, color=colour, linewidth=1, alpha=0.3)
    (drawn,) = axes.plot(curve.steps, curve.values, color=colour, marker="o" if len(curve.steps) <= _DOTS else "")
    drawn.set_gid(TOLD + _told(line))
    return drawn


def _filled(low: Line, high: Line) -> tuple[Floats, Floats, Floats]:
    """The steps and the two edges of a band; if there are many steps, reduced to the extremes of each bucket."""
    starts = np.unique(np.linspace(0, len(low.steps) - 1, _BUCKETS, dtype=int))
    return low.steps[starts], np.fmin.reduceat(low.values, starts), np.fmax.reduceat(high.values, starts)


def _scale(axes: Axes, panel: Panel, shown: Sequence[Floats]) -> None:
    """Sets the limits of the axes, and labels them with a few round numbers, which have the same unit on one axis."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    steps = np.concatenate([line.steps for line in panel.lines])
    first, last = float(steps.min()), float(steps.max())
    axes.set_xlim(*((first, last) if last > first else (first - 0.5, first + 0.5)))
    axes.set_ylim(*(panel.bounds or _range(panel, shown)))
    axes.grid(axis="y")
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.tick_params("y", length=0)
    for axis, most in (axes.xaxis, 8), (axes.yaxis, 5):
        largest = max(map(abs, axis.get_view_interval()))
        axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10], integer=axis is axes.xaxis))
        axis.set_major_formatter(FuncFormatter(lambda value, _, largest=largest: number(value, largest)))


def _range(panel: Panel, shown: Sequence[Floats]) -> tuple[float, float]:
    """The limits of the y axis: they include all lines that are shown, and all raw values except far outliers."""
    raw = _finite([line.values for line in panel.lines])
    low, high = float(raw.min()), float(raw.max())
    inner = [float(bound) for bound in np.quantile(raw, [0.01, 0.99])]
    if high - low > _FAR * (inner[1] - inner[0]) > 0:
        low, high = inner
    whole = _finite(shown)
    low, high = min(low, float(whole.min())), max(high, float(whole.max()))
    if high == low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    room = (high - low) * 0.05
    return (0.0 if 0 <= low < _NEAR * high else low - room), high + room


def _finite(values: Sequence[Floats]) -> Floats:
    every = np.concatenate(values)
    return every[np.isfinite(every)]


def _told(line: Line) -> str:
    """A line described in words, for its tooltip: its first and last, lowest and highest value."""
    finite = np.isfinite(line.values)
    values, steps = line.values[finite], line.steps[finite]
    ends = f"{number(values[0])} at step {steps[0]:.0f}, {number(values[-1])} at step {steps[-1]:.0f}"
    return f"{line.label}: {ends}; lowest {number(values.min())}, highest {number(values.max())}"


def _about(panel: Panel, stage: str) -> str:
    names = ", ".join(line.label for line in panel.lines)
    return f"{stage}: {' '.join(filter(None, (panel.title, panel.unit)))}: {names}"
