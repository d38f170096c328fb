"""`report.md` and `report.html` of a run folder."""

from __future__ import annotations

from pathlib import Path

from rung.files import write_text
from rung.report.content import Report, sections
from rung.report.markdown import markdown
from rung.report.page import page


def write(folder: Path, report: Report) -> None:
    """Writes both files, each whole or not at all."""
    made = sections(report)
    write_text(folder / "report.md", markdown(report.name, made))
    write_text(folder / "report.html", page(report, made))
