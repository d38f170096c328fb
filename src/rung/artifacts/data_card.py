"""The data card of a stage, `data.json`: what became of its rows, and a fingerprint of those that are trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rung.artifacts.records import RESTORE
from rung.data.fingerprints import difference
from rung.data.report import DataReport
from rung.errors import CheckpointError, DataError
from rung.utils.sealed import read_sealed, write_sealed

DATA = "data.json"


def write_data_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Writes the data card of a stage, `DataReport.as_dict()`, into its folder, atomically."""
    write_sealed(folder / DATA, card)


def read_data_card(folder: Path) -> dict[str, Any] | None:
    """The data card in the folder of a stage; None if it has none. Raises CheckpointError for a damaged file."""
    file = folder / DATA
    return read_sealed(file, RESTORE) if file.exists() else None


def rows_changed(folder: Path, report: DataReport) -> tuple[str, str] | None:
    """The rows with which a stage began and those of now, in words; None if they are the same.

    Raises CheckpointError if the data card is missing or damaged.
    """
    card = read_data_card(folder)
    if card is None:
        raise CheckpointError(f"{folder / DATA} is missing, but the stage has checkpoints", RESTORE)
    differs = difference(card, report.digests)
    return (f"{card['encoded']} rows", f"{len(report.digests)} rows ({differs})") if differs else None


def refuse_other_rows(folder: Path, report: DataReport) -> None:
    """Raises DataError, which says where they differ, if the stage in `folder` began with other rows."""
    changed = rows_changed(folder, report)
    if changed is not None:
        what = f"{folder}: the rows are not those with which this stage began: {changed[0]} before, {changed[1]} now"
        raise DataError(
            what, "restore the data to resume it, start a new run beside it with `--new`, or pass `--allow-drift`"
        )
