"""The models from which a stage starts, `start.json`: chosen once, written before it trains, and read ever after."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from rung.artifacts.records import RESTORE, read_record
from rung.errors import CheckpointError
from rung.models.adapters import base_of
from rung.models.names import TINY
from rung.utils.files import file_errors, sha256_unchanged
from rung.utils.sealed import write_sealed
from rung.utils.versions import versions

FILE = "start.json"


class Start(BaseModel):
    """What a stage starts from, as in `StageRecord.start`, and a hash of each of its models.

    The keys of `models` are roles: `start`, `reference`, `critic`, `teacher`, and `reward model 1`, `2` ...
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    start: str
    models: dict[str, str]


def write_start(folder: Path, start: str, locations: Mapping[str, str]) -> None:
    """Writes the start of a stage into its folder; `locations` are those of its models, by role."""
    models = {role: model_hash(location) for role, location in locations.items()}
    write_sealed(folder / FILE, Start(stage=folder.name, start=start, models=models).model_dump())


def read_start(folder: Path) -> Start | None:
    """The start of the stage in a folder; None if it has not begun. Raises CheckpointError for a damaged file."""
    found = read_record(folder / FILE, Start)
    if found is not None and found.stage != folder.name:
        raise CheckpointError(f"{folder / FILE} belongs to stage `{found.stage}`", RESTORE)
    return found


def changed_models(begun: Start, locations: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The roles whose models are not those with which a stage began, with the hashes of before and now."""
    now = {role: model_hash(location) for role, location in locations.items()}
    roles = [role for role in (*begun.models, *now) if begun.models.get(role) != now.get(role)]
    return {role: (begun.models.get(role, "none"), now.get(role, "none")) for role in roles}


def model_hash(location: str) -> str:
    """A hash of the model at a location, 64 hex digits: of the files in its folder, and of those of an adapter's base.

    For a tiny model it is a hash of its name and the version of rung; for a hub id, of the commit that is loaded.
    Raises CheckpointError if a file cannot be read.
    """
    if location.startswith(TINY):
        return _hash(f"{location} {versions()['rung']}")
    folder = Path(location)
    if not folder.is_dir():
        return _hash(f"{location} {_commit(location)}")
    with file_errors(folder):
        files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
        lines = [f"{file.name} {sha256_unchanged(file)}" for file in files]
    base = base_of(location)
    return _hash("\n".join(lines if base == location else [*lines, model_hash(base)]))


def _commit(hub_id: str) -> str:
    from transformers import AutoConfig

    return str(getattr(AutoConfig.from_pretrained(hub_id, trust_remote_code=False), "_commit_hash", None))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
