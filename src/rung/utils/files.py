"""Atomic writes of files, and hashes of their contents."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from rung.utils.secrets import without_secrets


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically: to a temporary file, which is synced and renamed. Parent folders are created.

    Secrets are left out (see `rung.utils.secrets`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # a lone surrogate, which UTF-8 cannot encode, may be in the name of a column or of a reward
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(without_secrets(text))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
