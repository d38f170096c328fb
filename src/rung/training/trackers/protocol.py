"""The interface of a tracker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Rows = Sequence[Mapping[str, Any]]


class Tracker(Protocol):
    """A destination of metrics: constructed without side effects, opened by `start`.

    A class that a config names also has a `name`, and takes the stage's folder, the project and the name of the run:
    `MyTracker(folder, project, run_name)`.
    """

    def start(self, run: Mapping[str, Any]) -> None:
        """Begins or resumes the run of a resolved config."""
        ...

    def log(self, step: int, values: Mapping[str, float], timing: Mapping[str, float], table: Rows = ()) -> None:
        """Logs one step: reproducible `values`, clock readings in `timing`, and rows of sampled completions."""
        ...

    def finish(self) -> None:
        """Ends the run."""
        ...
