"""Which code a config may name: that of the user's own project, and what the user allows by `--allow-code`.

Rewards, algorithms, formats, trackers, samplers and optimizers are Python objects, so whoever writes a config chooses
the code that runs. Registered names are always allowed. A file or module is allowed without a flag if both it and the
config that names it are below the working folder, after links have been followed. Anything else, an installed package
too (`os:system` would be a reward), is refused before it is imported.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from rung.errors import ConfigError

FLAG = "--allow-code"
# Packages whose own objects a config may name without a flag: those of rung's open kinds, and TRL's rewards.
SHIPPED = (
    "rung.algorithms",
    "rung.rewards",
    "rung.data.formats",
    "rung.rollout.samplers",
    "rung.training.trackers",
    "trl.rewards",
)
_PACKAGE = re.compile(r"[A-Za-z_][\w-]*([./][\w.-]+)*")


@dataclass(frozen=True, slots=True)
class AllowedCode:
    """What the configs of one command may name: code below `project`, and the names and paths of the flag.

    `project` is None if one of the configs does not lie in the working folder.
    """

    project: Path | None
    names: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()

    def allows(self, module: str, file: Path | None) -> bool:
        """Whether a module may be imported from a resolved file, which is None for a module without a file."""
        if any(module == name or module.startswith(f"{name}.") for name in self.names):
            return True
        if file is None:
            return False
        return self.allows_path(file) or (
            self.project is not None and _below(file, self.project) and not _part_of(file)
        )

    def allows_path(self, path: Path) -> bool:
        """Whether the flag names a resolved path, or a folder that contains it."""
        return any(_below(path, allowed) for allowed in self.paths)


_allowed: ContextVar[AllowedCode | None] = ContextVar("allowed_code", default=None)


def allowed_code(allow: Iterable[str], configs: Sequence[Path]) -> AllowedCode:
    """What may be named by `configs`, the resolved files of one config and those that it extends.

    `allow` has the values of the flag: files, folders, packages, and models with pickled weights. Raises ConfigError
    for a value that is none of them.
    """
    names, paths = [], []
    for value in allow:
        if Path(value).exists():
            paths.append(Path(value).resolve())
        elif value.endswith(".py") or not _PACKAGE.fullmatch(value):
            raise ConfigError(
                f"{FLAG} {value}: there is no such file, folder or package", "check the path, from the working folder"
            )
        names.append(value)
    project = Path.cwd().resolve()
    own = project != Path(project.anchor) and all(_below(file.resolve(), project) for file in configs)
    return AllowedCode(project if own else None, tuple(names), tuple(paths))


@contextmanager
def only_allowed(allowed: AllowedCode | None) -> Iterator[None]:
    """A context manager in which `check_code` allows only what `allowed` does; None changes nothing.

    Outside of it everything is allowed: there, a Python program names the objects.
    """
    token = _allowed.set(allowed or _allowed.get())
    try:
        yield
    finally:
        _allowed.reset(token)


def check_code(spec: str, module: str, file: Path | None, *, shipped: bool = False) -> None:
    """Raises ConfigError if the configs of this command may not name `spec`, an object of `module` in `file`.

    `shipped`: the module would be imported from where it is installed, not from the folder of the config.
    """
    allowed = _allowed.get()
    if shipped and module.partition(".")[0] == "rung":
        file = None  # rung itself is no project of a user, also where the working folder is its checkout
    if allowed is None or allowed.allows(module, file) or (shipped and _shipped_in(module) is not None):
        return
    if file is None or _part_of(file):
        package = module.partition(".")[0]
        what = f"`{spec}` is code of the installed package `{package}`, which a config may not name without a flag"
        raise ConfigError(what, f"call it in a file of your own and name that, or allow it by `{FLAG} {package}`")
    if allowed.project is None:
        what = f"`{spec}` would run {file}, but the config is not in the working folder"
    else:
        what = f"`{spec}` would run {file}, which is not in the working folder {allowed.project}"
    raise ConfigError(what, f"read the file; then run the command in its folder, or allow it by `{FLAG} {file}`")


def check_shipped(spec: str, module: str, value: object) -> None:
    """Raises ConfigError for an object that an allowed package imports from elsewhere, or that loads other code."""
    allowed, package = _allowed.get(), _shipped_in(module)
    if allowed is None or package is None or allowed.allows(module, None):
        return
    origin = getattr(value, "__module__", None) or ""
    if not f"{origin}.".startswith(f"{package}.") or origin.endswith(".registry"):
        raise ConfigError(f"`{spec}` is not an object of `{package}`", f"name one of its own, or use `{FLAG} {module}`")


def allows_pickle(location: str) -> bool:
    """Whether the flag names the model at a location, a folder or hub id, so that its pickled weights may be read."""
    allowed = _allowed.get()
    return allowed is not None and (location in allowed.names or allowed.allows_path(Path(location).resolve()))


def _shipped_in(module: str) -> str | None:
    return next((package for package in SHIPPED if f"{module}.".startswith(f"{package}.")), None)


def _below(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def _part_of(file: Path) -> bool:
    """Whether a file is a part of Python or of an installed package, such as one in a `.venv` of the working folder."""
    if {"site-packages", "dist-packages"} & set(file.parts):
        return True
    places = (sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib"))
    return any(_below(file, Path(place).resolve()) for place in (*places, f"{sys.prefix}/lib"))
