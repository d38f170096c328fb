"""The progress of training that a reward function can read as `trainer_state`, as in TRL."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class TrainerState:
    """The progress of training when completions are scored; all values are 0 in an evaluation.

    `global_step` is the number of optimizer steps so far, `epoch` the number of passes over the prompts so far.
    """

    global_step: int = 0
    max_steps: int = 0
    epoch: float = 0.0
    num_train_epochs: int = 0

    def __getattr__(self, name: str) -> object:
        """Raises AttributeError with the names of all attributes."""
        offered = ", ".join(field.name for field in fields(self))
        raise AttributeError(f"trainer_state has no `{name}`; it has {offered}")


def trainer_state(step: int, max_steps: int, steps_per_epoch: float) -> TrainerState:
    """The state after `step` of `max_steps` steps.

    >>> trainer_state(5, 20, 10)
    TrainerState(global_step=5, max_steps=20, epoch=0.5, num_train_epochs=2)
    """
    if not steps_per_epoch:
        return TrainerState(step, max_steps)
    return TrainerState(step, max_steps, step / steps_per_epoch, math.ceil(max_steps / steps_per_epoch))
