"""Finds and validates the algorithm in a config; errors suggest similar names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from rung.algorithm import Algorithm, DataKind, Need
from rung.config.migration import method_advice, setting_successor
from rung.errors import ConfigError
from rung.registry import load_object, package_modules, registered
from rung.utils.messages import did_you_mean, faulty_key, settings_error
from rung.utils.secrets import filled


def algorithm_classes() -> dict[str, type[Algorithm]]:
    """All registered algorithms by name: the subclasses of Algorithm that set a `name` of their own.

    Raises ConfigError if two classes have the same name.
    """

    def named(value: object) -> str | None:
        is_class = isinstance(value, type) and issubclass(value, Algorithm)
        return vars(value).get("name") if is_class else None

    return registered("algorithms", package_modules("rung.algorithms"), named)


def algorithm_names() -> list[str]:
    """The names of the registered algorithms, sorted."""
    return sorted(algorithm_classes())


def algorithm_class(name: str, base: Path | None = None) -> type[Algorithm]:
    """The algorithm class called `name`: a registered name, `pkg.module:Class`, or `./file.py:Class`.

    A file is relative to `base`. Raises ConfigError for an unknown name or an object that is not an algorithm.
    """
    if ":" not in name:
        classes = algorithm_classes()
        if name not in classes:
            raise ConfigError(f"unknown algorithm `{name}`", did_you_mean(name, classes))
        return classes[name]
    found = load_object(name, base)
    if not (isinstance(found, type) and issubclass(found, Algorithm) and hasattr(found, "name")):
        raise ConfigError(
            f"`{name}` is not an algorithm", "name a subclass of rung.algorithm.Algorithm that sets `name`"
        )
    return found


def make_algorithm(spec: str | Mapping[str, Any] | Algorithm, base: Path | None = None) -> Algorithm:
    """The algorithm that a config entry (a name, or a mapping with `name` and settings) describes.

    An Algorithm is returned unchanged. Raises ConfigError for an unknown name, an unknown setting (with similar names
    in the message) or a value out of range.
    """
    if isinstance(spec, Algorithm):
        return spec
    settings = {"name": spec} if isinstance(spec, str) else filled(spec, "algorithm")
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError("an algorithm has no `name`", f"set `name` to one of: {', '.join(algorithm_names())}")
    cls = algorithm_class(name, base)
    try:
        made = cls.model_validate(settings)
    except ValidationError as error:
        raise _algorithm_error(name, cls, error) from None
    _check_declarations(name, made)
    return made


def _check_declarations(name: str, algorithm: Algorithm) -> None:
    """Raises ConfigError if a hook of the algorithm returns a word that the engine does not know."""
    kind, terms = algorithm.data_kind(), algorithm.terms()
    words = {unit for unit in terms.values() if isinstance(unit, str)}
    for hook, found, known in (
        ("keep_together", {algorithm.keep_together}, {"row", "group"}),
        ("data_kind()", {kind} - {None}, set(get_args(DataKind))),
        ("needs()", set(algorithm.needs()), set(get_args(Need))),
        ("terms()", words, {"tokens", "rows", "groups"}),
    ):
        unknown = sorted(str(word) for word in found - known)
        if unknown:
            what = f"algorithm `{name}`: `{hook}` says `{unknown[0]}`, which does not exist"
            raise ConfigError(what, f"known: {', '.join(sorted(known))}")
    if kind is None and terms:
        what = f"algorithm `{name}` declares terms of a loss, but `data_kind()` is None"
        raise ConfigError(what, f"implement `data_kind()`; known: {', '.join(sorted(get_args(DataKind)))}")
    if kind is not None and not terms:
        raise ConfigError(f"algorithm `{name}` declares no terms of its loss", "implement `terms()`")


def _algorithm_error(name: str, cls: type[Algorithm], error: ValidationError) -> ConfigError:
    """The result of `settings_error`, with advice about keys of TRL or with the description of the setting."""
    fault = error.errors()[0]
    found = settings_error(f"algorithm `{name}`", error, cls.model_fields)
    key = faulty_key(fault)
    if fault["type"] == "extra_forbidden":
        return ConfigError(found.what, setting_successor(key, cls.model_fields, fault["input"]))
    if fault["type"] == "value_error" or key not in cls.model_fields:
        return found
    bases = (base for base in cls.__mro__ if key in getattr(base, "model_fields", {}))
    description = next(filter(None, (base.model_fields[key].description for base in bases)), None)
    remedy = f"{found.remedy} ({_as_clause(description)})" if description else found.remedy
    return ConfigError(found.what, method_advice(key, fault["input"]) or remedy)


def _as_clause(sentence: str) -> str:
    """A docstring as text in parentheses: on one line, with a lower-case first letter and without a full stop."""
    words = " ".join(sentence.split()).removesuffix(".")
    return words[0].lower() + words[1:]
