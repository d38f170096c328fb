"""Trains one stage in its folder: logs metrics, shows progress, saves checkpoints, resumes, and writes the model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from rung.algorithm import Algorithm
from rung.artifacts.data_card import refuse_other_rows, write_data_card
from rung.artifacts.folder import CHECKPOINTS
from rung.batch import Batch
from rung.config import StageConfig
from rung.data.report import DataReport
from rung.distributed.ranks import Ranks
from rung.errors import CheckpointError, EmptyStepsError, GenerationLimitError, RewardError
from rung.forward.policy import Policy
from rung.metrics import values
from rung.models.load import save_model
from rung.models.reward_model import save_reward_model
from rung.pipeline.build_stage import build_stage
from rung.pipeline.stage_data import StageData
from rung.pipeline.stage_settings import StageSettings
from rung.reward.outcome import FAILURES
from rung.rollout.generate import LOGGED_ONLY
from rung.training import checkpoint
from rung.training.early_stopping import BestWeights, validation_loss
from rung.training.loop import Step
from rung.training.run_state import RunState, flatten, unflatten
from rung.training.stage import Stage
from rung.training.symptoms import EMPTY_STEPS, read_symptoms
from rung.training.trackers import METRICS, JsonLines, Tracker, make_trackers
from rung.utils.console import note, progress, show_completions, warn
from rung.utils.files import new_folders
from rung.utils.signals import StopFlag

REFERENCE_ROWS = 512  # training rows scored to normalise a reward model if there are no held-out rows
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
        for line in (stage.report.counts(), *stage.report.remarks(), *stage.report.warnings):
            print(f"{stage.name}: {line}")
    for tracker in opened:
        tracker.start(config.model_dump(mode="json", by_alias=True))

    with stop.deferred():
        completed = run_steps(stage, best, config, folder, opened, logged, stop)
        if completed:
            if best is not None:
                best.restore(stage.policy)
            save_final_model(stage, folder)
        else:
            save(stage, best, folder, logged)
        for tracker in opened:
            tracker.finish()
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
        for step in _or_save(stage, best, folder, logged):
            metrics, rows = stage.source.pop_report()
            seen = step_metrics(stage, step) | values(metrics)
            if best is not None and (stage.step % every == 0 or stage.step == stage.total_steps):
                seen["eval_loss"] = validation_loss(stage.policy, stage.algorithm, stage.held_out, stage.ranks)
                best.record(seen["eval_loss"], stage.policy)
            elapsed, begun = time.perf_counter() - begun, time.perf_counter()
            timing = {"step_time": elapsed, "tokens_per_second": step.num_tokens / elapsed}
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
            if stage.step % config.save_steps == 0 and stage.step < stage.total_steps:
                try_save(stage, best, folder, logged)
    if table and stage.ranks.rank == 0:
        shown_rows = [{key: value for key, value in row.items() if key not in LOGGED_ONLY} for row in table]
        show_completions(shown_rows, f"{stage.name}: completions of the last step")
    return True


def rows_to_log(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The completions of a rollout that are logged: the first ones, and then those on which a reward failed."""
    failed = [row for row in rows[SHOWN_ROWS:] if any(FAILURES & told.keys() for told in row["details"].values())]
    return [*rows[:SHOWN_ROWS], *failed[:SHOWN_ROWS]]


def _or_save(stage: Stage, best: BestWeights | None, folder: Path, logged: JsonLines) -> Iterator[Step]:
    """The steps of a stage; if one cannot be taken for a reason that the user can mend, saves the state before it.

    Only with one rank, since the others may not have met the error, and saving takes all of them.
    """
    try:
        yield from stage
    except (RewardError, GenerationLimitError, EmptyStepsError) as error:
        if stage.ranks.world == 1 and stage.step > 0:
            try_save(stage, best, folder, logged)
            if isinstance(error, RewardError):
                error.remedy += "; go on with a changed reward by `--allow-drift`"
        raise


def _show_nothing(step: int, values: Mapping[str, float]) -> None:
    """The progress display of ranks other than 0: shows nothing."""


def save_final_model(stage: Stage, folder: Path) -> None:
    """Writes the trained model to `folder/model`; all ranks call this function, and rank 0 writes.

    A reward model is saved with the mean and standard deviation of its scores on reference rows.
    """
    is_reward_model = stage.policy.score_head is not None
    own = torch.zeros(0)
    if is_reward_model:
        own = reference_scores(stage.policy, stage.algorithm, reference_batches(stage))
    scores = torch.cat([part["scores"] for part in stage.ranks.gather_tensors({"scores": own})])
    policy = stage.policy.gathered()
    if stage.ranks.rank > 0:
        return
    assert policy is not None, "rank 0 has all weights"
    try:
        with new_folders(folder, "adapter", "model") as aside:
            if is_reward_model:
                assert isinstance(policy.score_head, nn.Linear), "a reward model has a linear score head"
                save_reward_model(policy.model, policy.score_head, stage.tokenizer, aside, scores)
            else:
                save_model(policy.model, stage.tokenizer, aside)
                if stage.report.prompt_form is not None:
                    stage.report.prompt_form.save(aside / "model")
    except SafetensorError as error:
        what = f"{folder / 'model'} cannot be written: {error}"
        raise CheckpointError(what, "check free space and permissions; the same command then goes on") from None


@torch.no_grad()
def reference_scores(policy: Policy, algorithm: Algorithm, batches: Iterable[Batch]) -> Tensor:
    """The scores that a reward model gives to all rows of the batches, (rows,) float32, in no particular order."""
    parts = (outputs.scores for batch in batches for _, outputs in policy.parts(batch, algorithm))
    return torch.cat([scores.cpu() for scores in parts if scores is not None])


def reference_batches(stage: Stage) -> list[Batch]:
    """The batches for the scores with which a reward model is normalised; each rank gets its own share.

    They are the held-out batches or, if there are none, the next training batches: `REFERENCE_ROWS` rows or one epoch.
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
    left_out = EMPTY_STEPS if step.empty else "skipped_step"
    skipped = {} if step.stepped else {left_out: 1.0}
    return seen | terms | skipped | values(step.metrics)


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


def open_trackers(settings: StageSettings, names: Sequence[str], folder: Path, run_name: str) -> list[Tracker]:
    """The trackers of a stage; `jsonl` is always among them, because resuming depends on its files."""
    every = tuple(dict.fromkeys(("jsonl", *names)))
    return make_trackers(every, folder, project="rung", run_name=run_name, base=settings.base)
