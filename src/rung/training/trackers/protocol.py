"""The interface of trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Rows = Sequence[Mapping[str, Any]]


class Tracker(Protocol):
    """Logs the metrics of a stage; the constructor has no side effects, `start` opens the tracker.

    A tracker class that a config refers to must have an attribute `name`, and is constructed with the folder of the
    stage, the project and the name of the run: `MyTracker(folder, project, run_name)`.
    """

    def start(self, run: Mapping[str, Any]) -> None:
        """Begins or resumes logging; `run` is the resolved config of the stage."""
        ...

    def log(self, step: int, values: Mapping[str, float], timing: Mapping[str, float], table: Rows = ()) -> None:
        """Logs one step: metrics (`values`), measured times (`timing`), and sampled completions (`table`)."""
        ...

    def finish(self) -> None:
        """Ends logging; called when the stage has finished or was stopped."""
        ...
