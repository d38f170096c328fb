"""A rank of a run that fails in one way or another while the others wait."""

import os
import signal
import sys
import time
from pathlib import Path

from rung.distributed import failures
from rung.errors import ConfigError
from rung.utils.signals import StopFlag


def watched_rank(folder: Path, rank: int, world: int, port: int, how: str) -> None:
    """A rank that does `how` once all ranks are watched; what it says goes to a file."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    failures.SECONDS = 0.05
    sys.stderr = (folder / f"rank{rank}.txt").open("w", buffering=1)
    try:
        with failures.watch_ranks(rank, world):
            (folder / f"rank{rank}.pid").write_text(str(os.getpid()))
            while len(list(folder.glob("*.pid"))) < world:
                time.sleep(0.01)
            act(how)
    except Exception as error:
        print(type(error).__name__, str(error), *getattr(error, "__notes__", ()), file=sys.stderr)
        os._exit(2 if isinstance(error, ConfigError) else 1)
    print("finished", file=sys.stderr)
    os._exit(0)


def act(how: str) -> None:
    """Waits for long, or ends in the way that `how` says."""
    if how == "refuses":
        raise ConfigError("there is no judge", "name one")
    if how == "raises":
        raise ValueError("no judge")
    if how == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "is stopped":
        with StopFlag():
            os.kill(os.getpid(), signal.SIGTERM)
    if how == "waits":
        time.sleep(60)


def orphaned(folder: Path, rank: int, world: int, port: int, how: str) -> None:
    """Starts the rank in a child, and ends before it."""
    if os.fork() == 0:
        watched_rank(folder, rank, world, port, how)
    while not (folder / f"rank{rank}.pid").exists():
        time.sleep(0.01)
    os._exit(0)
