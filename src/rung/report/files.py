"""Writes the report into the folder of a run: `report.md` with its pictures, `report.html` and `report.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rung.artifacts.data_card import read_data_card
from rung.artifacts.folder import PAGE, REPORT
from rung.errors import CheckpointError
from rung.report.chart import chart
from rung.report.content import sections
from rung.report.curves import Curves, choose, read_metrics
from rung.report.markdown import markdown
from rung.report.page import page
from rung.report.plot import figures
from rung.report.records import Report, Section, Table
from rung.report.svg import alone
from rung.training.symptoms import read_symptoms
from rung.training.trackers import METRICS
from rung.utils.files import write_text

SCORES, SECTIONS = "scores.svg", "report.json"
_COLUMNS = 3  # panels side by side in the picture of a stage


def write(folder: Path, report: Report) -> list[Section]:
    """Writes all files of the report, each atomically; returns the sections of the report.

    The training curves and the warnings are read from the metrics.jsonl of each stage, the data cards from data.json.
    """
    stages = [record.stage for record in report.lineage.stages]
    symptoms = {stage: read_symptoms(folder / stage / METRICS).summary() for stage in stages}
    cards = {stage: read_data_card(folder / stage) for stage in stages}
    data = {stage: card for stage, card in cards.items() if card is not None}
    report = replace(report, curves=_curves(folder, stages), symptoms=symptoms, data=data)
    made = sections(report)
    drawn = {section.title: figures(section.panels, section.title) for section in made if section.panels}
    for section in made:
        if section.panels:
            picture = alone(drawn[section.title], _COLUMNS, f"{report.name}: {section.title}")
            write_text(folder / section.picture, picture)
    scores = chart(report)
    if scores:
        write_text(folder / SCORES, alone([scores], 1, f"{report.name}: scores by stage"))
    write_text(folder / SECTIONS, json.dumps([_plain(section) for section in made], indent=1) + "\n")
    write_text(folder / REPORT, markdown(report.name, made, SCORES if scores else ""))
    write_text(folder / PAGE, page(report.name, made, scores, drawn))
    return made


def read(folder: Path) -> list[Section]:
    """The sections in the report of a finished run, without curves. Raises CheckpointError if they cannot be read."""
    file = folder / SECTIONS
    try:
        return [_section(plain) for plain in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError):
        raise CheckpointError(f"{file} is not there, or damaged", f"read {folder / REPORT} instead") from None


def _curves(folder: Path, stages: Sequence[str]) -> dict[str, Curves]:
    chosen = {stage: choose(read_metrics(folder / stage / METRICS)) for stage in stages}
    return {stage: curves for stage, curves in chosen.items() if curves.panels}


def _plain(section: Section) -> dict[str, Any]:
    values = {"title": section.title, "kind": section.kind, "sentences": section.sentences, "picture": section.picture}
    table = asdict(section.table) | {"strong": sorted(section.table.strong)} if section.table else None
    return values | {"table": table}


def _section(plain: Mapping[str, Any]) -> Section:
    table = plain["table"]
    if table is not None:
        rows = tuple(tuple(map(str, row)) for row in table["rows"])
        words = {key: tuple(table[key]) for key in ("headers", "optional")}
        table = Table(**{**table, **words, "rows": rows, "strong": frozenset(table["strong"])})
    return Section(**{**plain, "sentences": tuple(plain["sentences"]), "table": table})
