"""The folder of a run: its name, the files in it, and whether it belongs to a config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rung.config.load import read_yaml
from rung.errors import ConfigError
from rung.names import inside

if TYPE_CHECKING:
    from rung.config import PathConfig

CONFIG, LINEAGE, REPORT, DONE = "config.yaml", "lineage.json", "report.md", "DONE"
FINISHED = "report.html"  # the last file that a run writes


def run_folder(config: PathConfig, new: bool) -> Path:
    """The folder of a run: by its name, and if `new` the first free of `name`, `name-2`, `name-3` ..."""
    root = Path(config.output)
    folder, number = inside(root, config.name), 2
    while new and folder.exists():
        folder, number = inside(root, f"{config.name}-{number}"), number + 1
    return folder


def refuse_changes(config: PathConfig, folder: Path) -> None:
    """Raises ConfigError, naming the keys, where the folder holds a run of another config; both are resolved."""
    if not (folder / CONFIG).exists():
        return
    before, now = read_yaml(folder / CONFIG), yaml.safe_load(as_yaml(config.dump()))
    if changed := sorted(_changed(before, now)):
        what = f"{folder} holds a run of another config; changed: {', '.join(changed)}"
        raise ConfigError(what, "go on with the config of before, or start beside it with `--new`")


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """The dotted keys whose values differ; stages go by name, and where the runs lie is no matter."""
    for key in {*before, *now} - {"output"}:
        old, new = _by_name(before.get(key)), _by_name(now.get(key))
        if isinstance(old, Mapping) and isinstance(new, Mapping) and (key != "stages" or list(old) == list(new)):
            yield from (inner if key == "stages" else f"{key}.{inner}" for inner in _changed(old, new))
        elif old != new:
            yield key


def _by_name(value: object) -> object:
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        return {item["name"]: item for item in value}
    return value


def as_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML, keys in their order."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
