"""Where the numbers of a run go: JSON lines in its folder, and Weights & Biases. Rank 0 alone tracks."""

from __future__ import annotations

import difflib
import json
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rung.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import wandb

METRICS, TIMING, COMPLETIONS = "metrics.jsonl", "timing.jsonl", "completions.jsonl"
Rows = Sequence[Mapping[str, Any]]


class Tracker(Protocol):
    """Three methods; making one touches nothing, `start` opens it."""

    def start(self, run: Mapping[str, Any]) -> None:
        """Begin, or go on with, the run of a resolved config."""
        ...

    def log(self, step: int, values: Mapping[str, float], timing: Mapping[str, float], table: Rows = ()) -> None:
        """Keep one step: reproducible `values`, clock readings in `timing`, and rows of sampled completions."""
        ...

    def finish(self) -> None:
        """End the run."""
        ...


def make_trackers(names: Sequence[str], folder: Path, *, project: str, run_name: str) -> list[Tracker]:
    """The trackers of a run folder by name (`jsonl`, `wandb`), each once; ConfigError for another name."""
    for name in names:
        if name not in _TRACKERS:
            near = difflib.get_close_matches(name, _TRACKERS, n=1) or sorted(_TRACKERS)
            raise ConfigError(f"trackers: there is no tracker {name!r}", f"did you mean {' or '.join(near)}?")
    return [_TRACKERS[name](folder, project, run_name) for name in dict.fromkeys(names)]


class JsonLines:
    """One JSON object a line: a step in metrics.jsonl and timing.jsonl, a sampled completion in completions.jsonl.

    metrics.jsonl and completions.jsonl hold no clock reading, so that equal runs write equal bytes. Keys stay in the
    order given; a number that is not finite is written as null, as JSON has no other word for it.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def start(self, run: Mapping[str, Any]) -> None:
        """Make the folder; lines are added to what is there."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def log(self, step: int, values: Mapping[str, float], timing: Mapping[str, float], table: Rows = ()) -> None:
        """Add a line to metrics.jsonl, one to timing.jsonl where there is timing, one a row to completions.jsonl."""
        self._append(METRICS, [{"step": step, **values}])
        self._append(TIMING, [{"step": step, **timing}] if timing else [])
        self._append(COMPLETIONS, [{"step": step, **row} for row in table])

    def finish(self) -> None:
        """Nothing is left open."""

    def offset(self) -> dict[str, int]:
        """Bytes of each file, for a checkpoint; they are on the disk when this returns."""
        sizes = {}
        for name in (METRICS, TIMING, COMPLETIONS):
            if (self.folder / name).exists():
                with (self.folder / name).open("rb") as file:
                    os.fsync(file.fileno())
                    sizes[name] = os.fstat(file.fileno()).st_size
        return sizes

    def truncate(self, offsets: Mapping[str, int]) -> None:
        """Cut each file to its bytes at the checkpoint (0 where it has none there), before a run goes on.

        Raises CheckpointError where a file is shorter than the checkpoint knows it.
        """
        for name in (METRICS, TIMING, COMPLETIONS):
            file, size = self.folder / name, offsets.get(name, 0)
            there = file.stat().st_size if file.exists() else 0
            if there < size:
                what = f"{file} has {there} bytes, {size} when the checkpoint was saved"
                raise CheckpointError(what, "bring the file back, or start afresh with `rung run --new`")
            if there > size:
                os.truncate(file, size)

    def _append(self, name: str, rows: Rows) -> None:
        if rows:
            text = "".join(json.dumps(_plain(row), ensure_ascii=False) + "\n" for row in rows)
            with (self.folder / name).open("ab") as file:
                # what UTF-8 cannot hold, a lone surrogate, is thereby written as JSON's own \udxxx
                file.write(text.encode("utf-8", errors="backslashreplace"))


class Wandb:
    """Weights & Biases by its own client: online with WANDB_API_KEY, else offline (`wandb sync` sends it later).

    Never asks and prints nothing. The run's id is kept in the folder, so that a resumed run goes on under it.
    """

    def __init__(self, folder: Path, project: str, run_name: str):
        self.folder, self.project, self.run_name = folder, project, run_name
        self._run: wandb.Run | None = None

    def start(self, run: Mapping[str, Any]) -> None:
        """Open the run with its config; ConfigError where the client refuses, for instance a malformed key."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read on import: no crash reports to third parties
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        offline = not os.environ.get("WANDB_API_KEY")
        settings = wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            disable_git=True,
            x_disable_stats=offline,  # the monitor asks a cloud address for the machine's kind
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
        """Send the numbers of a step, and its completions as a `wandb.Table`."""
        assert self._run is not None, "start comes first"
        content: dict[str, Any] = {**values, **timing}
        if table:
            content["completions"] = _wandb_table(table)
        self._run.log(content, step=step)

    def finish(self) -> None:
        """Close the run; what is still to be sent is sent first."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _id(self) -> str:
        file = self.folder / "wandb.id"
        if not file.exists():
            file.write_text(secrets.token_hex(8), encoding="ascii")  # Python's own generator belongs to the training
        return file.read_text(encoding="ascii")


_TRACKERS: dict[str, Callable[[Path, str, str], Tracker]] = {
    "jsonl": lambda folder, project, run_name: JsonLines(folder),
    "wandb": Wandb,
}


def _wandb_table(rows: Rows) -> wandb.Table:
    import wandb

    columns: list[Any] = list(dict.fromkeys(name for row in rows for name in row))
    data: list[Any] = [[_scalar(row.get(name)) for name in columns] for row in rows]
    return wandb.Table(columns=columns, data=data, allow_mixed_types=True)


def _scalar(value: Any) -> str | int | float | None:
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """A JSON value without numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(child) for key, child in value.items()}
    return [_plain(child) for child in value] if isinstance(value, list | tuple) else value
