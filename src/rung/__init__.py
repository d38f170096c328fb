"""rung: preference alignment and RL post-training in stages; a gate decides whether the model of a stage is kept."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rung.api import run, train

__version__ = "0.1.0"
__all__ = ["__version__", "run", "train"]

_here = Path(__file__).resolve().parent
if _here.parent.name == "src":  # a checkout: algorithms/, rewards/ and configs/ are at the top of the repository
    __path__.insert(0, str(_here.parents[1]))


def __getattr__(name: str) -> object:
    """Imports `run` and `train` on first use, so that `import rung` is fast."""
    if name in ("run", "train"):
        return getattr(import_module("rung.api"), name)
    raise AttributeError(f"module 'rung' has no attribute {name!r}")
