"""JSON lines in the folder of a stage."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from rung.errors import CheckpointError
from rung.training.trackers.protocol import Rows

METRICS, TIMING, COMPLETIONS = "metrics.jsonl", "timing.jsonl", "completions.jsonl"


class JsonLines:
    """One JSON object a line: a step in metrics.jsonl and timing.jsonl, a sampled completion in completions.jsonl.

    metrics.jsonl and completions.jsonl hold no clock reading, so that equal runs write equal bytes. Keys stay in the
    order given; a number that is not finite is written as null, as JSON has no other word for it.
    """

    name: ClassVar = "jsonl"

    def __init__(self, folder: Path, project: str = "", run_name: str = ""):
        self.folder, self.project, self.run_name = folder, project, run_name

    def start(self, run: Mapping[str, Any]) -> None:
        """Make the folder; lines are added to what is there."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def log(self, step: int, values: Mapping[str, float], timing: Mapping[str, float], table: Rows = ()) -> None:
        """Add a line to metrics.jsonl, one to timing.jsonl where there is timing, one a row to completions.jsonl."""
        self._append(METRICS, [{"step": step, **values}])
        self._append(TIMING, [{"step": step, **timing}] if timing else [])
        self._append(COMPLETIONS, [{"step": step, **row} for row in table])

    def finish(self) -> None:
        """Nothing is left open."""

    def offset(self) -> dict[str, int]:
        """Bytes of each file, for a checkpoint; they are on the disk when this returns."""
        sizes = {}
        for name in (METRICS, TIMING, COMPLETIONS):
            if (self.folder / name).exists():
                with (self.folder / name).open("rb") as file:
                    os.fsync(file.fileno())
                    sizes[name] = os.fstat(file.fileno()).st_size
        return sizes

    def truncate(self, offsets: Mapping[str, int]) -> None:
        """Cut each file to its bytes at the checkpoint (0 where it has none there), before a run goes on.

        Raises CheckpointError where a file is shorter than the checkpoint knows it.
        """
        for name in (METRICS, TIMING, COMPLETIONS):
            file, size = self.folder / name, offsets.get(name, 0)
            there = file.stat().st_size if file.exists() else 0
            if there < size:
                what = f"{file} has {there} bytes, {size} when the checkpoint was saved"
                raise CheckpointError(what, "bring the file back, or start afresh with `rung run --new`")
            if there > size:
                os.truncate(file, size)

    def _append(self, name: str, rows: Rows) -> None:
        if rows:
            text = "".join(json.dumps(_plain(row), ensure_ascii=False) + "\n" for row in rows)
            with (self.folder / name).open("ab") as file:
                # what UTF-8 cannot hold, a lone surrogate, is thereby written as JSON's own \udxxx
                file.write(text.encode("utf-8", errors="backslashreplace"))


def _plain(value: Any) -> Any:
    """A JSON value without numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(child) for key, child in value.items()}
    return [_plain(child) for child in value] if isinstance(value, list | tuple) else value
