"""Trains one stage into its folder: logs, shows, saves, resumes, and leaves `model/` for the next stage."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from rung import checkpoint
from rung.batch import Batch
from rung.config import PathConfig, StageConfig
from rung.console import progress, show_completions
from rung.loop import Step
from rung.metrics import values
from rung.models import save_model
from rung.opening import open_stage
from rung.ranks import Ranks
from rung.reward_models import reference_scores, save_reward_model
from rung.signals import StopFlag
from rung.stage import Stage
from rung.state import RunState, flatten, unflatten
from rung.stopping import BestSoFar, validation_loss
from rung.tracking import JsonLines, Tracker, make_trackers

REFERENCE_ROWS = 512
SHOWN_ROWS = 16  # completions kept of each rollout


def fit(
    config: StageConfig,
    path: PathConfig,
    *,
    start: str,
    reference: str | None,
    critic: str | None,
    teacher: str | None = None,
    folder: Path,
    ranks: Ranks,
    stop: StopFlag,
) -> bool:
    """Trains the stage, from its newest checkpoint where it has one; True once `folder/model` is written.

    False where `stop` was requested: the state is saved, and the same call goes on. Raises UserError.
    """
    stage = open_stage(
        config,
        path,
        start=start,
        reference=reference,
        critic=critic,
        teacher=teacher,
        ranks=ranks,
        quarantine=folder / "quarantine.jsonl",
    )
    early = config.early_stopping
    best = BestSoFar(early.threshold, early.patience) if early else None
    trackers = open_trackers(path, config, folder) if ranks.rank == 0 else []
    logged = next((tracker for tracker in trackers if isinstance(tracker, JsonLines)), JsonLines(folder))
    resume(stage, best, folder, logged)
    for tracker in trackers:
        tracker.start(config.model_dump(mode="json", by_alias=True))

    completed = train(stage, best, config, folder, trackers, logged, stop)
    if completed:
        if best is not None:
            best.restore(stage.policy)
        hand_over(stage, folder)
    else:
        save(stage, best, folder, logged)
    for tracker in trackers:
        tracker.finish()
    return completed


def train(
    stage: Stage,
    best: BestSoFar | None,
    config: StageConfig,
    folder: Path,
    trackers: Sequence[Tracker],
    logged: JsonLines,
    stop: StopFlag,
) -> bool:
    """Goes through the steps that are left; False where it was asked to stop before the last one."""
    every = config.eval_steps or max(1, math.ceil(stage.steps_per_epoch))
    table: list[dict[str, Any]] = []
    shown = progress(stage.total_steps, stage.name, start=stage.step) if stage.ranks.rank == 0 else nullcontext(_unseen)
    with shown as show:
        begun = time.perf_counter()
        for step in stage:
            metrics, rows = stage.source.pop_report()
            seen = summary(stage, step) | values(metrics)
            if best is not None and (stage.step % every == 0 or stage.step == stage.total_steps):
                seen["eval_loss"] = validation_loss(stage.policy, stage.algorithm, stage.held_out, stage.ranks)
                best.see(seen["eval_loss"], stage.policy)
            elapsed, begun = time.perf_counter() - begun, time.perf_counter()
            timing = {"step_time": elapsed, "tokens_per_second": step.num_tokens / elapsed}
            table = rows[:SHOWN_ROWS] or table
            for tracker in trackers:
                tracker.log(stage.step, seen, timing, rows[:SHOWN_ROWS])
            show(stage.step, seen | timing)
            if best is not None and best.exhausted:
                break
            if stage.ranks.agree(not stop.requested) is False:
                return stage.step == stage.total_steps
            if stage.step % config.save_steps == 0 and stage.step < stage.total_steps:
                save(stage, best, folder, logged)
    if table and stage.ranks.rank == 0:
        show_completions(table, f"{stage.name}: sampled at the last step")
    return True


def _unseen(step: int, seen: Mapping[str, float]) -> None:
    """What ranks other than the first show."""


def hand_over(stage: Stage, folder: Path) -> None:
    """Writes `folder/model`; of a reward model, with the scale of its scores on rows that the stage learnt from.

    A collective; rank 0 writes.
    """
    judges = stage.policy.final_head is not None
    own = reference_scores(stage.policy, stage.algorithm, reference_batches(stage)) if judges else torch.zeros(0)
    scores = torch.cat([part["scores"] for part in stage.ranks.gather_tensors({"scores": own})])
    policy = stage.policy.assembled()
    if stage.ranks.rank > 0:
        return
    assert policy is not None, "rank 0 has all weights"
    if judges:
        save_reward_model(policy, stage.tokenizer, folder, scores)
    else:
        save_model(policy.model, stage.tokenizer, folder)


def reference_batches(stage: Stage) -> list[Batch]:
    """The held-out batches where there are any, else the next ones of the data: an epoch, or `REFERENCE_ROWS` rows.

    Of the data each rank takes its share.
    """
    batches = list(stage.held_out)
    if not batches:
        rows = 0
        for batch in islice(stage.source, math.ceil(stage.steps_per_epoch)):
            batches.append(batch)
            rows += int(stage.ranks.sum({"rows": torch.tensor(batch.num_rows)})["rows"])
            if rows >= REFERENCE_ROWS:
                break
    return batches


def summary(stage: Stage, step: Step) -> dict[str, float]:
    """A step as numbers by TRL's names; a loss of several terms is also told term by term."""
    seen = {
        "loss": step.loss,
        "grad_norm": step.grad_norm,
        "learning_rate": step.learning_rate,
        "epoch": round(stage.step / stage.steps_per_epoch, 4),
        "num_tokens": float(stage.num_tokens),
    }
    terms = {f"loss/{name}": term for name, term in step.terms.items()} if len(step.terms) > 1 else {}
    skipped = {} if step.stepped else {"skipped_step": 1.0}
    return seen | terms | skipped | values(step.metrics)


def save(stage: Stage, best: BestSoFar | None, folder: Path, logged: JsonLines) -> None:
    """A checkpoint of the stage, its early stopping, and how far the logs had come; rank 0 writes it."""
    state = {"stage": stage.state(), "best": best.state_dict() if best else None, "logs": logged.offset()}
    if stage.ranks.rank == 0:
        checkpoint.save(folder / "checkpoints", stage.step, RunState(*flatten(state)))


def resume(stage: Stage, best: BestSoFar | None, folder: Path, logged: JsonLines) -> None:
    """Goes on from the newest valid checkpoint; without one, the logs of an attempt before it are emptied."""
    checkpoints = folder / "checkpoints"
    found = checkpoint.load_newest(checkpoints) if stage.ranks.rank == 0 else None  # it renames and removes
    step = stage.ranks.gather(found[0] if found else None)[0]
    saved = found[1] if found else checkpoint.load(checkpoint.checkpoint_path(checkpoints, step)) if step else None
    state: Mapping[str, Any] = unflatten(saved.tensors, saved.values) if saved else {"logs": {}}
    if saved:
        stage.load(state["stage"])
        if best is not None:
            best.load_state_dict(state["best"])
    if stage.ranks.rank == 0:
        logged.truncate(state["logs"])


def open_trackers(path: PathConfig, config: StageConfig, folder: Path) -> list[Tracker]:
    """The trackers of the path for one stage; the JSON lines are always kept, since resuming reads them."""
    names = tuple(dict.fromkeys(("jsonl", *path.trackers)))
    return make_trackers(names, folder, project="rung", run_name=f"{path.name}-{config.name}")
