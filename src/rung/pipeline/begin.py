"""Begins or resumes a run: what it depends on is written down when it begins, and compared when it is resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rung.artifacts.claim import tidy_run
from rung.artifacts.conditions import (
    FILE,
    Conditions,
    conditions_now,
    drift,
    read_conditions,
    refuse_drift,
    short,
    write_conditions,
)
from rung.artifacts.finished import verified
from rung.artifacts.folder import CHECKPOINTS, CONFIG, DONE, EVALUATIONS, INITIAL, LINEAGE
from rung.artifacts.lineage import Change, Lineage
from rung.artifacts.records import RESTORE
from rung.artifacts.start import FILE as START_FILE
from rung.artifacts.start import Start, changed_models, write_start
from rung.distributed.ranks import Ranks
from rung.errors import CheckpointError
from rung.pipeline.check import Checked
from rung.training.checkpoint import newest_step
from rung.utils.files import sha256_file, sha256_text, write_text
from rung.utils.secrets import without_secrets
from rung.utils.yaml_file import as_yaml

_MISSING = "restore it from a backup, start a new run with `--new`, or go on without by `--allow-drift`"


def begin_run(checked: Checked, folder: Path, ranks: Ranks, *, allow_drift: bool) -> list[Change]:
    """The conditions that have changed since the run in `folder` began; none if no stage has begun.

    Unless `allow_drift`, raises ConfigError for a changed condition on which something depends that was trained or
    measured so far, and CheckpointError for a missing file.
    """
    stages = [stage.name for stage in checked.config.stages]
    begun = [stage for stage in stages if _has_begun(folder / stage)]
    if not begun:
        return []
    missing = [name for name in (CONFIG, FILE, LINEAGE) if not (folder / name).exists()]
    if missing and not allow_drift:
        what = f"{folder / missing[0]} is missing, but stage `{begun[0]}` has begun"
        raise CheckpointError(what, _MISSING)
    _check_order(folder, stages)
    before = read_conditions(folder)
    if before is not None and not missing and not allow_drift:
        _check_config(folder / CONFIG, before, checked)
    changes = drift(before, _now(checked, ranks, before)) if before is not None else []
    matters = [change for change in changes if _matters(change, checked, folder)]
    if not allow_drift:
        refuse_drift(folder, matters)
    told = [change for change in changes if change in matters or change.key.startswith("code.")]
    return told + [Change(key=name, before="written", after="missing") for name in missing]


def _check_config(file: Path, before: Conditions, checked: Checked) -> None:
    """Raises CheckpointError if the config of the run is not the one that was written.

    A process that was killed before it wrote the conditions has left the config of this command.
    """
    if before.config and sha256_file(file) not in (before.config, sha256_text(_config_text(checked))):
        raise CheckpointError(f"{file} is damaged, or was edited", _MISSING)


def _check_order(folder: Path, stages: Sequence[str]) -> None:
    """Raises CheckpointError if a stage has not finished but one after it has begun: it would be judged by that one."""
    unfinished = next((stage for stage in stages if not (folder / stage / DONE).exists()), None)
    later = stages[stages.index(unfinished) + 1 :] if unfinished is not None else ()
    for stage in later:
        if _has_begun(folder / stage):
            what = f"{folder / str(unfinished) / DONE} is missing, but stage `{stage}`, which comes after it, has begun"
            raise CheckpointError(what, RESTORE)


def _matters(change: Change, checked: Checked, folder: Path) -> bool:
    """Whether something that was trained or measured so far depends on a condition.

    Evaluations depend on items and on the code of metrics; the code of rewards matters to the stage that is under way,
    once it has a checkpoint.
    """
    stages = [folder / stage.name for stage in checked.config.stages]
    evaluated = any(any(stage.glob(f"{EVALUATIONS}*.json")) for stage in (*stages, folder / INITIAL))
    under_way = next((stage for stage in stages if not (stage / DONE).exists()), None)
    trained = under_way is not None and newest_step(under_way / CHECKPOINTS) > 0
    kind, _, name = change.key.partition(".")
    if kind == "items":
        return evaluated
    if kind == "code":
        return trained or (evaluated and name in checked.evaluations.files())
    return trained or evaluated or any((stage / DONE).exists() for stage in stages)


def write_begun(checked: Checked, folder: Path, ranks: Ranks) -> None:
    """Writes the config and the conditions of a run, and an empty lineage if there is none; called by rank 0."""
    tidy_run(folder, [stage.name for stage in checked.config.stages])
    if not (folder / LINEAGE).exists():
        Lineage().save(folder / LINEAGE)
    before = read_conditions(folder)
    write_text(folder / CONFIG, _config_text(checked))
    now = _now(checked, ranks, before)
    write_conditions(folder, now.model_copy(update={"config": sha256_file(folder / CONFIG)}))


def begin_stage(
    folder: Path, begun: Start | None, start: str, locations: Mapping[str, str], *, allow_drift: bool
) -> None:
    """Writes what a stage starts from; `begun` is what it has started from, and `locations` are its models by role.

    Raises CheckpointError for a damaged model and for a stage whose start is missing, and ConfigError for other models
    than those with which the stage began, unless `allow_drift`.
    """
    for location in locations.values():
        verified(location)
    if begun is None:
        if newest_step(folder / CHECKPOINTS) > 0:
            raise CheckpointError(f"{folder / START_FILE} is missing, but the stage has checkpoints", RESTORE)
    else:
        changed = changed_models(begun, locations)
        accept_drift(folder.parent, folder.name, changed, allowed=allow_drift)
        if not changed:
            return
    write_start(folder, start, locations)


def accept_drift(run: Path, stage: str, changed: Mapping[str, tuple[str, str]], *, allowed: bool) -> None:
    """Records what a stage reads that has changed since it began: its rows or models.

    Raises ConfigError if there are changes that are not allowed.
    """
    changes = [
        Change(key=f"{stage}.{name}", before=short(before), after=short(after), stage=stage)
        for name, (before, after) in changed.items()
    ]
    if not allowed:
        refuse_drift(run / stage, changes)
    if changes:
        Lineage.load(run / LINEAGE).with_changes(changes).save(run / LINEAGE)
        for change in changes:
            print(change.words, flush=True)


def _config_text(checked: Checked) -> str:
    return without_secrets(as_yaml(checked.config.dump()))


def _has_begun(stage: Path) -> bool:
    return (stage / START_FILE).exists() or (stage / DONE).exists()


def _now(checked: Checked, ranks: Ranks, begun: Conditions | None) -> Conditions:
    return conditions_now(checked.config.base, checked.evaluations.item_hashes(), ranks.world, begun)
