"""Names that become folders: safe characters only, and never outside the folder that they belong to."""

import re
from pathlib import Path

from rung.errors import ConfigError

_SAFE = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")


def safe_name(name: str, what: str) -> str:
    """The name, where it is 1 to 128 of the characters A-Z a-z 0-9 . _ - and has no leading dot; ConfigError otherwise.

    `what` says whose name it is, for the message.

    >>> safe_name("dpo-2", "stage")
    'dpo-2'
    """
    if not _SAFE.fullmatch(name):
        remedy = "use 1 to 128 letters, digits, `.`, `_` and `-`, and no leading dot"
        raise ConfigError(f"{what} name {name!r} cannot be a folder's name", remedy)
    return name


def inside(root: Path, *names: str) -> Path:
    """`root/name/...`, where every name is safe and no link leads out of `root`; ConfigError otherwise.

    >>> inside(Path("runs"), "pharmacy", "dpo").as_posix()
    'runs/pharmacy/dpo'
    """
    path = root.joinpath(*(safe_name(name, "folder") for name in names))
    if not path.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"{path} leads out of {root}", "remove the link, or take another name")
    return path
