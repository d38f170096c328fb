"""Reads from a reward function's signature which columns and settings it takes, and checks them before any call."""

from __future__ import annotations

import functools
import inspect
import json
import re
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
_SAMPLE_MARKS = ("prompt", "messages", "completion", "finish_reason", "n_tokens", "row_id")
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


def read_signature(
    function: Callable[..., Any], label: str, args: Collection[str], columns: Mapping[str, str] | None = None
) -> Signature:
    """Reads the signature of a reward function; `args` and `columns` are those of its config entry.

    Settings are the keyword-only parameters and, for a function with `**kwargs` or TRL's parameters, those in `args`.
    Such a function is called as TRL calls it, but once per sample if it has `**kwargs` and reads a field of one sample,
    such as `completion`. Raises RewardError if a parameter cannot be passed by name.
    """
    parameters = _parameters(function, label)
    kinds = {parameter.kind for parameter in parameters.values()}
    named = {name: parameter for name, parameter in parameters.items() if parameter.kind in _NAMED}
    reads_all = inspect.Parameter.VAR_KEYWORD in kinds
    only_positional = inspect.Parameter.VAR_POSITIONAL in kinds and not named and not reads_all
    if inspect.Parameter.POSITIONAL_ONLY in kinds or only_positional:
        what = f"reward `{label}` has parameters that cannot be passed by name"
        raise RewardError(what, "remove `/` and `*args` from its signature")
    declared = declaration(function)
    if is_declared(function) and reads_all:
        raise RewardError(
            f"reward `{label}` takes `**kwargs`", "write its columns as parameters, and its settings after `*`"
        )
    sources = {(columns or {}).get(name, name) for name in named}
    of_batch = any(mark in sources for mark in _TRL_MARKS)
    of_sample = reads_all and not of_batch and any(mark in sources for mark in _SAMPLE_MARKS)
    trl = not is_declared(function) and (of_batch or (reads_all and not of_sample))
    settings = {
        name: parameter
        for name, parameter in named.items()
        if (name in args and (trl or of_sample)) or (not trl and parameter.kind == inspect.Parameter.KEYWORD_ONLY)
    }
    settings = {name: parameter for name, parameter in settings.items() if name not in HOOKS}
    reads = {n: p.default is p.empty for n, p in named.items() if n not in settings and n not in HOOKS}
    hooks = tuple(hook for hook in HOOKS if hook in named or (trl and reads_all))
    style: Style = "group" if declared.group else "trl" if trl or declared.batch else "sample"
    return Signature(style, reads, settings, hooks, reads_all)


def returns_function(function: Callable[..., Any]) -> bool:
    """Whether the return annotation of a function says that it returns a function, as a factory of rewards does."""
    try:
        annotation = inspect.signature(function).return_annotation
    except (TypeError, ValueError):
        return False
    return re.match(r"(typing\.|collections\.abc\.)?Callable\b", str(annotation)) is not None


def _parameters(function: Callable[..., Any], label: str) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function; an annotation that cannot be evaluated, such as a type-only import, is a string."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        what = f"reward `{label}`: its signature cannot be read: {error}"
        raise RewardError(what, "call it from a Python function, and name that function") from None
    return {
        name: parameter.replace(annotation=_annotation(parameter, function)) for name, parameter in parameters.items()
    }


def _annotation(parameter: inspect.Parameter, function: Callable[..., Any]) -> Any:
    if not isinstance(parameter.annotation, str):
        return parameter.annotation
    while isinstance(function, functools.partial):
        function = function.func
    plain = inspect.unwrap(function if inspect.isroutine(function) else type(function).__call__)
    try:
        return eval(parameter.annotation, getattr(plain, "__globals__", {}))  # noqa: S307 - as inspect.signature does
    except Exception:
        return parameter.annotation


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
    if isinstance(annotation, str):
        raise RewardError(where, f"import `{annotation}`, its type, at run time, outside `if TYPE_CHECKING`")
    try:
        return TypeAdapter(annotation).validate_json(text, strict=True)
    except ValidationError as error:
        raise RewardError(where, as_requirement(error.errors()[0]["msg"])) from None
    except PydanticUserError:
        raise RewardError(where, f"annotate `{parameter.name}` with a type that a config can represent") from None
