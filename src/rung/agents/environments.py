"""Environments: objects whose public methods are the tools of a row, made by a factory and reset for each row."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rung.agents.tools import Tool, method_tools
from rung.errors import ConfigError
from rung.registry import load_object
from rung.reward.deadline import imported
from rung.utils.console import note
from rung.utils.messages import did_you_mean

ROUTE = "environment"  # the column that names the environment of a row, if there are several
Factory = Callable[[], Any]
Factories = str | Factory | Mapping[str, str | Factory]


class Environments:
    """The environments of a stage by name; a single one has the name None, and no row has to name it.

    Instances are made once and reset for each row, as in TRL; the first one of each is made here. `kinds` has their
    classes. Raises ConfigError if one cannot be made, or has no method `reset`.
    """

    def __init__(self, factories: Mapping[str | None, Factory]):
        self.factories = factories
        self._made: dict[str | None, list[Any]] = {name: [] for name in factories}
        self._described: dict[str | None, tuple[Tool, ...]] = {}
        self.kinds: Mapping[str | None, type] = {name: self._checked_kind(name) for name in factories}

    def name_of(self, columns: Mapping[str, Any], source: str) -> str | None:
        """The environment of a row with these columns. Raises ConfigError if the row names none of them."""
        if None in self.factories:
            return None
        name = columns.get(ROUTE)
        if name not in self.factories:
            what = f"{source}: the column `{ROUTE}` is {name!r}, which is not a name in `environment_factory`"
            raise ConfigError(what, did_you_mean(str(name), [str(known) for known in self.factories]))
        return name

    def take(self, name: str | None, number: int) -> Any:
        """The instance of this number, which is made if there is none yet."""
        made = self._made[name]
        while len(made) <= number:
            made.append(self.factories[name]())
        return made[number]

    def tools(self, name: str | None, number: int = 0) -> tuple[Tool, ...]:
        """The tools of the instance of this number: its public methods."""
        if name not in self._described:
            self._described[name] = method_tools(self.take(name, 0))
        instance = self.take(name, number)
        return tuple(replace(tool, function=getattr(instance, tool.name)) for tool in self._described[name])

    def close(self) -> None:
        """Closes the instances that have a method `close`, and forgets all; an error of `close` is a warning."""
        for instance in [one for made in self._made.values() for one in made]:
            close = getattr(instance, "close", None)
            if callable(close):
                try:
                    close()
                except Exception as error:  # the code of a user may raise anything
                    what = f"`close` of {type(instance).__name__} raised {type(error).__name__}: {str(error)[:200]}"
                    note(f"warning: {what}")
        for made in self._made.values():
            made.clear()

    def _checked_kind(self, name: str | None) -> type:
        try:
            kind = type(self.take(name, 0))
        except Exception as error:  # the code of a user may raise anything
            what = f"an environment cannot be made: {type(error).__name__}: {str(error)[:200]}"
            remedy = "write a factory that needs no arguments; `reset` gets the columns of a row"
            raise ConfigError(what, remedy) from error
        if not callable(getattr(kind, "reset", None)):
            what = f"environment `{kind.__name__}` has no method `reset`"
            raise ConfigError(what, "write `def reset(self, **row) -> str | None`, which begins the task of a row")
        return kind


def load_environments(given: Factories | None, base: Path | None) -> Environments | None:
    """The environments of a config or a program: one factory, or several by name; None if there are none.

    A factory is a class, or a function without parameters, or its name, `pkg.module:attr` or `./file.py:attr` relative
    to `base`. One instance of each is made. Raises ConfigError if that fails, or if it has no method `reset`.
    """
    if not given:
        return None
    named = given.items() if isinstance(given, Mapping) else [(None, given)]
    return Environments({name: _factory(one, base) for name, one in named})


def reset(environment: Any, row: Mapping[str, Any], seed: int) -> str | None:
    """Resets an environment for a row, and returns what the last message of the prompt tells about it.

    `seed` is passed if `reset` has such a parameter and the row has no column of this name. Raises what `reset` raises,
    and TypeError for a result that is not text.
    """
    parameters = inspect.signature(environment.reset).parameters
    more = {"seed": seed} if "seed" in parameters and "seed" not in row else {}
    told = environment.reset(**row, **more)
    if told is not None and not isinstance(told, str):
        raise TypeError(f"`reset` returned a {type(told).__name__}, not a string or None")
    return told


def _factory(given: str | Factory, base: Path | None) -> Factory:
    if not isinstance(given, str):
        return given
    found = imported(given, lambda: load_object(given, base))
    if not callable(found):
        raise ConfigError(f"`{given}` is not an environment factory", "name a class, or a function that makes one")
    return found
