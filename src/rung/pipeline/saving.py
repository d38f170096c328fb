"""Saves the checkpoints of a stage, and resumes from the newest one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rung.artifacts.data_card import refuse_other_rows
from rung.artifacts.folder import CHECKPOINTS
from rung.data.report import DataReport
from rung.errors import CheckpointError
from rung.training import checkpoint
from rung.training.early_stopping import BestWeights
from rung.training.run_state import RunState, flatten, unflatten
from rung.training.stage import Stage
from rung.training.trackers import JsonLines
from rung.utils.console import warn


def save(stage: Stage, best: BestWeights | None, folder: Path, logged: JsonLines) -> None:
    """Saves a checkpoint: the state of the stage and of early stopping, and the sizes of the log files.

    All ranks call this function, and rank 0 writes.
    """
    state = {"name": stage.name, "stage": stage.state(), "best": best.state_dict() if best else None}
    if stage.ranks.rank == 0:
        checkpoint.save(folder / CHECKPOINTS, stage.step, RunState(*flatten(state | {"logs": logged.offset()})))


def try_save(stage: Stage, best: BestWeights | None, folder: Path, logged: JsonLines) -> None:
    """Saves a checkpoint; if the disk refuses, warns, so that training goes on and older checkpoints are kept."""
    try:
        save(stage, best, folder, logged)
    except CheckpointError as error:
        warn(f"{stage.name}, step {stage.step}: no checkpoint was saved: {error.what}; training goes on")


def resume(
    stage: Stage,
    best: BestWeights | None,
    folder: Path,
    logged: JsonLines,
    check_rows: Callable[[Path, DataReport], None] = refuse_other_rows,
) -> None:
    """Restores the newest valid checkpoint and cuts the logs to their sizes at that time; without one, empties them.

    `check_rows` refuses a checkpoint of a stage that began with other rows. Raises CheckpointError for a checkpoint of
    another stage.
    """
    checkpoints = folder / CHECKPOINTS
    found = checkpoint.load_newest(checkpoints) if stage.ranks.rank == 0 else None  # renames and removes files
    step = stage.ranks.gather(found[0] if found else None)[0]
    saved = found[1] if found else checkpoint.load(checkpoint.checkpoint_path(checkpoints, step)) if step else None
    state: Mapping[str, Any] = unflatten(saved.tensors, saved.values) if saved else {"logs": {}}
    if saved:
        if state.get("name") != stage.name:
            what = f"{checkpoints}: the checkpoint of step {step} belongs to stage `{state.get('name')}`"
            raise CheckpointError(what, "restore the folder from a backup, or start a new run with `--new`")
        check_rows(folder, stage.report)
        stage.load(state["stage"])
        if best is not None:
            best.load_state_dict(state["best"])
    if stage.ranks.rank == 0:
        logged.truncate(state["logs"])
