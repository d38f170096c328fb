"""Finds a model by the name that a config or command gives: `tiny:<name>`, a folder, a hub id, a run, or a stage."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from rung.artifacts.finished import finished_stage, records_of, stages_of
from rung.artifacts.folder import DONE
from rung.artifacts.lineage import Lineage
from rung.errors import CheckpointError, ConfigError
from rung.models.names import ADAPTER, MODEL, REMEDY, TINY
from rung.tiny.models import NAMES
from rung.utils.names import inside

RUN = "run:"
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def locate(spec: str, *, base: Path, runs: Path) -> str:
    """The location from which to load the model `spec`: an absolute folder, or `spec` itself (`tiny:` name or hub id).

    `spec` may be a folder relative to `base`, with a model or an adapter in it, or the folder of a run or of a stage.
    `run:NAME/stage` is a stage of a run in the folder `runs`. `run:NAME`, like the folder of a run, stands for its last
    accepted stage. Raises ConfigError if the folder, run or stage does not exist, has no model, or has not finished.
    """
    if spec.startswith(TINY):
        return spec
    if spec.startswith(RUN):
        return _named_run(spec, base, runs)
    folder = base / spec
    if folder.is_dir():
        return _in_folder(spec, folder.resolve(), base, runs)
    if _HUB_ID.fullmatch(spec) and not folder.resolve().is_relative_to(runs.resolve()):
        return spec
    siblings = [f"{spec[: len(spec) - len(folder.name)]}{each}" for each in _folders(folder.parent)]
    raise ConfigError(f"`{spec}`: there is no model in {folder}", _nearest(spec, siblings))


def suggest_models(spec: str, runs: Path) -> str:
    """The second line of the error for an unknown model: runs, stages and tiny models with similar names."""
    stages = [f"{run}/{stage}" for run in _runs(runs) for stage in stages_of(runs / run)]
    full = {name: f"{RUN}{name}" for name in (*_runs(runs), *stages)} | {name: f"{TINY}{name}" for name in NAMES}
    return _nearest(spec, [*full, *full.values()], full)


def _named_run(spec: str, base: Path, runs: Path) -> str:
    name, *stage = spec.removeprefix(RUN).split("/")
    if len(stage) > 1:
        raise ConfigError(
            f"`{spec}` is not `run:NAME/stage`", "write `run:NAME/stage`, or `run:NAME` for its last accepted stage"
        )
    folder = inside(runs, name)
    if not stages_of(folder):
        known = [f"{RUN}{'/'.join([run, *stage])}" for run in _runs(runs)]
        raise ConfigError(f"`{spec}`: there is no run in {folder}", _nearest(spec, known))
    return _model_of_stage(spec, folder, stage[0], base, runs) if stage else _model_of_run(spec, folder, base, runs)


def _in_folder(spec: str, folder: Path, base: Path, runs: Path) -> str:
    if (folder / MODEL).is_file() or (folder / ADAPTER).is_file():
        stage = folder.parent
        if stage.name in stages_of(stage.parent):
            _check_done(spec, stage.parent, stage.name)
        return str(folder)
    if stages_of(folder):
        return _model_of_run(spec, folder, base, runs)
    if folder.name in stages_of(folder.parent):
        return _model_of_stage(spec, folder.parent, folder.name, base, runs)
    raise ConfigError(f"`{spec}`: there is no model in {folder}", REMEDY)


def _model_of_run(spec: str, run: Path, base: Path, runs: Path) -> str:
    """The model of the last accepted stage of a finished run."""
    if not (run / DONE).exists():
        raise ConfigError(f"`{spec}`: the run in {run} has not finished", _resume_advice(run))
    last = Lineage(stages=tuple(records_of(run))).last_accepted()
    if last is None:
        named = ", ".join(f"`{RUN}{run.name}/{stage}`" for stage in stages_of(run))
        raise ConfigError(f"`{spec}`: no stage of the run in {run} was promoted", f"name a stage: {named}")
    return _model_of_stage(spec, run, last.stage, base, runs)


def _model_of_stage(spec: str, run: Path, stage: str, base: Path, runs: Path) -> str:
    """The model of a stage; for a stage that trains nothing, the model that it started from."""
    if stage not in stages_of(run):
        known = {name: f"{RUN}{run.name}/{name}" for name in stages_of(run)}
        raise ConfigError(f"`{spec}`: the run in {run} has no stage `{stage}`", _nearest(stage, list(known), known))
    _check_done(spec, run, stage)
    folder = run / stage / "model"
    if (folder / MODEL).is_file():
        return str(folder.resolve())
    found = finished_stage(run / stage)
    record = found.record if found is not None else None
    if record is None or record.weights is not None:
        raise CheckpointError(f"`{spec}`: {folder} is missing", "restore it, or name another stage")
    if record.start in stages_of(run):
        return _model_of_stage(spec, run, record.start, base, runs)
    return locate(record.start, base=base, runs=runs)


def _check_done(spec: str, run: Path, stage: str) -> None:
    if not (run / stage / DONE).exists():
        raise ConfigError(f"`{spec}`: stage `{stage}` of the run in {run} has not finished", _resume_advice(run))


def _resume_advice(run: Path) -> str:
    done = ", ".join(f"`{RUN}{run.name}/{stage}`" for stage in stages_of(run) if (run / stage / DONE).exists())
    return f"resume it by `rung run` with its config, or name a finished stage ({done or 'none'})"


def _runs(runs: Path) -> list[str]:
    return [name for name in _folders(runs) if stages_of(runs / name)]


def _folders(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []


def _nearest(word: str, known: Sequence[str], full: dict[str, str] | None = None) -> str:
    """The second line of the error for an unknown name: similar known names, else the ways to refer to a model.

    `full` maps known names to the form in which they are suggested.
    """
    found = dict.fromkeys((full or {}).get(name, name) for name in difflib.get_close_matches(word, known, n=3))
    return f"did you mean {' or '.join(f'`{name}`' for name in found)}? otherwise {REMEDY}" if found else REMEDY
