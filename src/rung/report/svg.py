"""Figures of matplotlib as SVG whose colours and font are the page's, and numbers as labels."""

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

TOLD = "told:"  # begins the gid of what has a title at the pointer
MARGIN, GAP = 16, 28  # around the pictures of a file, and between them
_UNITS = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))  # from which size on a number is told in which unit


def pictures(paints: Mapping[str, Callable[[Figure], None]], width: float, height: float) -> list[str]:
    """What each function paints on a figure, by what it is about, as SVG for a page that has the style sheet."""
    with _settings():
        return [_picture(about, paint, width, height) for about, paint in paints.items()]


def alone(drawn: Sequence[str], columns: int, about: str) -> str:
    """Pictures of one size as a file with its style sheet, on its own ground so that it reads on any page."""
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
    """A number as short as it stays clear; `largest` of an axis gives all of its numbers one unit.

    >>> number(0.0469067), number(12345.6), number(0.00006), number(-1500, 20_000), number(0)
    ('0.0469', '12.3k', '6e-5', '-1.5k', '0')
    """
    if value == 0:
        return "0"
    size, digits = (abs(value), 3) if largest is None else (abs(largest), 6)
    unit, letter = next(((unit, letter) for bound, unit, letter in _UNITS if size >= bound), (1.0, ""))
    return re.sub(r"e([-+])0", r"e\1", f"{value / unit:.{digits}g}").replace("e+", "e") + letter


@contextmanager
def _settings() -> Iterator[None]:
    """Our settings instead of the user's, for as long as we draw, and no word of matplotlib's about fonts."""
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
    """Imports it also in a shell of a notebook, whose MPLBACKEND may name a module that is not installed here."""
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
    rcParams["svg.hashsalt"] = about  # no two pictures of a page share an id
    figure.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" class="picture" role="img" '
        f'aria-label="{escape(about)}">{_body(written.getvalue())}</svg>'
    )


def _body(svg: str) -> str:
    """The inside of matplotlib's SVG, with titles, variables for colours, and only the ids that something refers to."""
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
