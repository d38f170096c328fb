"""Where the model of a config is: `tiny:<name>`, a folder, a hub id, or `run:NAME/stage`."""

from __future__ import annotations

from pathlib import Path

from rung.errors import ConfigError
from rung.names import inside

TINY, RUN = "tiny:", "run:"
REMEDY = "name a folder with config.json, a hub id, `run:NAME/stage`, or one of `rung list models`"


def locate(spec: str, *, base: Path, runs: Path) -> str:
    """What can be loaded: an absolute folder where `spec` means one, else `spec` itself (tiny, or on the hub).

    A folder is relative to `base`; `run:NAME/stage` is a stage of a run in the folder `runs`. Raises ConfigError where
    a stage or a folder holds no model.
    """
    if spec.startswith(TINY):
        return spec
    folder = inside(runs, *spec.removeprefix(RUN).split("/")) / "model" if spec.startswith(RUN) else base / spec
    if not folder.is_dir() and not spec.startswith((RUN, ".", "/")):
        return spec
    if not (folder / "config.json").is_file():
        raise ConfigError(f"`{spec}`: there is no model in {folder}", REMEDY)
    return str(folder.resolve())
