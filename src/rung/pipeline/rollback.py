"""Trains a stage and, when too many steps are not finite, goes back once to the weights of an earlier checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rung.distributed.fsdp import all_finite
from rung.errors import CheckpointError, NonFiniteError
from rung.training import checkpoint
from rung.training.loop import Step
from rung.training.run_state import unflatten
from rung.training.stage import Stage
from rung.utils.console import note

_STEP = re.compile(r"step-(\d{6,})")


def steps_with_rollback(stage: Stage, checkpoints: Path, save_steps: int, save: Callable[[], object]) -> Iterator[Step]:
    """The remaining steps of a stage; if too many are not finite, goes on from the weights of an earlier checkpoint.

    Data, learning rate and random states go on, so that the steps that failed are not repeated. `save` is called after
    a rollback, so that a run that is killed afterwards resumes with the same weights. Raises NonFiniteError at the
    second time, and if there is no checkpoint. All ranks call this function.
    """
    while True:
        try:
            yield from stage
        except NonFiniteError as error:
            if stage.skipped.rollbacks:
                again = f"{error.what}, for the second time: the stage was rolled back before"
                raise NonFiniteError(again, error.remedy) from None
            step = _roll_back(stage, checkpoints, save_steps)
            if step is None:
                remedy = f"{error.remedy}; with a lower `save_steps` there is a checkpoint to go back to"
                raise NonFiniteError(error.what, remedy) from None
            if stage.ranks.rank == 0:
                note(f"{error.what}; went back to the weights of step {step}, and goes on with the next data")
        else:
            return
        save()


def tell_skipped(stage: Stage) -> None:
    """Prints how many steps of a stage were skipped, if any were."""
    skipped = stage.skipped
    if skipped.total and stage.ranks.rank == 0:
        rolled_back = ", and the weights were rolled back once" if skipped.rollbacks else ""
        counted = f"{skipped.total} of {stage.step} steps were skipped"
        note(f"{stage.name}: {counted}, because the loss or gradient was not finite{rolled_back}")


def candidates(checkpoints: Path, last_updated: int, save_steps: int) -> list[int]:
    """The steps of the checkpoints in the order in which a rollback tries them.

    First those whose weights a later step has updated, so that they gave a finite loss. Among them, those at multiples
    of `save_steps` come first: which others there are depends on when the run was stopped.
    """
    found = [_STEP.fullmatch(path.name) for path in checkpoints.glob("step-*")]
    steps = [int(match[1]) for match in found if match]
    return sorted(steps, key=lambda step: (step < last_updated, step % save_steps == 0, step), reverse=True)


def _roll_back(stage: Stage, checkpoints: Path, save_steps: int) -> int | None:
    """Restores the stage from a checkpoint and returns its step; None if none has finite weights. A collective."""
    usable = None
    if stage.ranks.rank == 0:
        steps = candidates(checkpoints, stage.skipped.last_updated, save_steps)
        usable = next((step for step in steps if _read(checkpoints, step) is not None), None)
    step = stage.ranks.gather(usable)[0]
    if step is None:
        return None
    state = _read(checkpoints, step)
    assert state is not None, "rank 0 has read the same checkpoint"
    stage.roll_back(state["stage"])
    return step


def _read(checkpoints: Path, step: int) -> Mapping[str, Any] | None:
    """The state in a checkpoint; None if it is damaged or its weights are not finite."""
    try:
        saved = checkpoint.load(checkpoint.checkpoint_path(checkpoints, step))
    except CheckpointError:
        return None
    state = unflatten(saved.tensors, saved.values)
    return state if all_finite(state["stage"]["weights"].values()) else None
