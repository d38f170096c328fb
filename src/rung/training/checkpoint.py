"""Crash-safe checkpoints: written to a temporary folder, hashed, fsynced, then renamed, and verified by reading back.

A checkpoint is a folder such as `step-000100` with safetensors, JSON, and a manifest of sizes and hashes; no code is
run on loading. Only rank 0 saves checkpoints and searches for the newest; the other ranks `load` the one it found.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rung.errors import CheckpointError
from rung.training.run_state import RunState
from rung.utils.files import file_error, remove_folder, sha256_file, sync, temporary_name
from rung.utils.files import tidy as remove_temporary
from rung.utils.versions import versions

SCHEMA = 1
TENSORS, VALUES, MANIFEST = "state.safetensors", "state.json", "manifest.json"
SPARE = 1.2  # free space that a save needs, in sizes of its tensors
_STEP = re.compile(r"step-(\d{6,})")
_log = logging.getLogger(__name__)


def checkpoint_path(folder: Path, step: int) -> Path:
    """The folder of the checkpoint of a step, within the folder of all checkpoints.

    >>> checkpoint_path(Path("checkpoints"), 100).name
    'step-000100'
    """
    return folder / f"step-{step:06d}"


def save(folder: Path, step: int, state: RunState, keep: int = 2) -> Path:
    """Saves a checkpoint and reads it back, and only then deletes all but the newest `keep` (>= 1) checkpoints.

    An existing checkpoint of the same step is replaced. Returns the folder of the checkpoint. Raises CheckpointError if
    there is too little space, or if writing fails; the earlier checkpoints are then unchanged.
    """
    assert keep >= 1, "`keep` must be at least 1"
    final = checkpoint_path(folder, step)
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(folder, state)
        try:
            _publish(_write(final, step, state), final)
        except BaseException:
            with suppress(OSError, CheckpointError):
                tidy(folder)
            raise
        for path in _checkpoints(folder)[keep:]:
            if path != final:
                remove_folder(path)
    return final


def load(checkpoint: Path) -> RunState:
    """The state in the folder of a checkpoint. Raises CheckpointError if the checkpoint is incomplete or damaged."""
    with _disk_errors(checkpoint):
        reason = fault(checkpoint)
        if reason:
            raise CheckpointError(f"{checkpoint}: {reason}", "use another checkpoint of this run")
        return _read(checkpoint)


def load_newest(folder: Path) -> tuple[int, RunState] | None:
    """The step and the state of the newest valid checkpoint; None if none was ever saved.

    First removes what a killed save has left behind. A checkpoint that is invalid or cannot be read is renamed to
    `.bad` with a warning, and the next older one is tried. If there are checkpoints but none is valid, raises
    CheckpointError, so that training never starts from the beginning without notice.
    """
    with _disk_errors(folder):
        if not folder.is_dir():
            return None
        tidy(folder)
        for path in _checkpoints(folder):
            reason = fault(path)
            if reason is None:
                try:
                    return _step_of(path), _read(path)
                except (OSError, SafetensorError) as error:
                    reason = f"it cannot be read: {error}"
            _set_aside(path, reason)
        present = sorted(path.name for path in folder.glob("step-*"))
    if present:
        what = f"{folder}: none of its checkpoints is valid ({', '.join(present)})"
        raise CheckpointError(what, "restore one from a backup, or start afresh with `rung run --new`")
    return None


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint in the folder of all checkpoints, valid or not; 0 if there is none."""
    return max(map(_step_of, _checkpoints(folder)), default=0) if folder.is_dir() else 0


def fault(checkpoint: Path) -> str | None:
    """Why a checkpoint is invalid, in a few words; None if it is complete and undamaged."""
    try:
        return _fault(checkpoint)
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except OSError as error:
        return f"{Path(error.filename or checkpoint).name} cannot be read: {error.strerror}"


def _fault(checkpoint: Path) -> str | None:
    manifest = _manifest((checkpoint / MANIFEST).read_bytes())
    if manifest is None:
        return f"{MANIFEST} is damaged"
    if manifest["step"] != _step_of(checkpoint):
        return f"{MANIFEST} belongs to step {manifest['step']}"
    for name, expected in manifest["files"].items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected["size"]:
            return f"{name} has {file.stat().st_size} bytes, not {expected['size']}"
        if sha256_file(file) != expected["sha256"]:
            return f"{name} is damaged"
    return None


def tidy(folder: Path) -> None:
    """Removes what a killed or failed save has left behind, and restores a checkpoint that it was replacing."""
    remove_temporary(folder)
    for old in folder.glob("step-*.old"):
        home = old.with_suffix("")
        if home.exists():
            remove_folder(old)
        else:
            os.rename(old, home)


def _check_space(folder: Path, state: RunState) -> None:
    """Raises CheckpointError if the disk has not enough free space for a checkpoint of this state."""
    needed = int(SPARE * sum(tensor.nbytes for tensor in state.tensors.values()))
    free = shutil.disk_usage(folder).free
    if free < needed:
        what = f"{folder}: a checkpoint needs {needed / 2**20:.0f} MiB, but {free / 2**20:.0f} MiB are free"
        raise CheckpointError(what, "free some space on this disk; older checkpoints are kept")


def _write(final: Path, step: int, state: RunState) -> Path:
    """Writes a complete checkpoint to a folder with a temporary name, fsyncs it, and returns the folder."""
    aside = temporary_name(final)
    aside.mkdir()
    save_file(_storable(state.tensors), aside / TENSORS)
    (aside / VALUES).write_text(json.dumps(state.values), encoding="utf-8")
    files = {}
    for name in (TENSORS, VALUES):
        sync(aside / name)
        files[name] = {"size": (aside / name).stat().st_size, "sha256": sha256_file(aside / name)}
    body = {"schema": SCHEMA, "step": step, "versions": dict(versions()), "files": files}
    (aside / MANIFEST).write_bytes(_rendered(body))
    sync(aside / MANIFEST)
    sync(aside)
    return aside


def _publish(aside: Path, final: Path) -> None:
    """Renames a complete checkpoint to its final name, and reads it back before the replaced one is deleted."""
    old = final.with_name(f"{final.name}.old")
    if final.exists():
        os.rename(final, old)  # a folder cannot be renamed onto another
    os.rename(aside, final)
    sync(final.parent)
    reason = fault(final)
    if reason:
        _set_aside(final, reason)
        raise CheckpointError(f"{final} cannot be read back: {reason}", "check the disk; older checkpoints are kept")
    if old.exists():
        remove_folder(old)


def _read(checkpoint: Path) -> RunState:
    manifest = json.loads((checkpoint / MANIFEST).read_bytes())
    if manifest["schema"] != SCHEMA:
        written = f"schema {manifest['schema']}, rung {manifest['versions']['rung']}"
        remedy = "resume it with that version, or start afresh with `rung run --new`"
        raise CheckpointError(f"{checkpoint} was written in {written}, but this rung reads schema {SCHEMA}", remedy)
    values = json.loads((checkpoint / VALUES).read_bytes())
    return RunState(load_file(checkpoint / TENSORS), values)


def _rendered(body: Mapping[str, Any]) -> bytes:
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1).encode()


def _manifest(raw: bytes) -> dict[str, Any] | None:
    """The content of a manifest; None if its bytes are not exactly those that were written."""
    try:
        body = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    body.pop("sha256", None)
    return body if _rendered(body) == raw else None


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the form that safetensors requires: on the CPU, contiguous, without shared storage."""
    stored: dict[str, Tensor] = {}
    storages: set[tuple] = set()
    for name, tensor in tensors.items():
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        shared = storage in storages and tensor.numel() > 0
        storages.add(storage)
        stored[name] = (tensor.detach().clone() if shared else tensor.detach()).cpu().contiguous()
    return stored


def _checkpoints(folder: Path) -> list[Path]:
    """The folders of the checkpoints, the newest step first, without those that were renamed to `.bad`."""
    found = [path for path in folder.iterdir() if _STEP.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=_step_of, reverse=True)


def _step_of(checkpoint: Path) -> int:
    match = _STEP.fullmatch(checkpoint.name)
    return int(match[1]) if match else -1


def _set_aside(checkpoint: Path, reason: str) -> None:
    bad = checkpoint.with_name(f"{checkpoint.name}.bad")
    try:
        if bad.exists():
            shutil.rmtree(bad)
        os.rename(checkpoint, bad)
    except OSError as error:
        _log.warning("warning: checkpoint %s is not valid (%s) and stays there: %s", checkpoint, reason, error.strerror)
    else:
        _log.warning("warning: checkpoint %s is not valid (%s); renamed to %s", checkpoint, reason, bad.name)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise file_error(error, path) from error
    except SafetensorError as error:
        raise CheckpointError(f"{path}: {error}", "check free space and permissions of this folder") from error
