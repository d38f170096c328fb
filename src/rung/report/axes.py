"""From steps and values to places in a picture, with rules and numbers beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rung.report.curves import Panel
from rung.report.svg import number, ticks

LEFT, BOTTOM = 44, 20  # room for the numbers
_MOST_STEPS, _MOST_VALUES = 8, 5  # numbers on an axis
_BUCKETS = 150  # of a line's points that are drawn; each shows its lowest and its highest
_FAR = 4  # an outlier this many times as far away as the others leaves the plot
_NEAR = 0.4  # 0 is on the axis where the lowest value is below this share of the highest

Floats = NDArray[np.float64]


class Axes:
    """The axes of a panel whose plot begins at `top`; `shown` are the values that must be seen whole."""

    def __init__(self, panel: Panel, shown: Sequence[Floats], *, width: int, height: int, top: int):
        steps = np.concatenate([line.steps for line in panel.lines])
        first, last = float(steps.min()), float(steps.max())
        self.steps = (first, last) if last > first else (first - 0.5, first + 0.5)
        self.values = panel.bounds or _range(panel, shown)
        self.right, self.bottom, self.top = width, height - BOTTOM, top
        self.height = self.bottom - top

    def x(self, steps: Floats) -> Floats:
        """Places of steps, in the plot."""
        return (steps - self.steps[0]) / (self.steps[1] - self.steps[0]) * (self.right - LEFT)

    def y(self, values: Floats) -> Floats:
        """Places of values, in the plot; from above."""
        return (self.values[1] - values) / (self.values[1] - self.values[0]) * self.height

    def drawn(self) -> Iterator[str]:
        """Rules and numbers of both axes, as SVG."""
        values = ticks(*self.values, most=_MOST_VALUES)
        for value, y in zip(values, self.y(np.array(values)) + self.top, strict=True):
            label = number(value, max(map(abs, values)))
            yield f'<line class="rule" x1="{LEFT}" x2="{self.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text class="note" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        yield f'<line class="axis" x1="{LEFT}" x2="{self.right}" y1="{self.bottom}" y2="{self.bottom}"/>'
        yield f'<text class="note" x="{LEFT - 6}" y="{self.bottom + 15}" text-anchor="end">step</text>'
        steps = [step for step in ticks(*self.steps, most=_MOST_STEPS) if step == int(step)]
        for step, x in zip(steps, self.x(np.array(steps)) + LEFT, strict=True):
            anchor = "end" if x > self.right - 12 else "start" if x < LEFT + 4 else "middle"
            label = number(step, max(steps))
            yield f'<text class="note" x="{x:.1f}" y="{self.bottom + 15}" text-anchor="{anchor}">{label}</text>'
            yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{self.bottom}" y2="{self.bottom + 3}"/>'


def thinned(values: Floats) -> NDArray[np.int64]:
    """Indices of the points to draw: all where they are few, else the lowest and the highest of each bucket."""
    if len(values) <= 2 * _BUCKETS:
        return np.arange(len(values))
    kept: set[int] = {0, len(values) - 1}
    for places in np.array_split(np.arange(len(values)), _BUCKETS):
        finite = places[np.isfinite(values[places])]
        if len(finite):
            kept |= {int(finite[values[finite].argmin()]), int(finite[values[finite].argmax()])}
        else:
            kept.add(int(places[0]))  # a gap stays a gap
    return np.array(sorted(kept))


def _range(panel: Panel, shown: Sequence[Floats]) -> tuple[float, float]:
    """All that is shown, and the raw values unless a few are far away, with room to the edges."""
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
