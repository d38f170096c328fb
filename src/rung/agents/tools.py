"""Loads tools: plain functions with type hints and a Google docstring, which a model may call in its turns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveFloat, ValidationError

from rung.agents.schema import schema_of
from rung.errors import ConfigError
from rung.registry import load_object
from rung.reward.deadline import imported
from rung.reward.environment import env_fault
from rung.tiny.tasks import TOOLS
from rung.utils.messages import did_you_mean, settings_error

TOOL_TIMEOUT_S = 60.0
TASK = "task:"
_NO_TOOLS = frozenset({"reset", "get_reward", "close"})  # methods that the loop calls, not the model


class ToolSpec(BaseModel):
    """The entry of one tool in a config: `name` is `pkg.module:function`, `./file.py:function` or `task:NAME/TOOL`.

    `timeout_s` is the deadline of a call in seconds (default: 60). `env` names the environment variables that the
    function needs although they hold secrets (see `rung.reward.environment`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    timeout_s: PositiveFloat | None = None
    env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call; `schema` describes it in the form of OpenAI's API.

    `address` tells a worker process how to load the function; None if it is called in this process. `timeout_s` is the
    deadline of a call in seconds, None for none.
    """

    name: str
    schema: Mapping[str, Any]
    function: Callable[..., Any]
    address: Mapping[str, Any] | None
    timeout_s: float | None

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The JSON schema of the arguments."""
        return self.schema["function"]["parameters"]


def load_tools(
    entries: Sequence[str | Mapping[str, Any] | ToolSpec | Callable[..., Any]], base: Path | None
) -> tuple[Tool, ...]:
    """The tools of a config; an entry is a name, a function, or the keys of a `ToolSpec`.

    File paths are relative to `base`. Raises ConfigError if a function cannot be loaded or described, or if two tools
    have the same name.
    """
    tools: dict[str, Tool] = {}
    for entry in entries:
        tool = _loaded(entry, base)
        if tool.name in tools:
            raise ConfigError(f"two tools are called `{tool.name}`", "rename one of the functions")
        tools[tool.name] = tool
    return tuple(tools.values())


def method_tools(environment: object) -> tuple[Tool, ...]:
    """The public methods of an environment as tools, sorted by name, without `reset`, `get_reward` and `close`.

    Raises ConfigError if a method cannot be described.
    """
    kind = type(environment)  # since looking at the members of the object would run its properties
    names = [name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")]
    return tuple(
        Tool(
            name=name,
            schema=schema_of(method, f"{kind.__name__}.{name}", name),
            function=method,
            address=None,
            timeout_s=TOOL_TIMEOUT_S,
        )
        for name in names
        if name not in _NO_TOOLS
        for method in [getattr(environment, name)]
    )


def tool_function(name: str, base: Path | None) -> Callable[..., Any]:
    """The function called `name`; `task:NAME/TOOL` is that of a built-in task.

    Raises ConfigError if there is none, or if it is not a function.
    """
    if name.startswith(TASK):
        known = {f"{TASK}{tool}": function for tool, function in TOOLS.items()}
        if name not in known:
            raise ConfigError(f"there is no tool `{name}`", did_you_mean(name, known))
        return known[name]
    return _checked(load_object(name, base), name)


def _loaded(entry: Any, base: Path | None) -> Tool:
    given = entry.get("name") if isinstance(entry, Mapping) else entry
    function = given if callable(given) else None
    spec = _spec(entry, function)
    if function is None:
        function = imported(spec.name, lambda: tool_function(spec.name, base))
        address = {"name": spec.name, "base": str((base or Path()).resolve()), "env": list(spec.env)}
    else:
        function, address = _checked(function, spec.name), None
    if fault := env_fault(f"tool `{spec.name}`", spec.env, in_worker=address is not None):
        raise ConfigError(*fault)
    return Tool(
        name=function.__name__,
        schema=schema_of(function, spec.name, function.__name__),
        function=function,
        address=address,
        timeout_s=spec.timeout_s or TOOL_TIMEOUT_S,
    )


def _spec(entry: Any, function: Callable[..., Any] | None) -> ToolSpec:
    if isinstance(entry, ToolSpec):
        return entry
    settings: Any = {"name": entry} if isinstance(entry, str) or function is entry else entry
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{entry!r:.60} is not a tool", "give `./file.py:function`, a function, or `name` with keys")
    if function is not None:
        settings = {**settings, "name": getattr(function, "__name__", type(function).__name__)}
    try:
        return ToolSpec.model_validate(settings)
    except ValidationError as error:
        raise settings_error(f"tool `{settings.get('name', '?')}`", error, ToolSpec.model_fields) from None


def _checked(found: object, name: str) -> Callable[..., Any]:
    """The object, which is a function or a method that belongs to an object."""
    if inspect.isfunction(found) or inspect.ismethod(found):
        return found
    if inspect.isclass(found):
        what, remedy = f"tool `{name}` is a class", "name a function, or pass a method of one of its objects"
    else:
        what = f"tool `{name}` is of type `{type(found).__name__}`, not a function"
        remedy = "write a function with `def` or `async def` that calls it"
    raise ConfigError(what, remedy)
