"""The report of a run: what every stage scored, what the gates decided and why; Markdown, HTML and the terminal."""

from rung.report.content import Entry, Report, Section, Table, sections
from rung.report.files import write
from rung.report.terminal import render

__all__ = ["Entry", "Report", "Section", "Table", "render", "sections", "write"]
