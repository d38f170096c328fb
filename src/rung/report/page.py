"""The report as one HTML page that needs nothing but itself."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rung.report.chart import chart
from rung.report.content import Report, Section

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ name }}</title>
<style>
:root { color-scheme: light dark;
  --ink: #1d2733; --soft: #66727f; --line: #e3e8ee; --accent: #2563a8; --paper: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebf0; --soft: #95a1ae; --line: #2b3540; --accent: #74b0f0; --paper: #12181f; }
}
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
th:first-child, td:first-child { text-align: left; padding-left: 0; }
table.examples th, table.examples td { text-align: left; white-space: pre-wrap; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; margin-top: .5rem; font: 13px system-ui, sans-serif; fill: var(--ink); }
svg .name { font-weight: 600; }
svg .axis { fill: var(--soft); stroke: none; font-size: 11px; }
svg line.axis { stroke: var(--soft); stroke-width: 1; }
svg .rule { stroke: var(--line); stroke-width: 1; }
svg .interval { stroke: var(--accent); stroke-width: 2; stroke-linecap: round; }
svg .solid { fill: var(--accent); }
svg .hollow { fill: var(--paper); stroke: var(--accent); stroke-width: 2; }
</style>
</head>
<body>
<h1>{{ name }}</h1>
{{ chart }}
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% if section.sentences %}
<ul>
{% for sentence in section.sentences %}
<li>{{ sentence | code }}</li>
{% endfor %}
</ul>
{% endif %}
{% if section.table and section.table.rows %}
<div class="wide"><table class="{{ section.kind }}">
<thead><tr>{% for header in section.table.headers %}<th scope="col">{{ header }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in section.table.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% endfor %}
</body>
</html>
"""


def page(report: Report, made: Sequence[Section]) -> str:
    """The chart, then the sections; all text is escaped, and the page loads and runs nothing."""
    import jinja2
    from markupsafe import Markup, escape

    def code(sentence: str) -> Markup:
        return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(sentence))))

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["code"] = code
    template = environment.from_string(_PAGE)
    return template.render(name=report.name, chart=Markup(chart(report)), sections=made) + "\n"
