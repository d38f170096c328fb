"""The report of a run: scores, gains, gates and training curves, as Markdown, as HTML and in the terminal."""

from rung.report.content import measured, sections
from rung.report.curves import read_metrics
from rung.report.files import read, write
from rung.report.records import Entry, Report, Section, Table
from rung.report.terminal import Rendered, render

__all__ = [
    "Entry",
    "Rendered",
    "Report",
    "Section",
    "Table",
    "measured",
    "read",
    "read_metrics",
    "render",
    "sections",
    "write",
]
