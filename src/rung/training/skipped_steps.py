"""Counts the steps that were skipped because their loss or gradient was not finite, and says when they are too many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rung.errors import NonFiniteError

LIMIT = 3  # skipped steps in a row, or in all where they are also more than `SHARE` of the steps
SHARE = 0.01


@dataclass(slots=True)
class SkippedSteps:
    """The skipped steps of a stage; those since the last rollback, or since the start of the stage, are limited."""

    total: int = 0
    in_a_row: int = 0
    recent: int = 0  # since the last rollback
    recent_steps: int = 0  # all steps since the last rollback
    last_updated: int = 0  # the last step that updated the weights
    rollbacks: int = 0

    def count(self, step: int, stepped: bool) -> None:
        """Counts a step that had something to train; `stepped` says whether it updated the weights."""
        self.recent_steps += 1
        self.in_a_row = 0 if stepped else self.in_a_row + 1
        if stepped:
            self.last_updated = step
        else:
            self.total, self.recent = self.total + 1, self.recent + 1

    def rolled_back(self) -> None:
        """Counts a rollback, after which the limits apply anew."""
        self.rollbacks += 1
        self.in_a_row = self.recent = self.recent_steps = 0

    def check(self, place: str) -> None:
        """Raises NonFiniteError, which begins with `place`, if too many steps were skipped."""
        if self.in_a_row >= LIMIT:
            raise non_finite_error(f"{place}: no finite loss and gradient in {self.in_a_row} consecutive steps")
        if self.recent >= LIMIT and self.recent > SHARE * self.recent_steps:
            counted = f"{self.recent} of {self.recent_steps} steps"
            raise non_finite_error(f"{place}: the loss or gradient was not finite in {counted}")

    def state_dict(self) -> dict[str, Any]:
        """The counts, as JSON values."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the counts that `state_dict` returned."""
        for name, value in state.items():
            setattr(self, name, value)


def non_finite_error(what: str) -> NonFiniteError:
    """The error for numbers that stay infinite or NaN."""
    remedy = "start afresh with `--new` and a lower `learning_rate` or `max_grad_norm`"
    return NonFiniteError(what, f"{remedy}; a step that is not finite never changes the weights")
