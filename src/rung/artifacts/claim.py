"""Chooses the folder of a run and claims it, so that two processes never write into the same one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

from rung.artifacts.finished import run_is_finished
from rung.artifacts.folder import INITIAL
from rung.artifacts.lock import LOCK, locked
from rung.config import PathConfig
from rung.distributed.ranks import Ranks
from rung.utils.files import file_errors, tidy
from rung.utils.names import inside, refuse_links


@contextmanager
def claimed(config: PathConfig, new: bool, ranks: Ranks) -> Iterator[Path]:
    """Gives the folder of a run, `output/name`, locked for the processes of this run; called by all ranks.

    With `new`, it is the first of `name`, `name-2`, `name-3` ... that is not taken. A finished run is not locked.
    Raises InUseError if another process uses the folder, ConfigError for a name or link that leads out of `output`,
    and CheckpointError for a link in the folder that leads out of it, or if the disk refuses.
    """
    root = Path(config.output)
    with ExitStack() as stack:
        name = config.name
        if ranks.rank == 0:
            folder = _new_folder(root, name) if new else inside(root, name)
            # a process that was killed between the last file and its end has left its lock
            if not run_is_finished(folder) or (folder / LOCK).exists():
                stack.enter_context(locked(folder))
            name = folder.name
        chosen = inside(root, ranks.gather(name)[0])
        refuse_links(chosen)
        yield chosen


def tidy_run(folder: Path, stages: Iterable[str]) -> None:
    """Removes what a killed process has left in the folders of a run and of its stages. Raises CheckpointError."""
    for each in (folder, *(folder / stage for stage in (*stages, INITIAL))):
        if each.is_dir():
            tidy(each)


def _new_folder(root: Path, name: str) -> Path:
    """Creates the first of `name`, `name-2`, `name-3` ... that does not exist; two processes get different ones."""
    for number in count(1):
        folder = inside(root, name if number == 1 else f"{name}-{number}")
        with file_errors(folder):
            root.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                folder.mkdir()
                return folder
    raise AssertionError("there is always another number")
