"""Converts figures of matplotlib to SVG that takes colours and font from the page, and formats numbers as labels."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

from rung.report.theme import LIGHT, RULES, SETTINGS, colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLD = "told:"  # prefix of the gid of an element with a tooltip; the rest of the gid is the text of the tooltip
MARGIN, GAP = 16, 28  # pixels around the pictures in a file, and between them
_UNITS = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))  # (smallest number with this unit, factor, letter)


def pictures(paints: Mapping[str, Callable[[Figure], None]], width: float, height: float) -> list[str]:
    """The pictures that the functions draw on a figure, as SVG for a page that contains the style sheet of `theme`.

    The key of each function is a description of its picture, for screen readers.
    """
    with _settings():
        return [_picture(about, paint, width, height) for about, paint in paints.items()]


def alone(drawn: Sequence[str], columns: int, about: str) -> str:
    """The content of an SVG file with several pictures of the same size, with its own style sheet and background."""
    width, height = map(int, re.findall(r"\d+", drawn[0].partition("viewBox")[2])[2:4])
    full_width = min(len(drawn), columns) * (width + GAP) - GAP + 2 * MARGIN
    full_height = -(-len(drawn) // columns) * (height + GAP) - GAP + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full_width} {full_height}" width="{full_width}" '
        f'role="img" aria-label="{escape(about)}">\n<style>\n{colours()}{RULES}</style>',
        '<rect width="100%" height="100%" rx="8" style="fill: var(--paper)"/>',
    ]
    for i, picture in enumerate(drawn):
        x, y = MARGIN + i % columns * (width + GAP), MARGIN + i // columns * (height + GAP)
        parts.append(f'<svg x="{x}" y="{y}" width="{width}" height="{height}" {picture.removeprefix("<svg ")}')
    return "\n".join([*parts, "</svg>\n"])


def number(value: float, largest: float | None = None) -> str:
    """A number as a short label, with a unit such as k; `largest` gives all labels of an axis the unit of the largest.

    >>> number(0.0469067), number(1234.5), number(12345.6), number(0.00006), number(-1500, 20_000), number(0)
    ('0.0469', '1234', '12.3k', '6e-5', '-1.5k', '0')
    """
    if value == 0:
        return "0"
    size, digits = (float(f"{abs(value):.3g}"), 3) if largest is None else (abs(largest), 6)
    unit, letter = next(((unit, letter) for bound, unit, letter in _UNITS if size >= bound), (1.0, ""))
    if not letter and size >= 1000:
        digits = max(digits, 4)
    return re.sub(r"e([-+])0", r"e\1", f"{value / unit:.{digits}g}").replace("e+", "e") + letter


@contextmanager
def _settings() -> Iterator[None]:
    """A context manager that sets our matplotlib settings instead of the user's, and silences warnings about fonts."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        _import_matplotlib()
        from matplotlib import style

        with style.context(SETTINGS, after_reset=True), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
            yield
    finally:
        logger.setLevel(level)


def _import_matplotlib() -> None:
    """Imports matplotlib, even if the environment variable MPLBACKEND names a backend that is not installed.

    A notebook sets this variable for its subprocesses, too, where its backend may be missing.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    import matplotlib

    if backend:
        os.environ["MPLBACKEND"] = backend
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend


def _picture(about: str, paint: Callable[[Figure], None], width: float, height: float) -> str:
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    figure, written = Figure((width / 72, height / 72)), StringIO()
    paint(figure)
    rcParams["svg.hashsalt"] = about  # so that ids differ between the pictures on a page
    figure.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" class="picture" role="img" '
        f'aria-label="{escape(about)}">{_body(written.getvalue())}</svg>'
    )


def _body(svg: str) -> str:
    """The content of matplotlib's `<svg>` element, with tooltips, CSS variables for colours, and without unused ids."""
    body = svg[svg.index("</defs>") + len("</defs>") : svg.rindex("</svg>")]
    body = re.sub(rf""" id=(["']){TOLD}(.*?)\1>""", r"><title>\2</title>", body)
    for superfluous in (r' id="[\w.]+_\d+"', r"font-family: [^;\"]*; ", r' transform="rotate\(-0 .*?\)"', r"(?<=\n) +"):
        body = re.sub(superfluous, "", body)
    body = re.sub(r' (?:d|x|y)="[^"]*"', lambda found: re.sub(r"\d+\.\d{2,}", _rounded, found[0]), body)
    for name, colour in LIGHT.items():
        body = body.replace(f": {colour}", f": var(--{name})")
    return body.replace("xlink:href", "href")


def _rounded(found: re.Match[str]) -> str:
    return f"{float(found[0]):.1f}".removesuffix(".0")
