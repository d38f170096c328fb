"""Tools are loaded as TRL takes them: functions with type hints and a Google docstring; what is wrong is named."""

from __future__ import annotations

import functools
from inspect import getsource
from pathlib import Path
from typing import Any, Literal

import pytest

from helpers.trl_tools import async_add, multiply
from rung.agents.schema import wrong_argument
from rung.agents.tools import TOOL_TIMEOUT_S, ToolSpec, load_tools, method_tools
from rung.errors import ConfigError

FILE = f"{getsource(multiply)}\n{getsource(async_add)}\nnumber = 3\n"


def undescribed(a: int):
    pass


def unhinted(a):
    """Does nothing."""


def undocumented(a: int, b: int):
    """Adds.

    Args:
        a: a number
    """


def unknown_type(a: list[Path]):
    """Reads.

    Args:
        a: paths
    """


def unreadable(a: Nowhere):  # type: ignore # noqa: F821
    """Reads."""


def of_any(*a: int):
    """Adds."""


def by_place(a: int, /):
    """Adds."""


def bad_choices(a: str):
    """Chooses.

    Args:
        a: what to take (choices: [x)
    """


class Maze:
    """An environment as in TRL."""

    def reset(self, **row: Any) -> None: ...

    def get_reward(self) -> float:
        return 0.0

    def close(self) -> None: ...

    def _walls(self) -> None: ...

    @property
    def broken(self) -> str:
        raise RuntimeError("a property of the object was run")

    def move(self, to: Literal["left", "right"], steps: int | None = None) -> str:
        """Moves.

        Args:
            to: where to
            steps: how far
        """
        return to

    async def look(self) -> str:
        """Looks."""
        return "a wall"


def test_a_function_of_trl_s_documentation_has_the_schema_of_transformers(tmp_path) -> None:
    from transformers.utils.chat_template_utils import get_json_schema

    (tmp_path / "mine.py").write_text(FILE)
    named, given, coroutine = load_tools(["./mine.py:multiply"], tmp_path) + load_tools(
        [{"name": multiply, "timeout_s": 2}, ToolSpec(name="./mine.py:async_add")], tmp_path
    )
    assert named.schema == given.schema == get_json_schema(multiply)
    assert named.parameters["required"] == ["a", "b"]
    assert named.address == {"name": "./mine.py:multiply", "base": str(tmp_path), "env": []}
    assert (given.address, given.function) == (None, multiply)
    assert (named.timeout_s, given.timeout_s) == (TOOL_TIMEOUT_S, 2)
    assert coroutine.name == "async_add"


def test_the_public_methods_of_an_environment_are_tools() -> None:
    maze = Maze()
    look, move = method_tools(maze)
    assert (look.name, move.name) == ("look", "move")
    assert move.function("left") == "left"
    assert "self" not in move.parameters["properties"]
    (bound,) = load_tools([maze.move], None)
    assert bound.schema == move.schema


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (undescribed, "tool `undescribed` has no docstring"),
        (unhinted, "tool `unhinted`: the parameter `a` has no type hint"),
        (undocumented, "the docstring does not describe the parameter `b`"),
        (unknown_type, "the type hint `list[pathlib.Path]` of the parameter `a` is not known"),
        (unreadable, "a type hint cannot be read: name 'Nowhere' is not defined"),
        (of_any, "the parameter `*a` cannot be passed by name"),
        (by_place, "the parameter `a` cannot be passed by name"),
        (bad_choices, "tool `bad_choices` has no schema"),
        (Maze, "tool `Maze` is a class"),
        (functools.partial(multiply, 1), "of type `partial`, not a function"),
        (3, "3 is not a tool"),
        ("multiply", "`multiply` is not the name of an object"),
        ("./mine.py:multply", "has no `multply`"),
        ("./other.py:multiply", "there is no file"),
        ("./mine.py:number", "of type `int`, not a function"),
        ("./exits.py:f", "exits on import"),
        ({"name": "./mine.py:multiply", "timeout": 3}, "unknown key `timeout`"),
        ({"name": "./mine.py:multiply", "timeout_s": 0}, "`timeout_s` is 0"),
        ({"timeout_s": 3}, "`name` is missing"),
        ({"name": "./mine.py:multiply", "env": ["NO_SUCH_KEY"]}, "needs the environment variable `NO_SUCH_KEY`"),
        ({"name": multiply, "env": ["HOME"]}, "it runs in the training process"),
    ],
)
def test_what_is_wrong_with_a_tool_is_said_in_two_lines(entry, says, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "exits.py").write_text("raise SystemExit(1)")
    with pytest.raises(ConfigError) as caught:
        load_tools([entry], tmp_path)
    assert says in caught.value.what
    assert len(str(caught.value).splitlines()) == 2


def test_two_tools_of_one_name_and_a_method_without_docstring_are_refused(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    with pytest.raises(ConfigError, match="two tools are called `multiply`"):
        load_tools(["./mine.py:multiply", multiply], tmp_path)

    class Bare:
        def step(self) -> None: ...

    with pytest.raises(ConfigError, match=r"tool `Bare\.step` has no docstring"):
        method_tools(Bare())


SCHEMA = {
    "properties": {
        "n": {"type": "integer"},
        "x": {"type": "number", "nullable": True},
        "s": {"type": ["string", "boolean"]},
        "c": {"type": "string", "enum": ["a", "b"]},
        "l": {"type": "array", "items": {"type": "integer"}},
        "d": {"type": "object", "additionalProperties": {"type": "string"}},
        "u": {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]},
        "any": {},
    },
    "required": ["n"],
}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"n": 1, "x": 2, "s": "a", "c": "b", "l": [1], "d": {"k": "v"}, "u": None, "any": [None]}, ""),
        ({"n": 3.0, "x": None, "s": False, "u": [1]}, ""),
        ({}, "the argument `n` is missing"),
        ({"n": 1, "z": 1}, "there is no argument `z`"),
        ({"n": True}, "`n` must be of type integer, not true"),
        ({"n": 1.5}, "`n` must be of type integer, not 1.5"),
        ({"n": float("nan")}, "`n` must be of type integer"),
        ({"n": 1, "x": "2"}, "`x` must be of type number"),
        ({"n": 1, "s": 2}, "`s` must be of type string or boolean, not 2"),
        ({"n": 1, "c": "z"}, '`c` must be one of "a", "b", not "z"'),
        ({"n": 1, "l": ["x"]}, '`l` must be of type array of integer, not ["x"]'),
        ({"n": 1, "d": {"k": 1}}, "`d` must be of type object"),
        ({"n": 1, "u": ["x"]}, "`u` must be of another type"),
    ],
)
def test_arguments_are_checked_against_the_basic_types_of_the_schema(arguments, says) -> None:
    told = wrong_argument(SCHEMA, arguments)
    assert says in told
    assert bool(says) == bool(told)
