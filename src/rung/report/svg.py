"""What every picture of a report shares: colours for light and dark, a style sheet, and numbers as labels."""

from __future__ import annotations

import math
import re

LIGHT = {
    "ink": "#1d2733",
    "soft": "#66727f",
    "line": "#e3e8ee",
    "paper": "#ffffff",
    "c0": "#2563a8",
    "c1": "#c4591c",
    "c2": "#23855b",
    "c3": "#8a4fa3",
    "c4": "#9a7400",
}
DARK = {
    "ink": "#e6ebf0",
    "soft": "#95a1ae",
    "line": "#2b3540",
    "paper": "#12181f",
    "c0": "#74b0f0",
    "c1": "#f0a068",
    "c2": "#66c79c",
    "c3": "#c99be0",
    "c4": "#dcbc54",
}
RULES = """\
.picture { font: 13px system-ui, sans-serif; fill: var(--ink); }
.picture .name { font-weight: 600; }
.picture .note { fill: var(--soft); font-size: 11px; }
.picture .rule { stroke: var(--line); stroke-width: 1; }
.picture .axis { stroke: var(--soft); stroke-width: 1; }
.picture .interval { stroke: var(--c0); stroke-width: 2; stroke-linecap: round; }
.picture .solid { fill: var(--c0); }
.picture .hollow { fill: var(--paper); stroke: var(--c0); stroke-width: 2; }
.picture path { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.picture .raw { stroke-width: 1; opacity: .3; }
.picture .band { stroke: none; opacity: .16; }
""" + "".join(f".picture .s{i} {{ stroke: var(--c{i}); }} .picture .f{i} {{ fill: var(--c{i}); }}\n" for i in range(5))

_UNITS = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))  # from which size on a number is told in which unit


def colours() -> str:
    """The colours as variables, light and dark, for the style sheet of a page or a picture."""
    light, dark = ("".join(f"--{name}: {value}; " for name, value in theme.items()) for theme in (LIGHT, DARK))
    return (
        f":root {{ color-scheme: light dark; {light}}}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}\n"
    )


def alone(body: str, width: float, height: float, about: str, margin: float = 16) -> str:
    """A picture as a file of its own, with its style sheet, on its own ground so that it reads on any page."""
    box = f"{-margin:g} {-margin:g} {width + 2 * margin:g} {height + 2 * margin:g}"
    ground = f'<rect x="{-margin:g}" y="{-margin:g}" width="100%" height="100%" rx="8" style="fill: var(--paper)"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" width="{width + 2 * margin:g}" class="picture" '
        f'role="img" aria-label="{about}">\n<style>\n{colours()}{RULES}</style>\n{ground}\n{body}\n</svg>\n'
    )


def within(body: str, width: float, height: float, about: str) -> str:
    """The same picture for a page that has the style sheet."""
    return f'<svg class="picture" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{about}">{body}</svg>'


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers within [low, high], at most `most`, evenly spaced by 1, 2 or 5 times a power of ten.

    >>> ticks(0, 3.2, 5), ticks(1, 750, 5)
    ([0.0, 1.0, 2.0, 3.0], [200.0, 400.0, 600.0])
    """
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power, 2 * power, 5 * power, 10 * power, 20 * power):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [step * i for i in range(first, last + 1)]
    raise AssertionError("twenty times a tenth of the range has few multiples")


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
