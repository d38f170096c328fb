"""Renders a report as a self-contained HTML page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rung.report.records import Section, Table, told_keys
from rung.report.theme import RULES, colours

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ name }}</title>
<style>
{{ style }}
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 1.5rem; }
h2 { font-size: 1.1rem; margin: 2.4rem 0 .6rem; }
ul { padding-left: 1.1rem; color: var(--soft); overflow-wrap: anywhere; }
code { font-size: .93em; color: var(--ink); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; }
th, td { padding: .4rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child { padding-left: 0; }
th.text, td.text { text-align: left; }
.numbers td { white-space: nowrap; }
.stacked .interval { display: block; color: var(--soft); }
.numbers th { vertical-align: bottom; }
tr.keys th { color: var(--ink); text-align: left; padding-top: 1.1rem; }
tr.strong td { font-weight: 600; }
.examples td { white-space: pre-wrap; overflow-wrap: anywhere; }
.picture { width: 100%; height: auto; }
.chart .picture { min-width: 44rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.6rem 1.8rem; }
</style>
</head>
<body>
<h1>{{ name }}</h1>
{% if chart %}
<div class="wide chart">
{{ chart }}
</div>
{% endif %}
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% if section.sentences %}
<ul>
{% for sentence in section.sentences %}
<li>{{ sentence | code }}</li>
{% endfor %}
</ul>
{% endif %}
{% if section.panels %}
<div class="panels">
{% for picture in pictures[section.title] %}
{{ picture }}
{% endfor %}
</div>
{% endif %}
{% if section.table and section.table.rows %}
{% set table = section.table %}
<div class="wide"><table class="{{ section.kind }}{{ "" if table.num_keys else " stacked" }}">
<thead><tr>
{% for header in table.headers[table.num_keys:] %}
<th scope="col"{{ table | text(loop.index0) }}>{{ header }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
{% if table.num_keys and (loop.first or row[:table.num_keys] != loop.previtem[:table.num_keys]) %}
<tr class="keys"><th colspan="{{ row | length - table.num_keys }}">{{ table | keys(row) }}</th></tr>
{% endif %}
<tr{% if loop.index0 in table.strong %} class="strong"{% endif %}>
{% for cell in row[table.num_keys:] %}
<td{{ table | text(loop.index0) }}>{{ cell | told if section.kind == "numbers" else cell }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% endfor %}
</body>
</html>
"""


def page(name: str, made: Sequence[Section], chart: str, pictures: Mapping[str, Sequence[str]]) -> str:
    """The HTML page with the chart and the sections; it has no scripts and loads no other files.

    `chart` is SVG, and so are the `pictures` of a section, which are given by its title.
    """
    import jinja2
    from markupsafe import Markup, escape

    def code(sentence: str) -> Markup:
        return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(sentence))))

    def told(cell: str) -> Markup:
        return Markup(re.sub(r" (\[.*\])", r' <span class="interval">\1</span>', str(escape(cell))))

    def text(table: Table, column: int) -> Markup:
        return Markup(' class="text"' if column + table.num_keys < table.num_texts else "")

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"code": code, "told": told, "text": text, "keys": told_keys}
    template = environment.from_string(_PAGE)
    style = Markup(colours() + RULES)
    safe = {title: [Markup(picture) for picture in each] for title, each in pictures.items()}
    return template.render(name=name, style=style, chart=Markup(chart), sections=made, pictures=safe) + "\n"
