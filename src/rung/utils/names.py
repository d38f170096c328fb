"""Checks the names of folders: safe characters only, and no path that leads out of the parent folder."""

import re
from pathlib import Path

from rung.errors import ConfigError

_SAFE = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")


def safe_name(name: str, what: str) -> str:
    """Returns the name if it is 1 to 128 of the characters A-Z a-z 0-9 . _ - without a leading dot, else ConfigError.

    `what` says in the message what is named, such as "stage".

    >>> safe_name("dpo-2", "stage")
    'dpo-2'
    """
    if not _SAFE.fullmatch(name):
        remedy = "use 1 to 128 letters, digits, `.`, `_` and `-`, and no leading dot"
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
