"""Imports the Python files of a user, who can import the files beside them as if the folder were on `sys.path`.

A file `/work/judge.py` becomes the module `rung.utils.user_files.<key>.judge`, where `<key>` encodes the folder. Files
of the same name in two folders are thus two modules, and a spawned process, which only knows the name of a module, can
import it too: to unpickle a function of the file, for example. Inside such a module, `import helpers` first looks for
`helpers` in the folder of the file, then in the folder of the config.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

__path__: list[str] = []  # makes this module a package, whose modules `_Finder` finds
_PREFIX = f"{__name__}."
_SEPARATOR = "\0"  # a character that no path contains
_DOT = "__dot__"  # in the name of a module, a dot in the name of its file
_sources: dict[str, tuple[str, str]] = {}  # by module: its file, and a hash of the text that was run
_packages: dict[Path, set[str]] = {}  # by the folder of a config: the packages that were imported for it


def import_file(path: Path, base: Path) -> ModuleType:
    """Imports a file. If it is in a folder below `base`, the folder of the config, it can import files of both folders.

    A file is run once, and again after it or a file of these folders that it imports has changed.
    """
    importlib.invalidate_caches()
    package = _package(path.parent, base)
    _packages.setdefault(base.resolve(), set()).add(package)
    return importlib.import_module(f"{package}.{path.stem.replace('.', _DOT)}")


def import_beside(module: str, base: Path) -> ModuleType | None:
    """Imports `module`, such as `pkg.module`, from the folder `base`; returns None if it has no file there.

    A module that Python itself would find in this folder is imported under its own name.
    """
    if not _is_beside(module, base):
        first = module.partition(".")[0]
        if _is_beside(first, base) and importlib.util.find_spec(first) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return None
    importlib.invalidate_caches()
    imported = _packages.setdefault(base.resolve(), set())
    if not _is_found_at(module, base):
        package = _package(base, base)
        imported.add(package)
        return importlib.import_module(f"{package}.{module}")
    before = set(sys.modules)
    found = importlib.import_module(module)
    for name in {*sys.modules} - before | {module}:
        file = Path(getattr(sys.modules[name], "__file__", None) or "/")
        if base in file.parents:
            _sources[name] = (str(file), file_digest(file))
            imported.add(name)
    return found


def place_of(module: str, base: Path | None) -> tuple[Path | None, bool]:
    """The resolved file or folder from which `module` would be imported, and whether it is in the folder `base`.

    Nothing is imported. The first value is None for a built-in module, and for one that does not exist.
    """
    if base is not None and _is_beside(module, base):
        place = base.joinpath(*module.split("."))
        file = place.with_name(f"{place.name}.py")
        # Python prefers a package to a module of the same name
        return (place if (place / "__init__.py").is_file() else file).resolve(), True
    first, *others = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):  # ValueError: a module without a spec, such as `__main__`
        return None, False
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)), *others).resolve(), False
    return (Path(spec.origin).resolve() if spec is not None and spec.has_location and spec.origin else None), False


def loaded_files(base: Path | None = None) -> dict[str, str]:
    """The user's files that were imported for configs in the folder `base`, and beside them, with their SHA-256.

    The keys are paths relative to `base` (default: the working folder), sorted; files outside of it begin with `../`.
    The values have 64 hex digits.
    """
    folder = (base or Path.cwd()).resolve()
    used = _packages.get(folder, set())
    imported = [
        source
        for name, source in _sources.items()
        if name in sys.modules and any(name == package or name.startswith(f"{package}.") for package in used)
    ]
    files = {os.path.relpath(os.path.realpath(file), folder): digest for file, digest in imported}
    return {Path(file).as_posix(): digest for file, digest in sorted(files.items())}


def code_lines(base: Path | None = None) -> list[str]:
    """A line for each of `loaded_files`, which tells the user what was run."""
    return [f"code: {file} (sha256 {digest[:12]})" for file, digest in loaded_files(base).items()]


def _package(folder: Path, base: Path) -> str:
    """The name of the package that stands for a folder; if its files have changed, they are forgotten first."""
    packages = [_named(str(folder))]
    if base in folder.parents:
        packages = [_named(str(folder), str(base)), _named(str(base))]
    inside = tuple(f"{package}." for package in packages)
    loaded = [name for name in _sources if name.startswith(inside) and name in sys.modules]
    if any(file_digest(Path(_sources[name][0])) != _sources[name][1] for name in loaded):
        for name in loaded:
            del sys.modules[name]
    return packages[0]


def _named(*folders: str) -> str:
    return f"{_PREFIX}f{os.fsencode(_SEPARATOR.join(folders)).hex()}"


def _folders(package: str) -> list[str]:
    key = package.removeprefix(_PREFIX).partition(".")[0]
    return os.fsdecode(bytes.fromhex(key[1:])).split(_SEPARATOR)


def file_digest(file: Path) -> str:
    """The SHA-256 of a file, 64 hex digits; empty text if it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def _is_beside(module: str, folder: Path) -> bool:
    place = folder.joinpath(*module.split("."))
    return place.with_name(f"{place.name}.py").is_file() or (place / "__init__.py").is_file()


def _is_found_at(module: str, folder: Path) -> bool:
    """Whether Python itself would import the first part of a dotted name from this folder."""
    first = module.partition(".")[0]
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):  # ValueError: a module without a spec, such as `__main__`
        return False
    places = [] if spec is None else [*(spec.submodule_search_locations or ()), spec.origin or ""]
    return any(Path(place) in (folder / first, folder / f"{first}.py") for place in places if place)


class _Finder:
    """Finds the packages that stand for folders, and the modules in them."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(_PREFIX):
            return None
        if "." not in name.removeprefix(_PREFIX):
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = _folders(name)[:1]
            return spec
        spec = PathFinder.find_spec(name, path)
        if spec is None and path:
            file = Path(path[0], name.rpartition(".")[2].replace(_DOT, ".") + ".py")
            spec = importlib.util.spec_from_file_location(name, file) if file.is_file() else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader) and spec.origin:
            spec.loader = _Loader(name, spec.origin)
        return spec


class _Loader(SourceFileLoader):
    """Runs a file with imports that look beside it first; no bytecode is written into the folders of a user."""

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path)
        _sources[fullname] = (self.path, hashlib.sha256(source).hexdigest())
        return self.source_to_code(source, self.path)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import_beside_first}
        super().exec_module(module)


def _import_beside_first(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] = (),
    level: int = 0,
) -> ModuleType:
    importer = (globals or {}).get("__name__") or ""
    found = _beside(name, importer) if level == 0 and importer.startswith(_PREFIX) else None
    if found is None:
        return builtins.__import__(name, globals, locals, fromlist, level)
    try:
        if fromlist:
            return builtins.__import__(f"{found}.{name}", globals, locals, fromlist, 0)
        importlib.import_module(f"{found}.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith(f"{found}."):
            raise
        missing = error.name.removeprefix(f"{found}.")
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing) from None
    return sys.modules[f"{found}.{name.partition('.')[0]}"]


def _beside(name: str, importer: str) -> str | None:
    """The package of the folder from which a module of a user imports `name`; None if Python is to find it."""
    first = name.partition(".")[0]
    if first in sys.stdlib_module_names:
        return None
    own, *others = _folders(importer)
    packages = {_PREFIX + importer.removeprefix(_PREFIX).partition(".")[0]: own}
    packages |= {_named(folder): folder for folder in others}
    specs = {package: PathFinder.find_spec(first, [folder]) for package, folder in packages.items()}
    found = {package: spec for package, spec in specs.items() if spec is not None}
    for package, spec in found.items():
        if spec.loader is not None:
            return package
    if found and importlib.util.find_spec(first) is None:  # a folder without `__init__.py` is the last choice
        return next(iter(found))
    return None


sys.meta_path.insert(0, _Finder())
