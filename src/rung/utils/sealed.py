"""JSON files that carry a hash of their own content, so that a damaged or edited one is found when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rung.errors import CheckpointError
from rung.utils.files import file_errors, write_bytes

_SEAL = "sha256"


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a mapping as JSON with its hash, atomically. Raises CheckpointError if the disk refuses."""
    write_bytes(path, sealed(values))


def read_sealed(path: Path, remedy: str) -> dict[str, Any]:
    """The mapping in a file that `write_sealed` wrote; CheckpointError with `remedy` if a byte of it is different."""
    with file_errors(path):
        raw = path.read_bytes()
    values = unsealed(raw)
    if values is None:
        raise CheckpointError(f"{path} is damaged, or was edited", remedy)
    return values


def sealed(values: Mapping[str, Any]) -> bytes:
    """A mapping as JSON, with the SHA-256 of its content as its last key.

    >>> unsealed(sealed({"a": 1}))
    {'a': 1}
    >>> unsealed(sealed({"a": 1}).replace(b"1", b"2", 1)) is None
    True
    """
    digest = hashlib.sha256(json.dumps(values).encode()).hexdigest()
    return json.dumps({**values, _SEAL: digest}, indent=1).encode() + b"\n"


def unsealed(raw: bytes) -> dict[str, Any] | None:
    """The mapping from which `sealed` made these bytes; None if it did not make them."""
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    values.pop(_SEAL, None)
    return values if sealed(values) == raw else None
