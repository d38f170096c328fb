"""The tracker that writes JSON lines into the folder of a stage."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from rung.errors import CheckpointError
from rung.training.trackers.protocol import Rows
from rung.utils.console import warn
from rung.utils.files import file_errors, sync

METRICS, TIMING, COMPLETIONS = "metrics.jsonl", "timing.jsonl", "completions.jsonl"
_REMEDY = "restore the file, or start afresh with `rung run --new`"


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a log, without a last line that was not written to its end; no rows if there is no file.

    Raises CheckpointError, naming the row, if a row is not a JSON object with a number `step`.
    """
    if not file.exists():
        return
    with file.open(encoding="utf-8", newline="\n") as lines:  # completions may contain other line breaks
        for number, line in enumerate(lines, 1):
            if not line.endswith("\n"):
                return
            try:
                row = json.loads(line)
                float(row["step"])
            except (ValueError, TypeError, KeyError):
                raise CheckpointError(f"{file}, row {number}: no JSON object with a `step`", _REMEDY) from None
            yield row


class JsonLines:
    """Writes JSON lines: one per step to metrics.jsonl and timing.jsonl, one per completion to completions.jsonl.

    metrics.jsonl and completions.jsonl contain no times, so that equal runs write equal bytes. A number that is not
    finite is written as null, because JSON has no such numbers. Lines that the disk refuses are kept, and written with
    the next ones.
    """

    name: ClassVar = "jsonl"

    def __init__(self, folder: Path, project: str = "", run_name: str = ""):
        self.folder, self.project, self.run_name = folder, project, run_name
        self._logs = {name: _Log(folder / name) for name in (METRICS, TIMING, COMPLETIONS)}

    def start(self, run: Mapping[str, Any]) -> None:
        """Creates the folder; existing files are kept, and lines will be appended to them."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def log(self, step: int, values: Mapping[str, float], timing: Mapping[str, float], table: Rows = ()) -> None:
        """Appends a line to metrics.jsonl, one to timing.jsonl unless `timing` is empty, and a line per completion."""
        self._append(METRICS, [{"step": step, **values}])
        self._append(TIMING, [{"step": step, **timing}] if timing else [])
        self._append(COMPLETIONS, [{"step": step, **row} for row in table])

    def finish(self) -> None:
        """Writes what is left to write. Raises CheckpointError if the disk refuses."""
        for log in self._logs.values():
            log.write()

    def offset(self) -> dict[str, dict[str, Any]]:
        """The `size` of each file in bytes and its `sha256`, for a checkpoint; the files are synced first.

        timing.jsonl has no hash. Raises CheckpointError if the disk refuses lines that were logged.
        """
        return {name: log.mark(hashed=name != TIMING) for name, log in self._logs.items() if log.path.exists()}

    def truncate(self, offsets: Mapping[str, Any]) -> None:
        """Truncates each file to the size that `offset` returned for it (0 if it did not exist), to resume a run.

        Raises CheckpointError if a file is shorter than that, or has other content, or if the disk refuses.
        """
        for name, log in self._logs.items():
            log.truncate(offsets.get(name, {"size": 0}))

    def _append(self, name: str, rows: Rows) -> None:
        if rows:
            text = "".join(json.dumps(_plain(row), ensure_ascii=False) + "\n" for row in rows)
            # a lone surrogate, which UTF-8 cannot encode, is written as JSON's \udxxx escape
            self._logs[name].append(text.encode("utf-8", errors="backslashreplace"))


class _Log:
    """A file to which lines are appended, with a hash of what it contains."""

    def __init__(self, path: Path):
        self.path = path
        self._hash = None  # of the file, when it has been read once
        self._waiting = b""  # lines that the disk has refused

    def append(self, raw: bytes) -> None:
        """Appends bytes; if the disk refuses, tells it once, and keeps them for the next call."""
        told = bool(self._waiting)
        self._waiting += raw
        try:
            self.write()
        except CheckpointError as error:
            if not told:
                warn(f"{error.what}; the lines are kept, and written when the disk accepts them")

    def write(self) -> None:
        """Appends the bytes that wait. Raises CheckpointError if the disk refuses; the file is then as before."""
        if not self._waiting:
            return
        hashed = self._hashed()
        with file_errors(self.path), self.path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                if file.write(self._waiting) != len(self._waiting):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            except OSError:
                file.truncate(before)
                raise
        hashed.update(self._waiting)
        self._waiting = b""

    def mark(self, *, hashed: bool) -> dict[str, Any]:
        """The size of the synced file, and its hash."""
        self.write()
        with file_errors(self.path):
            sync(self.path)
            size = {"size": self.path.stat().st_size}
        return size | {"sha256": self._hashed().hexdigest()} if hashed else size

    def truncate(self, mark: Mapping[str, Any]) -> None:
        """Truncates the file to a mark, and compares its content with it."""
        with file_errors(self.path):
            there = self.path.stat().st_size if self.path.exists() else 0
            if there < mark["size"]:
                what = f"{self.path} has {there} bytes, but had {mark['size']} when the checkpoint was saved"
                raise CheckpointError(what, _REMEDY)
            if there > mark["size"]:
                os.truncate(self.path, mark["size"])
        self._hash = None
        if "sha256" in mark and self._hashed().hexdigest() != mark["sha256"]:
            raise CheckpointError(f"{self.path} is damaged, or was edited since the checkpoint was saved", _REMEDY)

    def _hashed(self) -> hashlib._Hash:
        if self._hash is None:
            self._hash = hashlib.sha256()
            with file_errors(self.path):
                if self.path.exists():
                    self._hash.update(self.path.read_bytes())
        return self._hash


def _plain(value: Any) -> Any:
    """The value with null in place of numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(child) for key, child in value.items()}
    return [_plain(child) for child in value] if isinstance(value, list | tuple) else value
