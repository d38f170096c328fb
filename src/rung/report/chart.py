"""Draws the final scores as SVG: a dot with its 95 % interval for every stage and metric."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from rung.report.content import is_share
from rung.report.records import Report
from rung.report.svg import TOLD, number, pictures
from rung.report.theme import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, LABELS, ROW, TOP, GAP = 960, 160, 24, 44, 28
MOST = 5  # at most this many metrics side by side


def chart(report: Report) -> str:
    """The chart as SVG, with one plot per metric and one row per entry in each plot; empty if there are no metrics."""
    names = [name for name in report.metrics if any(name in entry.evaluation.metrics for entry in report.final)]
    if not names:
        return ""
    num_rows = -(-len(names) // MOST)
    about = f"{report.name}: {', '.join(names)} by stage, with 95 % intervals"
    height = num_rows * (TOP + ROW * len(report.final) + GAP) - GAP
    return pictures({about: partial(paint, report=report, names=names, num_rows=num_rows)}, WIDTH, height)[0]


def paint(figure: Figure, report: Report, names: Sequence[str], num_rows: int) -> None:
    """Draws the plots of all metrics in `num_rows` rows, with the labels of the entries to the left of each row."""
    columns = -(-len(names) // num_rows)
    grid = figure.subplots(num_rows, columns, squeeze=False, sharey=True)
    figure.subplots_adjust(
        left=LABELS / WIDTH,
        right=1 - GAP / WIDTH,
        bottom=0,
        top=1 - TOP / figure.bbox.height,
        wspace=GAP / ((WIDTH - LABELS) / columns - GAP),
        hspace=(TOP + GAP) / (ROW * len(report.final)),
    )
    figure.text(0, 1 - (TOP - 6) / figure.bbox.height, "hollow: not promoted")
    for axes, name in zip(grid.flat, names, strict=False):
        axes.set_title(name, loc="left", color=LIGHT["ink"], size=13, weight=600)
        _paint_metric(axes, report, name)
    for axes in grid[:, 0]:
        axes.set_yticks(range(len(report.final)), [entry.label for entry in report.final], ha="left")
        axes.tick_params("y", pad=LABELS, labelsize=13, labelcolor=LIGHT["ink"])
    for axes in grid.flat[len(names) :]:
        axes.remove()


def _paint_metric(axes: Axes, report: Report, name: str) -> None:
    """Draws a dot with its interval for each entry; the dot is filled if the stage was accepted, and has a tooltip."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    accepted = {record.stage for record in report.lineage.stages if record.accepted}
    share = is_share(name, report.final)
    axes.update_datalim([(0, 0), (share, 0)])
    for i, entry in enumerate(report.final):
        estimate = entry.evaluation.metrics.get(name)
        if estimate is None or estimate.value is None:
            continue
        interval = np.array([estimate.low, estimate.value, estimate.high], float)
        (dot,) = axes.plot(interval.clip(0, 1) if share else interval, [i] * 3, "C0o-", markevery=[1], clip_on=False)
        dot.set(markersize=8, markeredgewidth=2, markerfacecolor="C0" if entry.stage in accepted else LIGHT["paper"])
        dot.set_gid(f"{TOLD}{name} " + (f"{100 * estimate.value:.1f} %" if share else number(estimate.value)))
    axes.margins(x=0)
    axes.set_ylim(len(report.final) - 0.5, -0.5 - 6 / ROW)
    axes.grid(axis="y")
    axes.spines[["left", "bottom", "right"]].set_visible(False)
    axes.xaxis.tick_top()
    axes.tick_params("both", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f} %" if share and x else number(x)))
