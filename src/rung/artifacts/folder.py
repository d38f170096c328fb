"""The folder of a run: its name, the names of its files, and a check that its config has not changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rung.config import PathConfig
from rung.config.migration import spelling
from rung.errors import ConfigError
from rung.utils.names import inside
from rung.utils.yaml_file import as_yaml, read_yaml

CONFIG, LINEAGE, REPORT, DONE = "config.yaml", "lineage.json", "report.md", "DONE"
FINISHED = "report.html"  # the last file that a run writes


def run_folder(config: PathConfig, new: bool) -> Path:
    """The folder of a run, `output/name`; with `new`, the first of `name`, `name-2`, `name-3` ... that is not taken."""
    root = Path(config.output)
    folder, number = inside(root, config.name), 2
    while new and folder.exists():
        folder, number = inside(root, f"{config.name}-{number}"), number + 1
    return folder


def date_of(config: PathConfig, folder: Path) -> date:
    """The date that chat templates write in a run: that of the config, else that with which the run began, else today.

    A run that began with a version of rung that recorded no date takes the date of today.
    """
    if config.date != "today":
        return config.date
    begun = read_yaml(folder / CONFIG).get("date") if (folder / CONFIG).exists() else None
    return date.fromisoformat(str(begun)) if begun not in (None, "today") else date.today()


def refuse_changes(config: PathConfig, folder: Path) -> None:
    """Raises ConfigError, naming the changed keys, if `folder` has a run with another config than `config`.

    Both configs are resolved (without `auto`). Keys that are missing in the earlier config are compared by their
    defaults, renamed keys under their new names.
    """
    if not (folder / CONFIG).exists():
        return
    written = read_yaml(folder / CONFIG)
    before = _current({"date": config.dump()["date"], **written})
    now = yaml.safe_load(as_yaml(config.dump()))
    if changed := sorted(_changed(before, now)):
        what = f"{folder} holds a run of another config; changed: {', '.join(changed)}"
        raise ConfigError(what, "restore these keys to resume it, or start a new run beside it with `--new`")


def _current(written: Mapping[str, Any]) -> dict[str, Any]:
    """A config that an earlier version of rung wrote, with today's keys; only renamed if it is no longer valid."""
    renamed = spelling().renamed

    def translated(value: object) -> object:
        if isinstance(value, Mapping):
            return {renamed.get(key, key): translated(child) for key, child in value.items()}
        return [translated(child) for child in value] if isinstance(value, list) else value

    plain = {key: translated(value) for key, value in written.items()}
    try:
        return yaml.safe_load(as_yaml(PathConfig.model_validate(plain).dump()))
    except ValidationError:
        return plain


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """The dotted keys whose values differ; lists of named entries are compared by name, and `output` is ignored."""
    for key in {*before, *now} - {"output"}:
        old, new = _by_name(before.get(key)), _by_name(now.get(key))
        if isinstance(old, Mapping) and isinstance(new, Mapping) and (key != "stages" or list(old) == list(new)):
            yield from (inner if key == "stages" else f"{key}.{inner}" for inner in _changed(old, new))
        elif before.get(key) != now.get(key):
            yield key


def _by_name(value: object) -> object:
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        return {item["name"]: item for item in value}
    return value
