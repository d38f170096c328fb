"""Finds the object that a config refers to: by a registered name, `pkg.module:attribute`, or `./file.py:attribute`.

Users can add algorithms, rewards, data formats, trackers and samplers; all of these are looked up here. Two sorts of
objects are registered: the public objects of rung's own modules, and those in the entry point group `rung.<kind>`
(such as `rung.rewards`) of any installed package.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from rung.errors import ConfigError
from rung.utils import user_files
from rung.utils.allowed_code import check_code, check_shipped
from rung.utils.messages import did_you_mean


def load_object(spec: str, base: Path | None = None) -> object:
    """The object that `spec` refers to, `pkg.module:attribute` or `./file.py:attribute`.

    The path of a file is relative to `base` (default: the working folder), where a module is looked for first. A file
    can import the files in its own folder and in `base`. Loading runs the module's code. Raises ConfigError if the
    config may not name it (see `rung.utils.allowed_code`), if the file, the module or the attribute does not exist (the
    message suggests names that do), or if the module fails on import.
    """
    source, _, attribute = spec.rpartition(":")
    if not source or not attribute or "\0" in spec:
        raise ConfigError(f"`{spec}` is not the name of an object", "write `pkg.module:name` or `./file.py:name`")
    if source.endswith(".py"):
        return _attribute(spec, source, attribute, _file_module(spec, source, base))
    file, is_beside = user_files.place_of(source, None if base is None else base.resolve())
    check_code(spec, source, file, shipped=not is_beside)
    found = _attribute(spec, source, attribute, _import(spec, source, base))
    if not is_beside:
        check_shipped(spec, source, found)
    return found


def _attribute(spec: str, source: str, attribute: str, module: ModuleType) -> object:
    try:
        return getattr(module, attribute)
    except AttributeError:
        own = [name for name, value in _public(module) if callable(value)]
        public = own or getattr(module, "__all__", ())  # a package may only re-export what its modules define
        raise ConfigError(f"`{spec}`: {source} has no `{attribute}`", did_you_mean(attribute, public)) from None


def package_modules(package: str) -> Iterator[ModuleType]:
    """The modules of a package, sorted by name, without its subpackages."""
    folder = importlib.import_module(package)
    for info in sorted(pkgutil.iter_modules(folder.__path__), key=lambda info: info.name):
        if not info.ispkg:
            yield importlib.import_module(f"{package}.{info.name}")


def registered(kind: str, modules: Iterator[ModuleType], name_of: Callable[[Any], str | None]) -> dict[str, Any]:
    """The registered objects of a kind, by name: from the given modules and from the entry point group `rung.<kind>`.

    `name_of` returns the name of an object of this kind, and None for any other object. An entry point refers to one
    object, or to a module, whose public objects are then all registered. Raises ConfigError if two objects have the
    same name.
    """
    found: dict[str, Any] = {}
    for value in _members(kind, modules):
        name = name_of(value)
        if name is not None and found.setdefault(name, value) is not value:
            places = " and ".join(f"{_module_of(each)}:{_qualname_of(each)}" for each in (found[name], value))
            raise ConfigError(f"two {kind} are called `{name}`: {places}", "rename one of them")
    return found


@dataclass(frozen=True, slots=True)
class OpenKind:
    """A kind of object that users can add from a file, a module or an entry point; each object has a `name`.

    `plural`: the name of the kind in error messages and in the entry point group `rung.<plural>`.
    `package`: the package with the built-in objects, one per module.
    `accepts`: a function that tests whether an object is of this kind.
    `description`: a description of such objects for error messages.
    """

    plural: str
    package: str
    accepts: Callable[[object], bool]
    description: str

    def all(self) -> dict[str, Any]:
        """All registered objects by name; raises ConfigError if two have the same name."""

        def name_of(value: object) -> str | None:
            name = getattr(value, "name", None) if self.accepts(value) else None
            return name if isinstance(name, str) else None

        return registered(self.plural, package_modules(self.package), name_of)

    def find(self, name: str, base: Path | None = None) -> Any:
        """The object called `name`: a registered name, `pkg.module:attr`, or `./file.py:attr` relative to `base`.

        Raises ConfigError for an unknown name, or an object of another kind.
        """
        singular = self.plural.removesuffix("s")
        if ":" in name:
            found = load_object(name, base)
            if not self.accepts(found):
                raise ConfigError(f"`{name}` is not a {singular}", f"name {self.description}")
            return found
        known = self.all()
        if name not in known:
            remedy = f"{did_you_mean(name, known)}; or write `pkg.module:name` or `./file.py:name`"
            raise ConfigError(f"there is no {singular} `{name}`", remedy)
        return known[name]


def _members(kind: str, modules: Iterator[ModuleType]) -> Iterator[object]:
    for module in modules:
        yield from (value for _, value in _public(module))
    for value, module_name, attribute in _entry_points(kind, tuple(sys.path)):
        if attribute:
            yield _attribute(value, module_name, attribute, _import(value, module_name))
        else:
            yield from (member for _, member in _public(_import(value, module_name)))


@cache
def _entry_points(kind: str, path: tuple[str, ...]) -> tuple[tuple[str, str, str], ...]:
    """The value, module and attribute of each entry point of the group `rung.<kind>`.

    Cached for each `sys.path` (the argument `path`), since reading the metadata of all packages takes 50 ms.
    """
    points = importlib.metadata.entry_points(group=f"rung.{kind}")
    return tuple((point.value, point.module, point.attr) for point in points)


def _public(module: ModuleType) -> Iterator[tuple[str, object]]:
    """The public names of a module with their values; imported functions and classes are left out."""
    for name, value in vars(module).items():
        imported = callable(value) and _module_of(value) != module.__name__
        if not (name.startswith("_") or imported or isinstance(value, ModuleType)):
            yield name, value


def _module_of(value: object) -> str | None:
    return getattr(value, "__module__", None)


def _qualname_of(value: object) -> str:
    return getattr(value, "__qualname__", type(value).__qualname__)


def _import(spec: str, module: str, base: Path | None = None) -> ModuleType:
    """Imports a module, from the folder `base` if it is there."""
    try:
        beside = None if base is None else user_files.import_beside(module, base.resolve())
        return beside or importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            what = f"`{spec}`: there is no module `{error.name}`"
            where = "" if base is None else f", put it into {base.resolve()}"
            raise ConfigError(what, f"install it{where}, or correct the name") from None
        raise ConfigError(f"`{spec}`: {module} imports `{error.name}`, which is not installed", "install it") from error
    except Exception as error:
        raise ConfigError(f"`{spec}` fails on import: {type(error).__name__}: {error}", f"fix {module}") from error


def _file_module(spec: str, source: str, base: Path | None) -> ModuleType:
    """Imports a file; an unchanged file is loaded once."""
    folder = (base or Path.cwd()).resolve()
    path = (folder / source).resolve()
    if not path.is_file():
        files = [f.name for f in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ConfigError(f"`{spec}`: there is no file {path}", did_you_mean(path.name, files))
    check_code(spec, "", path)
    try:
        return user_files.import_file(path, folder)
    except Exception as error:
        remedy = f"fix {path}"
        if isinstance(error, ModuleNotFoundError) and error.name:
            first = error.name.partition(".")[0]
            remedy = f"install `{first}`, or put {first}.py into {path.parent}"
        raise ConfigError(f"`{spec}` fails on import: {type(error).__name__}: {error}", remedy) from error
