"""Reads from a reward function's signature which columns and settings it takes, and checks them before any call."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from rung.errors import RewardError
from rung.reward.decorator import declaration, is_declared
from rung.utils.messages import as_requirement, did_you_mean

Style = Literal["sample", "group", "trl"]

HOOKS = ("trainer_state", "log_extra", "log_metric")
_TRL_MARKS = ("prompts", "completions")
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class Signature:
    """How a reward function is called.

    `style`: once per `sample`, once per `group`, or like a `trl` reward, once with lists over the whole batch.
    `reads`: the standard fields and columns that it takes; the value is true if the parameter has no default.
    `settings`: the parameters that are settings.
    `hooks`: the names in HOOKS that it takes.
    `reads_all`: whether it takes every column of the data (`**kwargs`).
    """

    style: Style
    reads: Mapping[str, bool]
    settings: Mapping[str, inspect.Parameter]
    hooks: tuple[str, ...] = ()
    reads_all: bool = False


def read_signature(function: Callable[..., Any], label: str, args: Collection[str]) -> Signature:
    """Reads the signature of a reward function; `args` are the names of the settings in its config entry.

    Settings are the keyword-only parameters or, for a TRL-style function, the parameters in `args`. Raises RewardError
    if a parameter cannot be passed by name.
    """
    try:
        parameters = inspect.signature(function, eval_str=True).parameters
    except (NameError, TypeError, ValueError) as error:
        remedy = "import the types of its annotations at run time, outside `if TYPE_CHECKING`"
        raise RewardError(f"reward `{label}`: its signature cannot be read: {error}", remedy) from None
    kinds = {parameter.kind for parameter in parameters.values()}
    if inspect.Parameter.POSITIONAL_ONLY in kinds or inspect.Parameter.VAR_POSITIONAL in kinds:
        what = f"reward `{label}` has parameters that cannot be passed by name"
        raise RewardError(what, "remove `/` and `*args` from its signature")
    named = {name: parameter for name, parameter in parameters.items() if parameter.kind in _NAMED}
    reads_all = inspect.Parameter.VAR_KEYWORD in kinds
    if not is_declared(function) and (reads_all or any(mark in named for mark in _TRL_MARKS)):
        settings = {name: p for name, p in named.items() if name in args}
        reads = {n: p.default is p.empty for n, p in named.items() if n not in args and n not in HOOKS}
        return Signature("trl", reads, settings, tuple(h for h in HOOKS if reads_all or h in named), reads_all)
    if reads_all:
        raise RewardError(
            f"reward `{label}` takes `**kwargs`", "write its columns as parameters, and its settings after `*`"
        )
    settings = {name: p for name, p in named.items() if p.kind == inspect.Parameter.KEYWORD_ONLY}
    reads = {name: p.default is p.empty for name, p in named.items() if name not in settings}
    declared = declaration(function)
    return Signature("group" if declared.group else "trl" if declared.batch else "sample", reads, settings)


def read_settings(signature: Signature, label: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config entry, strictly validated against the annotations of the function.

    Values are JSON values; a list is converted if the annotation is a tuple or set. Raises RewardError for a setting
    that is unknown, missing or of a wrong type.
    """
    for name in args:
        if name not in signature.settings:
            raise RewardError(f"reward `{label}`: unknown setting `{name}`", did_you_mean(name, signature.settings))
    for name, parameter in signature.settings.items():
        if parameter.default is parameter.empty and name not in args:
            raise RewardError(f"reward `{label}`: setting `{name}` is missing", f"write `args: {{{name}: ...}}`")
    return {name: _typed(signature.settings[name], label, value) for name, value in args.items()}


def _typed(parameter: inspect.Parameter, label: str, value: Any) -> Any:
    where = f"reward `{label}`: setting `{parameter.name}` is {value!r:.80}"
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        raise RewardError(where, "give a value that JSON can represent") from None
    annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
    try:
        return TypeAdapter(annotation).validate_json(text, strict=True)
    except ValidationError as error:
        raise RewardError(where, as_requirement(error.errors()[0]["msg"])) from None
    except PydanticUserError:
        raise RewardError(where, f"annotate `{parameter.name}` with a type that a config can represent") from None
