"""The conditions under which a run began, `conditions.json`: versions, device, threads, code and evaluation items.

A run that goes on under other conditions is not the run that began: it is refused, or recorded with `--allow-drift`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from rung.artifacts.lineage import Change
from rung.artifacts.records import read_record
from rung.errors import ConfigError
from rung.utils.sealed import write_sealed
from rung.utils.user_files import file_digest, loaded_files
from rung.utils.versions import versions

FILE = "conditions.json"
_SHOWN = 4  # differences that an error names


class Conditions(BaseModel):
    """What the bits of a run depend on beside its config and its training data.

    `code` are the hashes of the user's files that were imported, `items` those of the sets of items that evaluations
    use: `validation`, `test` and `shots`. `threads` are those of torch in each of the `world` processes. `config` is a
    hash of the run's `config.yaml`, empty before it is written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    versions: dict[str, str]
    device: str
    threads: int
    world: int
    code: dict[str, str]
    items: dict[str, str]
    config: str = ""


def conditions_now(base: Path, items: Mapping[str, str], world: int, begun: Conditions | None) -> Conditions:
    """The conditions of this process, whose user files are named relative to `base`, the folder of the config.

    Files that were imported when the run began are among them even if this process has not imported them.
    """
    known = {name: file_digest(base / name) for name in (begun.code if begun else ())}
    return Conditions(
        versions=dict(versions()),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        threads=torch.get_num_threads(),
        world=world,
        code=known | loaded_files(base),
        items=dict(items),
    )


def write_conditions(folder: Path, conditions: Conditions) -> None:
    """Writes the conditions of a run into its folder, atomically."""
    write_sealed(folder / FILE, conditions.model_dump())


def read_conditions(folder: Path) -> Conditions | None:
    """The conditions under which the run in a folder began; None if it has not begun. Raises CheckpointError."""
    return read_record(folder / FILE, Conditions)


def drift(before: Conditions, now: Conditions) -> list[Change]:
    """The conditions that differ, as changes; the number of processes may differ, and with it that of threads.

    A file that was not imported before is no change: if the others are unchanged, it belongs to another run.
    """
    kept = {"world", "config"} | ({"threads"} if before.world != now.world else set())
    if now.device != "cpu" and before.device == now.device:
        kept.add("threads")
    changes: list[Change] = []
    for name, old in before.model_dump(exclude=kept).items():
        new = getattr(now, name)
        if not isinstance(old, dict):
            changes += [] if old == new else [Change(key=name, before=old, after=new)]
            continue
        added = () if name == "code" else new.keys() - old.keys()
        for key in (*old, *sorted(added)):
            if old.get(key) != new.get(key):
                changes.append(Change(key=f"{name}.{key}", before=short(old.get(key)), after=short(new.get(key))))
    return changes


def refuse_drift(folder: Path, changes: list[Change]) -> None:
    """Raises ConfigError, which names them, if there are changed conditions."""
    if not changes:
        return
    named = "; ".join(change.words for change in changes[:_SHOWN])
    more = f"; and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    remedy = "restore them to resume it, start a new run beside it with `--new`, or accept them by `--allow-drift`"
    raise ConfigError(f"{folder} began under other conditions: {named}{more}", remedy)


def short(value: Any) -> Any:
    """A hash by its first digits, so that a sentence can show it."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else value
