"""Counter-based random numbers: the number that draws a token is a function of a key and of the token's position.

There is no generator state, so batch order and batch size have no effect on what is sampled.
Source: Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the key after each round
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Key:
    """The key of a stream of random numbers: the seed, the stage, and the purpose of the draws (such as `rollout`)."""

    seed: int
    stage: str
    purpose: str

    def words(self) -> tuple[int, int]:
        """The Philox key: the first 64 bits of the SHA-256 of the three fields, as two 32-bit words.

        >>> Key(0, "dapo", "rollout").words() == Key(0, "dapo", "evaluate").words()
        False
        """
        digest = sha256(json.dumps([self.seed, self.stage, self.purpose]).encode()).digest()
        return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def philox4x32(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """The outputs of Philox4x32-10 for many counters and one key: four pseudo-random 32-bit words per counter.

    Shapes: (..., 4) uint64 below 2**32 -> (..., 4) uint64 below 2**32. Raises nothing.

    >>> [f"{int(word):08x}" for word in philox4x32(np.zeros(4, np.uint64), (0, 0))]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = (counter[..., i] for i in range(4))
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # products of 32-bit words fit into 64 bits
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1)


def uniforms(key: Key, visits: Tensor, samples: Tensor, start: int | Tensor, count: int) -> Tensor:
    """Uniform random numbers in [0, 1), with 53 random bits, for tokens `start` to `start + count - 1` of n rows.

    `start` is one number for all rows, or a tensor (n,) with one for each.

    A row is identified by its prompt's visit (0 to 2**63 - 1: how many prompts were visited before in the run) and its
    number among the samples of that prompt (below 2**32); its index in the batch and the other rows have no effect.
    Shapes: (n,) int64, (n,) int64 -> (n, count) float64 on the CPU. Raises nothing.

    >>> key = Key(0, "dapo", "rollout")
    >>> rows = uniforms(key, torch.tensor([5, 9]), torch.tensor([0, 3]), start=0, count=4)
    >>> torch.equal(uniforms(key, torch.tensor([9]), torch.tensor([3]), start=2, count=2), rows[1:, 2:])
    True
    """
    assert not (visits < 0).any(), "visits must not be negative"
    assert not (samples < 0).any(), "samples must not be negative"
    visit = visits.cpu().numpy().astype(np.uint64)[:, None]
    sample = samples.cpu().numpy().astype(np.uint64)[:, None]
    starts = torch.as_tensor(start).cpu().numpy().astype(np.uint64).reshape(-1, 1)
    token = starts + np.arange(count, dtype=np.uint64)
    counter = np.stack(np.broadcast_arrays(visit & _LOW, visit >> _SHIFT, sample, token), axis=-1)
    words = philox4x32(counter, key.words())
    bits = (words[..., 0] >> np.uint64(5)) << np.uint64(26) | words[..., 1] >> np.uint64(6)
    return torch.from_numpy(bits.astype(np.float64) * 2.0**-53)
