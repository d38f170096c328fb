"""The lock of a run folder: one process trains in it, and any other is told which one."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from rung.errors import CheckpointError
from rung.utils.console import warn
from rung.utils.files import file_errors

LOCK = ".lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class InUseError(CheckpointError):
    """A run folder that another process uses."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside the block, no other process on this file system can lock the folder, which is created if necessary.

    The kernel ends the lock with the process, so that the lock of a process that was killed is taken over. A folder
    that was created and is still empty after the block is removed. Raises InUseError, which names the process, if the
    folder is locked, and CheckpointError if the disk refuses.
    """
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(folder)
    try:
        yield
    finally:
        try:
            os.unlink(folder / LOCK)  # while it is locked, so that no other process can have locked this file
        except OSError as error:
            warn(f"{folder / LOCK} stays there: {error.strerror}; the next run takes it over")
        os.close(descriptor)
        for empty in (folder, folder.parent):
            with suppress(OSError):
                empty.rmdir()


def _lock(folder: Path) -> int:
    """The descriptor of the locked file."""
    file = folder / LOCK
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            if not _try_lock(descriptor, file):
                raise _in_use(folder, _read_owner(file))
            if _is_at(descriptor, file):
                _write_owner(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its owner removed the file between the two calls


def _try_lock(descriptor: int, file: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return not _lives(_read_owner(file))  # a file system without locks
    return True


def _is_at(descriptor: int, file: Path) -> bool:
    """Whether the open file is still the one at its name."""
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), found)


def _write_owner(descriptor: int) -> None:
    owner = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().isoformat(" ", "seconds"),
        "command": " ".join(sys.argv)[:200],
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(owner).encode() + b"\n", 0)


def _read_owner(file: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        owner = json.loads(file.read_bytes())
        if isinstance(owner, dict):
            return owner
    return {}


def _lives(owner: dict[str, Any]) -> bool:
    """Whether the owner may still run: on another host, which cannot be asked, or as a process of this one."""
    if not owner:
        return False
    if owner.get("host") != socket.gethostname():
        return True
    try:
        os.kill(int(owner.get("pid", 0)), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return owner.get("pid") != os.getpid()


def _in_use(folder: Path, owner: dict[str, Any]) -> InUseError:
    who = f"process {owner['pid']} on {owner.get('host')} since {owner.get('since')}" if "pid" in owner else "a process"
    here = owner.get("host") in (None, socket.gethostname())
    gone = "" if here else f"; if that process is gone, delete {folder / LOCK}"
    return InUseError(
        f"{folder} is in use by {who}", f"wait until it has ended, or start a new run beside it with `--new`{gone}"
    )
