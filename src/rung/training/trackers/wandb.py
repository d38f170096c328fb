"""The tracker that logs to Weights & Biases."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rung.errors import ConfigError
from rung.training.trackers.protocol import Rows
from rung.utils.files import write_text

if TYPE_CHECKING:
    import wandb


class Wandb:
    """Logs to Weights & Biases: online if WANDB_API_KEY is set, else offline (`wandb sync` uploads the run later).

    It prints nothing and asks for nothing. The id of the run is stored in the folder, so that a resumed run keeps it.
    """

    name: ClassVar = "wandb"

    def __init__(self, folder: Path, project: str, run_name: str):
        self.folder, self.project, self.run_name = folder, project, run_name
        self._run: wandb.Run | None = None

    def start(self, run: Mapping[str, Any]) -> None:
        """Opens the run with its config. Raises ConfigError if the client fails, for example for a malformed key."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read on import: no crash reports to third parties
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        offline = not os.environ.get("WANDB_API_KEY")
        settings = wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            disable_git=True,
            x_disable_stats=offline,  # the system monitor would query a cloud address for the type of the machine
            x_disable_machine_info=offline,
        )
        try:
            self._run = wandb.init(
                project=self.project,
                name=self.run_name,
                id=self._id(),
                resume="allow",
                dir=self.folder,
                mode="offline" if offline else "online",
                config=dict(run),
                settings=settings,
            )
        except wandb.Error as error:
            remedy = "correct or unset WANDB_API_KEY (without it the run is kept offline), or leave out the tracker"
            raise ConfigError(f"trackers: wandb does not start: {error}", remedy) from error

    def log(self, step: int, values: Mapping[str, float], timing: Mapping[str, float], table: Rows = ()) -> None:
        """Logs the numbers of a step, and its completions as a `wandb.Table`."""
        assert self._run is not None, "start comes first"
        content: dict[str, Any] = {**values, **timing}
        if table:
            content["completions"] = _wandb_table(table)
        self._run.log(content, step=step)

    def finish(self) -> None:
        """Sends the remaining data and closes the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _id(self) -> str:
        file = self.folder / "wandb.id"
        if not file.exists():
            write_text(file, secrets.token_hex(8))  # not `random`, whose state belongs to training
        return file.read_text(encoding="ascii")


def _wandb_table(rows: Rows) -> wandb.Table:
    import wandb

    columns: list[Any] = list(dict.fromkeys(name for row in rows for name in row))
    data: list[Any] = [[_scalar(row.get(name)) for name in columns] for row in rows]
    return wandb.Table(columns=columns, data=data, allow_mixed_types=True)


def _scalar(value: Any) -> str | int | float | None:
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)
