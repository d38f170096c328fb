"""Trains one stage in its folder: logs metrics, shows progress, saves checkpoints, resumes, and writes the model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rung.artifacts.data_card import refuse_other_rows, write_data_card
from rung.artifacts.folder import CHECKPOINTS
from rung.config import StageConfig
from rung.data.report import DataReport
from rung.distributed.ranks import Ranks
from rung.errors import EmptyStepsError, GenerationLimitError, RewardError
from rung.metrics import values
from rung.pipeline.build_stage import build_stage
from rung.pipeline.final_model import save_final_model
from rung.pipeline.rollback import steps_with_rollback, tell_skipped
from rung.pipeline.saving import resume, save, try_save
from rung.pipeline.stage_data import StageData
from rung.pipeline.stage_settings import StageSettings
from rung.reward.outcome import FAILURES
from rung.rollout.generate import LOGGED_ONLY
from rung.training.early_stopping import BestWeights, validation_loss
from rung.training.loop import Step
from rung.training.stage import Stage
from rung.training.symptoms import EMPTY_STEPS, SKIPPED_STEPS, read_symptoms
from rung.training.trackers import METRICS, JsonLines, Tracker, make_trackers
from rung.utils.console import note, progress, say, show_completions
from rung.utils.signals import StopFlag

SHOWN_ROWS = 16  # completions logged per rollout, and as many of those on which a reward failed
QUARANTINE = "quarantine.jsonl"


def train_stage(
    settings: StageSettings,
    *,
    start: str,
    reference: str | None,
    critic: str | None,
    teacher: str | None = None,
    data: StageData | None = None,
    trackers: Sequence[str] = (),
    run_name: str = "",
    folder: Path,
    ranks: Ranks,
    stop: StopFlag,
    check_rows: Callable[[Path, DataReport], None] = refuse_other_rows,
) -> bool:
    """Trains a stage, or resumes it from its newest checkpoint; returns True when `folder/model` has been written.

    Returns False if `stop` was requested: the state is then saved, and the same call resumes training. `start`,
    `reference`, `critic`, `teacher` and `data` are arguments of `build_stage`. `trackers` are the names of trackers;
    `jsonl` is always added. `check_rows` is called before training is resumed. Raises UserError.
    """
    config = settings.config
    stage = build_stage(
        settings, start=start, reference=reference, critic=critic, teacher=teacher, ranks=ranks, data=data
    )
    early = config.early_stopping
    best = BestWeights(early.threshold, early.patience) if early else None
    opened = open_trackers(settings, trackers, folder, run_name) if ranks.rank == 0 else []
    logged = next((tracker for tracker in opened if isinstance(tracker, JsonLines)), JsonLines(folder))
    resume(stage, best, folder, logged, check_rows)
    if ranks.rank == 0:
        stage.report.write_quarantine(folder / QUARANTINE)
        write_data_card(folder, stage.report.as_dict())
        lines = (stage.report.counts(), *stage.report.remarks(), *stage.report.warnings)
        say(*(f"{stage.name}: {line}" for line in lines))
    for tracker in opened:
        tracker.start(config.model_dump(mode="json", by_alias=True))

    with stop.deferred():
        completed = run_steps(stage, best, config, folder, opened, logged, stop)
        tell_skipped(stage)
        if completed:
            if best is not None:
                best.restore(stage.policy)
            save_final_model(stage, folder)
        else:
            save(stage, best, folder, logged)
        for tracker in opened:
            tracker.finish()
        stage.source.close()
    return completed


def run_steps(
    stage: Stage,
    best: BestWeights | None,
    config: StageConfig,
    folder: Path,
    trackers: Sequence[Tracker],
    logged: JsonLines,
    stop: StopFlag,
) -> bool:
    """Trains the remaining steps; returns False if `stop` was requested before the last of them."""
    every = config.eval_steps or max(1, math.ceil(stage.steps_per_epoch))
    table: Sequence[Mapping[str, Any]] = []
    symptoms = read_symptoms(logged.folder / METRICS, stage.total_steps)  # those of before a stop are not told again
    shown = (
        progress(stage.total_steps, stage.name, start=stage.step)
        if stage.ranks.rank == 0
        else nullcontext(_show_nothing)
    )
    with shown as show:
        begun = time.perf_counter()
        for step in _or_save(stage, best, folder, logged, config.save_steps):
            metrics, rows = stage.source.pop_report()
            own = step_metrics(stage, step)
            seen = own | values(metrics) | own  # what a reward logs replaces no metric of the step
            if best is not None and (stage.step % every == 0 or stage.step == stage.total_steps):
                seen["eval_loss"] = validation_loss(stage.policy, stage.algorithm, stage.held_out, stage.ranks)
                best.record(seen["eval_loss"], stage.policy)
            elapsed, begun = time.perf_counter() - begun, time.perf_counter()
            timing = step_timing(step.num_tokens, elapsed)
            logged_rows = rows_to_log(rows)
            table = logged_rows or table
            for tracker in trackers:
                tracker.log(stage.step, seen, timing, logged_rows)
            show(stage.step, seen | timing)
            if stage.ranks.rank == 0:
                note(*(f"{stage.name}, {symptom}" for symptom in symptoms.observe(stage.step, seen)))
            if best is not None and best.exhausted:
                break
            if stage.ranks.agree(not stop.requested) is False:
                return stage.step == stage.total_steps
            # not after a skipped step: with the same weights, it would displace a checkpoint to go back to
            due = stage.step % config.save_steps == 0 and not stage.skipped.in_a_row
            if due and stage.step < stage.total_steps:
                try_save(stage, best, folder, logged)
    if table and stage.ranks.rank == 0:
        shown_rows = [{key: value for key, value in row.items() if key not in LOGGED_ONLY} for row in table]
        show_completions(shown_rows, f"{stage.name}: completions of the last step")
    return True


def rows_to_log(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The completions of a rollout that are logged: the first ones, and then those on which a reward failed."""
    failed = [row for row in rows[SHOWN_ROWS:] if any(FAILURES & told.keys() for told in row["details"].values())]
    return [*rows[:SHOWN_ROWS], *failed[:SHOWN_ROWS]]


def _or_save(
    stage: Stage, best: BestWeights | None, folder: Path, logged: JsonLines, save_steps: int
) -> Iterator[Step]:
    """The steps of a stage; if one cannot be taken for a reason that the user can mend, saves the state before it.

    Only with one rank, since the others may not have met the error, and saving takes all of them.
    """
    try:
        yield from steps_with_rollback(
            stage, folder / CHECKPOINTS, save_steps, lambda: save(stage, best, folder, logged)
        )
    except (RewardError, GenerationLimitError, EmptyStepsError) as error:
        if stage.ranks.world == 1 and stage.step > 0:
            try_save(stage, best, folder, logged)
            if isinstance(error, RewardError):
                error.remedy += "; go on with a changed reward by `--allow-drift`"
        raise


def _show_nothing(step: int, values: Mapping[str, float]) -> None:
    """The progress display of ranks other than 0: shows nothing."""


def step_metrics(stage: Stage, step: Step) -> dict[str, float]:
    """The metrics of a step, with TRL's names; if the loss has several terms, each term is also a metric."""
    seen = {
        "loss": step.loss,
        "grad_norm": step.grad_norm,
        "learning_rate": step.learning_rate,
        "epoch": round(stage.step / stage.steps_per_epoch, 4),
        "num_tokens": float(stage.num_tokens),
    }
    terms = {f"loss/{name}": term for name, term in step.terms.items()} if len(step.terms) > 1 else {}
    empty = {EMPTY_STEPS: 1.0} if step.empty else {}
    skipped = {SKIPPED_STEPS: float(stage.skipped.total)} if stage.skipped.total else {}
    return seen | terms | empty | skipped | values(step.metrics)


def step_timing(num_tokens: int, seconds: float) -> dict[str, float]:
    """The time of a step and the speed, which is left out if the clock has not moved forward.

    >>> step_timing(100, 0.5), step_timing(100, 0.0)
    ({'step_time': 0.5, 'tokens_per_second': 200.0}, {'step_time': 0.0})
    """
    speed = {"tokens_per_second": num_tokens / seconds} if seconds > 0 else {}
    return {"step_time": max(seconds, 0.0)} | speed


def open_trackers(settings: StageSettings, names: Sequence[str], folder: Path, run_name: str) -> list[Tracker]:
    """The trackers of a stage; `jsonl` is always among them, because resuming depends on its files."""
    every = tuple(dict.fromkeys(("jsonl", *names)))
    return make_trackers(every, folder, project="rung", run_name=run_name, base=settings.base)
