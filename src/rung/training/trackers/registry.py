"""Looks up trackers by name."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

from rung.registry import OpenKind
from rung.training.trackers.protocol import Tracker

METHODS = ("start", "log", "finish")


def _is_tracker(value: object) -> bool:
    return inspect.isclass(value) and all(callable(getattr(value, method, None)) for method in METHODS)


TRACKERS = OpenKind(
    "trackers", "rung.training.trackers", _is_tracker, f"a class with a `name` and the methods {', '.join(METHODS)}"
)


def make_trackers(
    names: Sequence[str], folder: Path, *, project: str, run_name: str, base: Path | None = None
) -> list[Tracker]:
    """Makes the trackers with these names, each once, for a stage's folder. Raises ConfigError for an unknown name."""
    return [TRACKERS.find(name, base)(folder, project, run_name) for name in dict.fromkeys(names)]
