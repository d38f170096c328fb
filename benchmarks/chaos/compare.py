"""Every file of a run folder by its SHA-256, and the differences between two runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

CLOCK = "timing.jsonl"
FOLDER = "folder"
Tree = Mapping[str, str]


def tree(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder, by relative path; clock readings are left out, folders are named.

    The state of a checkpoint holds the size of `timing.jsonl`, which is left out too, and its manifest the hash of
    that state.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_dir():
            found[name] = FOLDER
        elif path.name != CLOCK:
            found[name] = hashlib.sha256(_content(path)).hexdigest()
    return found


def _content(path: Path) -> bytes:
    raw = path.read_bytes()
    if path.name not in ("state.json", "manifest.json"):
        return raw
    try:
        body = json.loads(raw)
        if path.name == "state.json":
            body["logs"].pop(CLOCK, None)
        else:
            body["sha256"] = body["files"]["state.json"] = None
    except (ValueError, KeyError, TypeError):
        return raw
    return json.dumps(body).encode()


def differences(expected: Tree, found: Tree) -> list[str]:
    """What a reader would notice between two trees: files that differ, are missing, or are there in addition.

    >>> differences({"a": "1", "b": "2"}, {"a": "3", "c": "4"})
    ['a differs', 'b is missing', 'c is stray']
    """
    told = []
    for name in sorted({*expected, *found}):
        if name not in found:
            told.append(f"{name} is missing")
        elif name not in expected:
            told.append(f"{name} is stray")
        elif expected[name] != found[name]:
            told.append(f"{name} differs")
    return told
