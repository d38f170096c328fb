"""What a name in a config stands for: algorithms, rewards, and objects in a user's own module or file.

A name is a registered one, `pkg.module:attribute`, or `./file.py:attribute`. Registered are the public objects of the
modules in `rung.algorithms` and `rung.rewards`, and of what third parties name in entry points of those groups.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rung.errors import ConfigError, RewardError, UserError

if TYPE_CHECKING:
    from rung.algorithm import Algorithm

Kind = Literal["algorithms", "rewards"]


def hint(word: str, known: Iterable[str]) -> str:
    """What to do about an unknown word: the nearest known one, and all of them.

    >>> hint("accurracy", ["length", "accuracy"])
    'did you mean `accuracy`? known: accuracy, length'
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    listed = f"known: {', '.join(names) or 'none'}"
    return f"did you mean `{nearest[0]}`? {listed}" if nearest else listed


def settings_error(where: str, error: ValidationError, known: Iterable[str]) -> ConfigError:
    """The first fault that pydantic found in the settings of `where`, as what it is and what to do."""
    fault = error.errors()[0]
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        return ConfigError(f"{where}: {cause.what}", cause.remedy)
    key = faulty_key(fault)
    if fault["type"] == "extra_forbidden":
        return ConfigError(f"{where}: unknown key `{key}`", hint(key, known))
    if fault["type"] == "missing":
        return ConfigError(f"{where}: `{key}` is missing", f"give it a value; its keys: {', '.join(sorted(known))}")
    if not key:
        return ConfigError(f"{where}: {fault['msg'].removeprefix('Value error, ')}", "change it, or leave it out")
    return ConfigError(f"{where}: `{key}` is {fault['input']!r}", demand(fault["msg"]))


def faulty_key(fault: ErrorDetails) -> str:
    """The key that a fault is about, without the names that pydantic gives the alternatives of a union."""
    return ".".join(str(part) for part in fault["loc"] if str(part).isidentifier())


def demand(message: str) -> str:
    """What pydantic wants of a value, as something to do.

    >>> demand("Input should be greater than 0")
    'it must be greater than 0'
    """
    return re.sub(r"^(Input|String|Value) should", "it must", message.removeprefix("Value error, "))


def load_object(spec: str, base: Path | None = None) -> object:
    """The object that `pkg.module:attribute` or `./file.py:attribute` names.

    A file is relative to `base` (default: the working folder). Loading runs the module: only a user's own config or
    flag may name one. Raises ConfigError where the file, the
    module or the attribute does not exist, listing what does, or where the module fails on import.
    """
    source, _, attribute = spec.rpartition(":")
    if not source or not attribute:
        raise ConfigError(f"`{spec}` names no object", "write `pkg.module:name` or `./file.py:name`")
    module = _file_module(spec, source, base) if source.endswith(".py") else _import(spec, source)
    try:
        return getattr(module, attribute)
    except AttributeError:
        public = (name for name, _ in _public(module))
        raise ConfigError(f"`{spec}`: {source} has no `{attribute}`", hint(attribute, public)) from None


def modules(kind: Kind) -> Iterator[ModuleType]:
    """The modules of the folder `rung.<kind>`, and those that entry points of the group `rung.<kind>` name whole."""
    folder = importlib.import_module(f"rung.{kind}")
    for info in sorted(pkgutil.iter_modules(folder.__path__), key=lambda info: info.name):
        yield importlib.import_module(f"rung.{kind}.{info.name}")
    for point in importlib.metadata.entry_points(group=f"rung.{kind}"):
        if not point.attr:
            yield _import(point.value, point.module)


def algorithm_classes() -> dict[str, type[Algorithm]]:
    """Every registered algorithm by name: subclasses of Algorithm that set a `name` of their own.

    Raises ConfigError where two classes claim one name.
    """
    from rung.algorithm import Algorithm

    def named(value: object) -> str | None:
        is_class = isinstance(value, type) and issubclass(value, Algorithm)
        return vars(value).get("name") if is_class else None

    return _by_name("algorithms", named)


def algorithm_names() -> list[str]:
    """The names of the registered algorithms, sorted."""
    return sorted(algorithm_classes())


def algorithm_class(name: str, base: Path | None = None) -> type[Algorithm]:
    """The class of a registered algorithm, or the one that `pkg.module:Class` or `./file.py:Class` names.

    Raises ConfigError for an unknown name or an object that is no algorithm.
    """
    from rung.algorithm import Algorithm

    if ":" not in name:
        classes = algorithm_classes()
        if name not in classes:
            raise ConfigError(f"unknown algorithm `{name}`", hint(name, classes))
        return classes[name]
    found = load_object(name, base)
    if not (isinstance(found, type) and issubclass(found, Algorithm) and hasattr(found, "name")):
        raise ConfigError(f"`{name}` is no algorithm", "name a subclass of rung.algorithm.Algorithm with a `name`")
    return found


def algorithm(spec: str | Mapping[str, Any] | Algorithm, base: Path | None = None) -> Algorithm:
    """The algorithm that a config asks for: a name, a mapping of `name` and settings, or one already made.

    Raises ConfigError for an unknown name, an unknown key (naming the nearest) or a value out of range.
    """
    from rung.algorithm import Algorithm

    if isinstance(spec, Algorithm):
        return spec
    settings = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError("an algorithm without a `name`", f"give it one of: {', '.join(algorithm_names())}")
    cls = algorithm_class(name, base)
    try:
        return cls.model_validate(settings)
    except ValidationError as error:
        raise _algorithm_error(name, cls, error) from None


def _algorithm_error(name: str, cls: type[Algorithm], error: ValidationError) -> ConfigError:
    """`settings_error`, with the spellings of elsewhere, and with what a setting is."""
    from rung.config.spelling import method_advice, setting_successor

    fault = error.errors()[0]
    found = settings_error(f"algorithm `{name}`", error, cls.model_fields)
    key = faulty_key(fault)
    if fault["type"] == "extra_forbidden":
        return ConfigError(found.what, setting_successor(key, cls.model_fields, fault["input"]))
    if fault["type"] == "value_error" or key not in cls.model_fields:
        return found
    told = (base.model_fields[key].description for base in cls.__mro__ if key in getattr(base, "model_fields", {}))
    about = next(filter(None, told), None)
    remedy = f"{found.remedy}: {_as_clause(about)}" if about else found.remedy
    return ConfigError(found.what, method_advice(key, fault["input"]) or remedy)


def _as_clause(sentence: str) -> str:
    """A docstring after a colon: on one line, without its capital and its full stop."""
    words = " ".join(sentence.split()).removesuffix(".")
    return words[0].lower() + words[1:]


def reward_names() -> list[str]:
    """The names of the registered rewards, sorted."""
    return sorted(_registered_rewards())


def reward_function(name: str, base: Path | None = None) -> Callable[..., Any]:
    """The function of a registered reward, or the one that `pkg.module:fn` or `./file.py:fn` names, as it was written.

    Raises RewardError for an unknown name, ConfigError where an object cannot be loaded.
    """
    if ":" not in name:
        registered = _registered_rewards()
        if name not in registered:
            raise RewardError(f"unknown reward `{name}`", hint(name, registered))
        return registered[name]
    found = load_object(name, base)
    if not callable(found):
        raise RewardError(f"`{name}` is no function but a {type(found).__name__}", "name a function")
    return found


def _registered_rewards() -> dict[str, Callable[..., Any]]:
    from rung.reward.contract import is_declared

    return _by_name("rewards", lambda value: getattr(value, "__name__", None) if is_declared(value) else None)


def _by_name(kind: Kind, name_of: Callable[[Any], str | None]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    value: Any
    for value in _members(kind):
        name = name_of(value)
        if name is not None and found.setdefault(name, value) is not value:
            places = " and ".join(f"{each.__module__}:{each.__qualname__}" for each in (found[name], value))
            raise ConfigError(f"two {kind} are called `{name}`: {places}", "rename one of them")
    return found


def _members(kind: Kind) -> Iterator[object]:
    for module in modules(kind):
        yield from (value for _, value in _public(module))
    for point in importlib.metadata.entry_points(group=f"rung.{kind}"):
        if point.attr:
            yield load_object(f"{point.module}:{point.attr}")


def _public(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Functions and classes that a module itself defines, without a leading underscore."""
    for name, value in vars(module).items():
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__:
            yield name, value


def _import(spec: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            what = f"`{spec}`: there is no module `{error.name}`"
            raise ConfigError(what, "install it, or correct the name") from None
        raise ConfigError(f"`{spec}`: {module} imports `{error.name}`", "install it") from error
    except Exception as error:
        raise ConfigError(f"`{spec}` fails on import: {type(error).__name__}: {error}", f"mend {module}") from error


def _file_module(spec: str, source: str, base: Path | None) -> ModuleType:
    """A file as a module; its name holds a hash of path and text, so that one text gives one set of objects."""
    path = ((base or Path.cwd()) / source).resolve()
    try:
        text = path.read_bytes()
    except OSError:
        files = [f.name for f in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ConfigError(f"`{spec}`: there is no file {path}", hint(path.name, files)) from None
    digest = hashlib.sha256(str(path).encode() + b"\0" + text).hexdigest()[:16]
    name = f"rung_file_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None, "a .py file has a spec"
    assert module_spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module  # annotations of dataclasses and pydantic models are looked up there
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"`{spec}` fails on import: {type(error).__name__}: {error}", f"mend {path}") from error
    return module
