"""The file `DONE` of a finished stage or run: written last, with hashes of the files that are read again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from rung.artifacts.data_card import DATA
from rung.artifacts.folder import CONFIG, DONE
from rung.artifacts.lineage import StageRecord
from rung.artifacts.records import RESTORE, read_record
from rung.errors import CheckpointError
from rung.training.trackers import COMPLETIONS, METRICS
from rung.utils.files import file_errors, sha256_file, sha256_unchanged
from rung.utils.sealed import write_sealed
from rung.utils.yaml_file import read_yaml

_STAGE_FILES = ("model/**/*", "adapter/**/*", METRICS, COMPLETIONS, DATA)
_MODELS = ("model", "adapter")


class Finished(BaseModel):
    """A finished stage (with its record) or a finished run (without one), and its files: name -> size and SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    record: StageRecord | None = None
    files: dict[str, tuple[int, str]]


def finish_stage(folder: Path, record: StageRecord) -> None:
    """Writes the file with which a stage is finished: its record, and hashes of its model, adapter and logs."""
    _write(folder, record, [file for pattern in _STAGE_FILES for file in folder.glob(pattern)])


def finish_run(folder: Path, files: Iterable[Path]) -> None:
    """Writes the file with which a run is finished, with hashes of these files in its folder."""
    _write(folder, None, files)


def finished_stage(folder: Path) -> Finished | None:
    """What a stage left when it finished; None if it has not finished. Raises CheckpointError for a damaged file."""
    found = read_record(folder / DONE, Finished)
    if found is not None and (found.record is None or found.record.stage != folder.name):
        raise CheckpointError(f"{folder / DONE} is not that of this stage", RESTORE)
    return found


def records_of(run: Path) -> list[StageRecord]:
    """The records of the finished stages of the run in a folder, in the order of its config.

    Raises CheckpointError for a damaged file, and ConfigError if the config cannot be read.
    """
    found = (finished_stage(run / stage) for stage in stages_of(run))
    return [each.record for each in found if each is not None and each.record is not None]


def stages_of(run: Path) -> list[str]:
    """The names of the stages of the run in a folder, in order; empty if the folder has no run."""
    if not (run / CONFIG).is_file():
        return []
    stages = read_yaml(run / CONFIG).get("stages")
    return [str(stage["name"]) for stage in stages or () if isinstance(stage, dict) and "name" in stage]


def run_is_finished(folder: Path) -> bool:
    """Whether the folder has a finished run, whose report is complete and undamaged."""
    try:
        found = read_record(folder / DONE, Finished)
        return found is not None and found.record is None and not _faults(folder, found, tuple(found.files))
    except CheckpointError:
        return False


def check_files(folder: Path, found: Finished, *prefixes: str) -> None:
    """Raises CheckpointError if a file whose name begins with one of `prefixes` is missing, damaged or new.

    A prefix that ends in `/` is a folder.
    """
    faults = _faults(folder, found, prefixes)
    if faults:
        raise CheckpointError(faults[0], RESTORE)


def verified(location: str) -> str:
    """The location of a model; raises CheckpointError if it is that of a finished stage and its files have changed."""
    folder = Path(location)
    found = finished_stage(folder.parent) if folder.name in _MODELS and (folder.parent / DONE).exists() else None
    if found is not None:
        check_files(folder.parent, found, f"{folder.name}/")
    return location


def _faults(folder: Path, found: Finished, prefixes: Sequence[str]) -> list[str]:
    named = {name: expected for name, expected in found.files.items() if name.startswith(tuple(prefixes))}
    with file_errors(folder):
        there = [file for prefix in prefixes if prefix.endswith("/") for file in (folder / prefix).rglob("*")]
        new = [file for file in there if file.is_file() and str(file.relative_to(folder)) not in found.files]
        faults = [fault for name, expected in named.items() if (fault := _fault(folder / name, *expected))]
    return faults + [f"{file} was added after {folder} was finished" for file in new]


def _fault(file: Path, size: int, sha256: str) -> str | None:
    if not file.is_file():
        return f"{file} is missing"
    found = file.stat().st_size
    if found != size:
        return f"{file} has {found} bytes, not the {size} with which it was finished"
    return None if sha256_unchanged(file) == sha256 else f"{file} is damaged, or was edited after it was finished"


def _write(folder: Path, record: StageRecord | None, files: Iterable[Path]) -> None:
    with file_errors(folder):
        hashed = {
            str(file.relative_to(folder)): (file.stat().st_size, sha256_file(file))
            for file in sorted(files)
            if file.is_file()
        }
    write_sealed(folder / DONE, Finished(record=record, files=hashed).model_dump(mode="json"))
