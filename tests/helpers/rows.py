"""Data sets as files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_rows(folder: Path, files: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Writes `name.jsonl` for each name, a row a line."""
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of such a file."""
    return [json.loads(line) for line in file.read_text().splitlines()]
