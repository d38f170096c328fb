"""The interface of a tracker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

Rows = Sequence[Mapping[str, Any]]


class Tracker(Protocol):
    """A destination of metrics: constructed without side effects, opened by `start`.

    `name` is its name in a config. The constructor takes the stage's folder, the project and the name of the run.
    """

    name: ClassVar[str]

    def __init__(self, folder: Path, project: str, run_name: str) -> None: ...

    def start(self, run: Mapping[str, Any]) -> None:
        """Begins or resumes the run of a resolved config."""
        ...

    def log(self, step: int, values: Mapping[str, float], timing: Mapping[str, float], table: Rows = ()) -> None:
        """Logs one step: reproducible `values`, clock readings in `timing`, and rows of sampled completions."""
        ...

    def finish(self) -> None:
        """Ends the run."""
        ...
