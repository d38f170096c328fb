"""Checks names and folders that are written to: safe characters only, and no path or link that leads out of them."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from rung.errors import CheckpointError, ConfigError

_SAFE = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}(?<!\.)")
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # no names of files on Windows


def safe_name(name: str, what: str) -> str:
    """Returns the name if it is 1 to 128 of the characters A-Z a-z 0-9 . _ - without a dot at either end.

    Raises ConfigError for other names and for those of devices on Windows, such as `con`. `what` says in the message
    what is named, such as "stage".

    >>> safe_name("dpo-2", "stage")
    'dpo-2'
    """
    if not _SAFE.fullmatch(name) or _DEVICE.fullmatch(name):
        remedy = "use 1 to 128 letters, digits, `.`, `_` and `-`, no dot at either end, and no device such as `con`"
        raise ConfigError(f"{what} name {name!r} cannot be used as a folder name", remedy)
    return name


def inside(root: Path, *names: str) -> Path:
    """`root/name/...`; raises ConfigError for a name that is not safe, or a link that leads out of `root`.

    >>> inside(Path("runs"), "pharmacy", "dpo").as_posix()
    'runs/pharmacy/dpo'
    """
    path = root.joinpath(*(safe_name(name, "folder") for name in names))
    if not path.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"{path} leads out of {root}", "remove the link, or choose another name")
    return path


def refuse_links(folder: Path) -> None:
    """Raises CheckpointError if a folder contains a link that leads out of it, or a file that is not a regular one.

    To be called before the files of a run are read or written: a log that is a link would be truncated where it leads,
    and reading a pipe may never end. Links to something inside the folder are allowed; nothing is opened or followed.
    The folders of the wandb client, which links its own logs, are left out.
    """
    root = folder.resolve()
    for entry in _entries(root):
        place = folder / os.path.relpath(entry.path, root)
        if entry.is_symlink():
            target = Path(entry.path).resolve()
            if not target.is_relative_to(root):
                raise CheckpointError(f"{place} is a link to {target}, outside of the run", "remove the link")
        elif not entry.is_file():
            raise CheckpointError(f"{place} is neither a file nor a folder", "remove it")


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Everything in a folder and its subfolders, except folders that are no links and what is in those of wandb."""
    pending = [str(folder)] if folder.is_dir() else []
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending += [entry.path] if entry.name != "wandb" else []
                else:
                    yield entry
