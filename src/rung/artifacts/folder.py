"""The folder of a run: its name, and the names of its files."""

from __future__ import annotations

from pathlib import Path

from rung.config import PathConfig
from rung.utils.names import inside, refuse_links

CONFIG, LINEAGE, REPORT, DONE = "config.yaml", "lineage.json", "report.md", "DONE"
CHECKPOINTS, EVALUATIONS = "checkpoints", "evaluation"  # in the folder of a stage; the second begins the file names
FINISHED = "report.html"  # the last file that a run writes


def run_folder(config: PathConfig, new: bool) -> Path:
    """The folder of a run, `output/name`; with `new`, the first of `name`, `name-2`, `name-3` ... that is not taken.

    Raises ConfigError or CheckpointError if it is, or contains, a link that leads out (see `refuse_links`).
    """
    root = Path(config.output)
    folder, number = inside(root, config.name), 2
    while new and folder.exists():
        folder, number = inside(root, f"{config.name}-{number}"), number + 1
    refuse_links(folder)
    return folder
