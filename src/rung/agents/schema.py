"""The JSON schema of a tool, and whether the arguments of a call match it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from rung.errors import ConfigError

_HINTS = "str, int, float, bool, list, dict, an Enum, a Literal, or a union of these"
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}


def schema_of(function: Callable[..., Any], name: str, called: str) -> dict[str, Any]:
    """The schema of a function in the form of OpenAI's API, with `called` as its name, by transformers.

    Raises ConfigError, naming the tool (`name`) and the parameter, if the docstring or a type hint does not allow it.
    """
    from transformers.utils.chat_template_utils import get_json_schema

    where = f"tool `{name}`"
    if not (inspect.getdoc(function) or "").strip():
        raise ConfigError(
            f"{where} has no docstring", "say in one what it does, and what each parameter is, in `Args:`"
        )
    _check_parameters(function, where)
    try:
        schema = get_json_schema(function)
    except Exception as error:  # whatever hints of any kind and lists of choices make it raise
        told = str(error).partition("\n")[0]
        named = told.rpartition("argument '")[2].rstrip("'")
        if named != told.rstrip("'"):
            remedy = f"add a line `{named}: ...` to `Args:` in its docstring"
            raise ConfigError(f"{where}: the docstring does not describe the parameter `{named}`", remedy) from None
        raise ConfigError(f"{where} has no schema: {told}", "correct its docstring and type hints") from None
    schema["function"]["name"] = called
    return schema


def _check_parameters(function: Callable[..., Any], where: str) -> None:
    """Raises ConfigError for a parameter that cannot be passed by name, or whose type hint is missing or unknown."""
    try:
        hints = get_type_hints(function)
    except Exception as error:  # a hint is an expression, which may raise anything
        raise ConfigError(f"{where}: a type hint cannot be read: {error}", f"use {_HINTS}") from None
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            what = f"{where}: the parameter `{str(parameter).partition(':')[0]}` cannot be passed by name"
            raise ConfigError(what, "give the function named parameters only, without `*`, `**` and `/`")
        if parameter.name not in hints:
            what = f"{where}: the parameter `{parameter.name}` has no type hint"
            raise ConfigError(what, f"write `{parameter.name}: str`, or another of {_HINTS}")
        if not _is_describable(hints[parameter.name]):
            hint = inspect.formatannotation(hints[parameter.name])
            what = f"{where}: the type hint `{hint}` of the parameter `{parameter.name}` is not known"
            raise ConfigError(what, f"use {_HINTS}")


def _is_describable(hint: Any) -> bool:
    """Whether transformers can describe a type hint, found out with a function that has this hint alone."""
    from transformers.utils.chat_template_utils import get_json_schema

    def probe(value):
        """Takes a value.

        Args:
            value: a value
        """

    probe.__annotations__ = {"value": hint}
    try:
        get_json_schema(probe)
    except Exception:
        return False
    return True


def wrong_argument(parameters: Mapping[str, Any], arguments: Mapping[str, Any]) -> str:
    """What is wrong with the arguments of a call, by the schema of a tool's parameters; empty if nothing is.

    >>> schema = {"properties": {"a": {"type": "integer"}}, "required": ["a"]}
    >>> wrong_argument(schema, {}), wrong_argument(schema, {"a": "x"}), wrong_argument(schema, {"a": 1})
    ('the argument `a` is missing', 'the argument `a` must be of type integer, not "x"', '')
    """
    properties = parameters.get("properties", {})
    for name in parameters.get("required", ()):
        if name not in arguments:
            return f"the argument `{name}` is missing"
    for name, value in arguments.items():
        if name not in properties:
            known = ", ".join(f"`{known}`" for known in properties) or "none"
            return f"there is no argument `{name:.100}`; the arguments are: {known}"
        if not _matches(value, properties[name]):
            return f"the argument `{name}` must be {_wanted(properties[name])}, not {_shown(value)}"
    return ""


def _matches(value: Any, schema: Any) -> bool:
    """Whether a JSON value has the type of a schema, or one of its types; what a schema leaves open is accepted."""
    if not isinstance(schema, Mapping) or (value is None and schema.get("nullable")):
        return True
    if choices := schema.get("anyOf"):
        return any(_matches(value, choice) for choice in choices)
    if "enum" in schema and value not in schema["enum"]:
        return False
    declared = schema.get("type", ())
    types = [declared] if isinstance(declared, str) else declared
    if types and not any(_TYPES.get(kind, lambda value: True)(value) for kind in types):
        return False
    if isinstance(value, list) and (items := schema.get("items")):
        return all(_matches(each, items) for each in value)
    if isinstance(value, dict) and (values := schema.get("additionalProperties")):
        return all(_matches(each, values) for each in value.values())
    return True


def _wanted(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(_shown(value) for value in schema["enum"])
    declared = schema.get("type", "another")
    kinds = [declared] if isinstance(declared, str) else list(declared)
    if items := schema.get("items"):
        kinds = [f"{kinds[0]} of {items.get('type', 'values')}"]
    return f"of type {' or '.join(map(str, kinds))}" if "anyOf" not in schema else "of another type"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:60]}..."
