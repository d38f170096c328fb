"""The states of a process's random number generators, as JSON values."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_all(seed: int) -> None:
    """Seeds Python's, NumPy's (legacy global) and torch's generators, the latter on all devices; seed >= 0."""
    import_module("rich.style")  # trap: it draws from Python's generator when it is first imported, which may be later
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def remember() -> Callable[[], None]:
    """Remembers the states of the generators of `capture` in memory; the returned function restores them."""
    python, numpy_state, cpu = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)

    return restore


def capture() -> dict[str, Any]:
    """The states of Python's, NumPy's (legacy global) and torch's generators (CPU, and the current CUDA device)."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)
    key = numpy_state["state"]
    return {
        "python": [version, list(words), gauss],
        "numpy": numpy_state | {"state": {"key": key["key"].tolist(), "pos": key["pos"]}},
        "torch": _text(torch.get_rng_state()),
        "cuda": _text(torch.cuda.get_rng_state()) if torch.cuda.is_available() else None,
    }


def restore(state: Mapping[str, Any]) -> None:
    """Restores the states that `capture` returned; the state of CUDA is ignored if there is no CUDA device."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    key = state["numpy"]["state"]
    words = np.array(key["key"], dtype=np.uint32)
    np.random.set_state(dict(state["numpy"]) | {"state": {"key": words, "pos": key["pos"]}})
    torch.set_rng_state(_tensor(state["torch"]))
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(_tensor(state["cuda"]))


def _text(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode("ascii")


def _tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
