"""Fingerprints of encoded rows, which tell whether rows were edited, added, removed or reordered, and where."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rung.data.records import Encoded

NUM_BLOCKS = 64  # blocks of rows whose hashes are kept, by which a difference is located


def row_digest(row: Encoded) -> str:
    """A hash of the content of a row, its ids and its loss mask, 32 hex digits."""
    hashed = hashlib.sha256(row.id.encode())
    hashed.update(np.asarray(row.prompt_ids, dtype=np.int64).tobytes())
    for answer in row.answers:
        hashed.update(np.asarray(answer.ids, dtype=np.int64).tobytes())
        hashed.update(np.asarray(answer.trained, dtype=np.bool_).tobytes())
    return hashed.hexdigest()[:32]


def fingerprint(digests: Sequence[str]) -> dict[str, Any]:
    """The fingerprint of rows, given their digests in order, as JSON values.

    `fingerprint` is a hash of all rows in their order, `in_any_order` one that does not depend on the order, and
    `blocks` has the hashes of at most 64 blocks of `block` rows.

    >>> fingerprint(["a", "b"])["fingerprint"] == fingerprint(["b", "a"])["fingerprint"]
    False
    >>> fingerprint(["a", "b"])["in_any_order"] == fingerprint(["b", "a"])["in_any_order"]
    True
    """
    block = max(1, math.ceil(len(digests) / NUM_BLOCKS))
    return {
        "fingerprint": _hash(digests),
        "in_any_order": _hash(sorted(digests)),
        "block": block,
        "blocks": _blocks(digests, block),
    }


def difference(before: Mapping[str, Any], digests: Sequence[str]) -> str:
    """How rows differ from those with the fingerprint `before`, in words; empty text if they do not differ.

    >>> before = fingerprint(["a", "b", "c"])
    >>> difference(before, ["a", "b", "c"]), difference(before, ["b", "a", "c"])
    ('', 'the same rows in another order')
    >>> difference(before, ["a", "x", "c"])
    'the first other row is row 2'
    """
    if before["fingerprint"] == _hash(digests):
        return ""
    if before["in_any_order"] == _hash(sorted(digests)):
        return "the same rows in another order"
    block, now = before["block"], _blocks(digests, before["block"])
    same = next((i for i, (old, new) in enumerate(zip(before["blocks"], now, strict=False)) if old != new), None)
    first = (min(len(now), len(before["blocks"])) if same is None else same) * block + 1
    rows = f"row {first}" if block == 1 else f"among rows {first} to {first + block - 1}"
    return f"the first other row is {rows}"


def _blocks(digests: Sequence[str], block: int) -> list[str]:
    return [_hash(digests[i : i + block])[:16] for i in range(0, len(digests), block)]


def _hash(digests: Sequence[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()
