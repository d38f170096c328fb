"""Every file operation of a process below a folder, as numbered points at which a trial kills it or raises an error.

Python reports most operations to audit hooks before they happen; writes, syncs and what native code writes are wrapped.
A write is cut in two, so that there is a point at which half of it is on the disk.
"""

from __future__ import annotations

import builtins
import io
import os
import re
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {
    "os.rename": ("rename", 2),
    "os.remove": ("remove", 1),
    "os.mkdir": ("mkdir", 2),
    "os.rmdir": ("rmdir", 1),
    "os.truncate": ("truncate", None),
    "os.link": ("link", 2),
    "os.symlink": ("symlink", 2),
}
"""The label of each event that changes files, and which of its arguments is the folder that its path is relative to."""
Act = Callable[[str, Callable[[], None]], None]
"""What is done at a point: it gets the label, and a function that leaves the half of a file that native code wrote."""

_real_open, _real_fsync, _real_truncate = io.open, os.fsync, os.truncate
_real_serialize, _real_save = safetensors.serialize_file, torch.save
_random_names = re.compile(r"[0-9a-f]{32}|(?<=\.)\d+$|(?<=tmp)[a-z0-9_]{8}")


def _nothing() -> None:
    pass


class _Hook:
    """The folder that is watched in this process, and what is done at a point."""

    def __init__(self, folder: Path, act: Act, reads: bool):
        self.root, self.act, self.reads, self.process = os.path.realpath(folder), act, reads, os.getpid()
        self.inside = threading.local()  # what `act` itself does to files is no point

    def relative(self, path: Any, folder_descriptor: int | None = None) -> str | None:
        """The path below the watched folder, without random parts; None if it is elsewhere."""
        if os.getpid() != self.process or isinstance(path, int) or path is None:
            return None
        text = os.fsdecode(path)
        if folder_descriptor is not None and folder_descriptor >= 0 and not os.path.isabs(text):
            text = os.path.join(os.readlink(f"/proc/self/fd/{folder_descriptor}"), text)
        text = os.path.abspath(text)
        if text != self.root and not text.startswith(self.root + os.sep):
            return None
        return _random_names.sub("*", os.path.relpath(text, self.root))

    def of_descriptor(self, descriptor: int) -> str | None:
        """The path of an open file or folder below the watched folder; None for pipes and files elsewhere."""
        try:
            kind = os.fstat(descriptor).st_mode
            plain = stat.S_ISREG(kind) or stat.S_ISDIR(kind)
            return self.relative(os.readlink(f"/proc/self/fd/{descriptor}")) if plain else None
        except OSError:
            return None

    def point(self, label: str, half: Callable[[], None] = _nothing) -> None:
        if not getattr(self.inside, "act", False):
            self.inside.act = True
            try:
                self.act(label, half)
            finally:
                self.inside.act = False

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = bool((flags or 0) & WRITE_FLAGS)
            if (writes or self.reads) and (name := self.relative(path)) is not None:
                self.point(f"{'open' if writes else 'read'} {name}")
        elif event in CHANGES:
            word, at = CHANGES[event]
            name = self.relative(arguments[0], None if at is None else arguments[at])
            if name is not None:
                self.point(f"{word} {name}")


class _CutFile(io.FileIO):
    """A file whose buffered writes reach the disk in two halves."""

    hook: _Hook
    name_below: str
    halved = False

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        self.hook.point(f"{'rest of write' if self.halved else 'write'} {self.name_below}")
        if self.halved or len(view) < 2:
            self.halved = False
            return super().write(view) or 0
        self.halved = True
        return super().write(view[: len(view) // 2]) or 0

    def truncate(self, size: int | None = None, /) -> int:
        self.hook.point(f"truncate {self.name_below}")
        return super().truncate(size)


def install(folder: Path, act: Act, *, reads: bool = False) -> None:
    """Calls `act` at each point of this process below `folder`, from now to its end; with `reads`, also at each read.

    What `act` raises is raised by the operation. For a forked process that runs one trial: a hook cannot be removed.
    """
    hook = _Hook(folder, act, reads)
    sys.addaudithook(hook.audit)
    builtins.open = io.open = _opening(hook)
    os.write, os.pwrite = _writing(hook, os.write), _writing(hook, os.pwrite)
    os.fsync = _syncing(hook)
    setattr(safetensors.torch, "serialize_file", _serializing(hook))  # noqa: B010
    torch.save = _saving(hook)


def _opening(hook: _Hook) -> Any:
    def open_(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        writes = bool(set(mode) & set("wax+"))
        name = hook.of_descriptor(file) if isinstance(file, int) else hook.relative(file)
        if not writes or name is None or buffering == 0:
            return _real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = _CutFile(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        raw.hook, raw.name_below = hook, name
        size = io.DEFAULT_BUFFER_SIZE if buffering < 2 else buffering
        buffer = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
        if "b" in mode:
            return buffer
        text = io.TextIOWrapper(buffer, encoding, errors, newline, line_buffering=buffering == 1)
        text.mode = mode  # type: ignore[misc]
        return text

    return open_


def _writing(hook: _Hook, real: Callable[..., int]) -> Any:
    def write(descriptor: int, data: Any, /, *offset: int) -> int:
        name = hook.of_descriptor(descriptor)
        if name is not None:
            hook.point(f"write {name}")
        return real(descriptor, data, *offset)

    return write


def _syncing(hook: _Hook) -> Any:
    def fsync(descriptor: Any, /) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        name = hook.of_descriptor(number)
        if name is not None:
            hook.point(f"fsync {name}")
        _real_fsync(descriptor)

    return fsync


def _serializing(hook: _Hook) -> Any:
    def serialize_file(tensors: Any, filename: Any, *more: Any, **named: Any) -> None:
        try:
            _natively(hook, filename, lambda: _real_serialize(tensors, filename, *more, **named))
        except OSError as error:  # as native code tells it
            raise SafetensorError(f"Error while serializing: I/O error: {error}") from None

    return serialize_file


def _saving(hook: _Hook) -> Any:
    def save(value: Any, file: Any, *more: Any, **named: Any) -> None:
        _natively(hook, file, lambda: _real_save(value, file, *more, **named))

    return save


def _natively(hook: _Hook, file: Any, write: Callable[[], None]) -> None:
    """Calls what writes a whole file without Python's files, with a point before it and one with half of the file."""
    name = hook.relative(file) if isinstance(file, str | os.PathLike) else None
    if name is None:
        write()
        return
    hook.point(f"save_file {name}")
    write()
    size = os.path.getsize(file)
    hook.point(f"rest of save_file {name}", lambda: _real_truncate(file, size // 2))
