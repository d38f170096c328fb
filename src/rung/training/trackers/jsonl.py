"""The tracker that writes JSON lines into the folder of a stage."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from rung.errors import CheckpointError
from rung.training.trackers.protocol import Rows
from rung.utils.secrets import without_secrets

METRICS, TIMING, COMPLETIONS = "metrics.jsonl", "timing.jsonl", "completions.jsonl"


class JsonLines:
    """Writes JSON lines: one per step to metrics.jsonl and timing.jsonl, one per completion to completions.jsonl.

    metrics.jsonl and completions.jsonl contain no times, so that equal runs write equal bytes. A number that is not
    finite is written as null, because JSON has no such numbers.
    """

    name: ClassVar = "jsonl"

    def __init__(self, folder: Path, project: str = "", run_name: str = ""):
        self.folder, self.project, self.run_name = folder, project, run_name

    def start(self, run: Mapping[str, Any]) -> None:
        """Creates the folder; existing files are kept, and lines will be appended to them."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def log(self, step: int, values: Mapping[str, float], timing: Mapping[str, float], table: Rows = ()) -> None:
        """Appends a line to metrics.jsonl, one to timing.jsonl unless `timing` is empty, and a line per completion."""
        self._append(METRICS, [{"step": step, **values}])
        self._append(TIMING, [{"step": step, **timing}] if timing else [])
        self._append(COMPLETIONS, [{"step": step, **row} for row in table])

    def finish(self) -> None:
        """Does nothing, since no file is kept open."""

    def offset(self) -> dict[str, int]:
        """The size of each file in bytes, for a checkpoint; the files are fsynced first."""
        sizes = {}
        for name in (METRICS, TIMING, COMPLETIONS):
            if (self.folder / name).exists():
                with (self.folder / name).open("rb") as file:
                    os.fsync(file.fileno())
                    sizes[name] = os.fstat(file.fileno()).st_size
        return sizes

    def truncate(self, offsets: Mapping[str, int]) -> None:
        """Truncates each file to the size that `offset` returned for it (0 if it did not exist), to resume a run.

        Raises CheckpointError if a file is shorter than that.
        """
        for name in (METRICS, TIMING, COMPLETIONS):
            file, size = self.folder / name, offsets.get(name, 0)
            there = file.stat().st_size if file.exists() else 0
            if there < size:
                what = f"{file} has {there} bytes, but had {size} when the checkpoint was saved"
                raise CheckpointError(what, "restore the file, or start afresh with `rung run --new`")
            if there > size:
                os.truncate(file, size)

    def _append(self, name: str, rows: Rows) -> None:
        if rows:
            text = "".join(json.dumps(_plain(row), ensure_ascii=False) + "\n" for row in rows)
            with (self.folder / name).open("ab") as file:
                # a lone surrogate, which UTF-8 cannot encode, is written as JSON's \udxxx escape
                file.write(without_secrets(text).encode("utf-8", errors="backslashreplace"))


def _plain(value: Any) -> Any:
    """The value with null in place of numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(child) for key, child in value.items()}
    return [_plain(child) for child in value] if isinstance(value, list | tuple) else value
