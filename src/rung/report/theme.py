"""The style of the pictures in a report: colours for light and dark pages, CSS rules, and settings of matplotlib."""

from __future__ import annotations

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
RULES = ".picture { font-family: system-ui, sans-serif; overflow: visible; }\n.picture * { stroke-linejoin: round; }\n"

# Settings of matplotlib that differ from its defaults. Text is laid out with matplotlib's own font, and shown in the
# font of the page.
SETTINGS = {
    **dict.fromkeys(("axes.edgecolor", "legend.labelcolor", "text.color", "xtick.color", "ytick.color"), LIGHT["soft"]),
    **dict.fromkeys(("figure.frameon", "legend.frameon", "text.parse_math"), False),  # `$` does not begin a formula
    **dict.fromkeys(("legend.borderaxespad", "legend.borderpad"), 0),
    "axes.facecolor": "none",
    "axes.prop_cycle": f"cycler(color={[LIGHT[f'c{i}'] for i in range(5)]})",
    "figure.dpi": 72,  # makes one point equal to one pixel
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "grid.color": LIGHT["line"],
    "legend.columnspacing": 1,
    "legend.handlelength": 1,
    "legend.handletextpad": 0.4,
    "lines.linewidth": 1.8,
    "path.simplify_threshold": 0.8,  # pixels by which a simplified line may differ from the exact one
    "svg.fonttype": "none",
    "ytick.major.pad": 6,
}


def colours() -> str:
    """CSS that defines the colours as variables, for light and dark mode."""
    light, dark = ("".join(f"--{name}: {value}; " for name, value in theme.items()) for theme in (LIGHT, DARK))
    return (
        f":root {{ color-scheme: light dark; {light}}}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}\n"
    )
