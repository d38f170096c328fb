"""The data card of a stage, `data.json`: what became of its rows, and a fingerprint of those that are trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rung.errors import CheckpointError, DataError
from rung.utils.files import write_text

DATA = "data.json"


def write_data_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Writes the data card of a stage, `DataReport.as_dict()`, into its folder, atomically."""
    write_text(folder / DATA, json.dumps(card, indent=1) + "\n")


def read_data_card(folder: Path) -> dict[str, Any] | None:
    """The data card in the folder of a stage; None if it has none. Raises CheckpointError for a damaged file."""
    file = folder / DATA
    if not file.exists():
        return None
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
        return {**card, "rows": int(card["rows"]), "fingerprint": str(card["fingerprint"])}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} cannot be read ({error})", "restore it, or start a new run with --new"
        ) from error


def refuse_other_rows(folder: Path, fingerprint: str) -> None:
    """Raises DataError if the stage in `folder` began with other rows than those with this fingerprint."""
    card = read_data_card(folder)
    if card is not None and card["fingerprint"] != fingerprint:
        raise DataError(
            f"{folder}: the rows are not those with which this stage began ({card['rows']} rows then)",
            "restore the data to resume it, or start a new run beside it with `--new`",
        )
