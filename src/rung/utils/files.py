"""The one place that writes files: atomic, synced to the disk, and with errors of the disk in two lines.

A file or folder is written under a temporary name beside its own, synced, and renamed. A process that is killed leaves
only temporary names, which `tidy` removes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

from rung.errors import CheckpointError
from rung.utils.secrets import without_secrets

DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EFBIG}
    | {errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR}
)
_TEMPORARY = ".tmp-"
_REMEDIES = {
    errno.ENOSPC: "free some space on this disk; the same command then goes on",
    errno.EDQUOT: "free some of your disk quota; the same command then goes on",
    errno.EROFS: "make this file system writable; the same command then goes on",
    errno.EACCES: "change its permissions; the same command then goes on",
    errno.ENOENT: "restore it; the same command then goes on",
    errno.EPERM: "change its permissions; the same command then goes on",
}


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """A context manager that raises CheckpointError, which names the file and a remedy, for an OSError inside it."""
    try:
        yield
    except OSError as error:
        raise file_error(error, path) from error


def file_error(error: OSError, path: Path | None = None) -> CheckpointError:
    """The error in two lines for an OSError: the file (by default that of the error), the reason, and a remedy."""
    file = error.filename if isinstance(error.filename, str) else path
    reason = error.strerror or str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0, "check this disk and its free space; the same command then goes on")
    return CheckpointError(reason if file is None else f"{file}: {reason}", remedy)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically: to a temporary file, which is synced and renamed. Parent folders are created.

    Secrets are left out (see `rung.utils.secrets`). Raises CheckpointError if the disk refuses; an earlier file is then
    unchanged.
    """
    # a lone surrogate, which UTF-8 cannot encode, may be in the name of a column or of a reward
    write_bytes(path, without_secrets(text).encode("utf-8", errors="backslashreplace"))


def write_bytes(path: Path, raw: bytes) -> None:
    """Writes bytes atomically, as `write_text` does."""
    temporary = temporary_name(path)
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other process uses, and that `tidy` knows as temporary."""
    return path.with_name(f"{_TEMPORARY}{path.name}-{uuid4().hex}")


@contextmanager
def new_folders(parent: Path, *names: str) -> Iterator[Path]:
    """A context manager that gives an empty folder, and moves its subfolders `names` to `parent` after the block.

    All files in it are synced before, and folders of these names in `parent` are replaced, the last name last. If the
    block fails, nothing is left. Raises CheckpointError if the disk refuses.
    """
    aside = temporary_name(parent / names[-1])
    with file_errors(parent):
        aside.mkdir(parents=True)
        try:
            yield aside
            for each in (*aside.rglob("*"), aside):
                sync(each)
            for name in names:
                if (aside / name).exists():
                    if (parent / name).exists():
                        remove_folder(parent / name)
                    os.rename(aside / name, parent / name)
            aside.rmdir()
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        sync(parent)


def remove_folder(path: Path) -> None:
    """Renames a folder to a temporary name and deletes it, so that a kill never leaves a part of it at its name."""
    doomed = temporary_name(path)
    os.rename(path, doomed)
    shutil.rmtree(doomed)


def tidy(folder: Path) -> None:
    """Removes the temporary files and folders that a killed process has left in a folder, without those further down.

    Raises CheckpointError if the disk refuses.
    """
    with file_errors(folder):
        for leftover in folder.glob(f"{_TEMPORARY}*"):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()


def sync(path: Path) -> None:
    """Syncs a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_text(text: str) -> str:
    """The SHA-256 of a text, 64 hex digits; lone surrogates, which bad data may contain, are allowed.

    >>> sha256_text("")[:16]
    'e3b0c44298fc1c14'
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_unchanged(path: Path) -> str:
    """The SHA-256 of a file of a finished stage; it is not read again while its size and time stay as they are."""
    found = path.stat()
    return _sha256_of(str(path.resolve()), found.st_ino, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256_of(path: str, inode: int, size: int, modified: int) -> str:
    return sha256_file(Path(path))
