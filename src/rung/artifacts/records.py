"""Reads the records of a run folder: sealed JSON files that are pydantic models."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from rung.errors import CheckpointError
from rung.utils.sealed import read_sealed

RESTORE = "restore it from a backup, or start a new run with `--new`"
Record = TypeVar("Record", bound=BaseModel)


def read_record(file: Path, kind: type[Record]) -> Record | None:
    """The record in a sealed file; None if there is no file.

    Raises CheckpointError if the file is damaged, was edited, or has other fields.
    """
    if not file.exists():
        return None
    try:
        return kind.model_validate(read_sealed(file, RESTORE))
    except ValidationError:
        raise CheckpointError(f"{file} is damaged, or of another version of rung", RESTORE) from None
