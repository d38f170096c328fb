"""Reads YAML files, with numbers such as `1e-5`, and writes YAML with the keys in order.

A config may come from anybody: only plain values are read, and a file that would take long or fill the memory when its
aliases are expanded is refused. Duplicate keys, of which PyYAML silently drops all but the last, are errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from rung.errors import ConfigError, UserError

MAX_BYTES = 2**20  # the longest shipped config has 3 KB
MAX_VALUES = 100_000  # after the aliases are expanded
MAX_DEPTH = 50
MAX_NUMBER = 100  # characters of a number: PyYAML reads some long ones in quadratic time
_FLOAT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
_PREFIX = "tag:yaml.org,2002:"
_PLAIN = frozenset(
    _PREFIX + name for name in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq", "merge")
)
_MERGE, _STRING, _NULL = (_PREFIX + name for name in ("merge", "str", "null"))
_JOINED = re.compile(r"([A-Za-z_]\w*):(\S.*)")  # a key and its value without the space after the colon
_PLACE = "correct this place; tabs and unclosed brackets are common causes"


def read_yaml(file: Path) -> dict[str, Any]:
    """Reads a YAML file that is a mapping; ConfigError where it cannot be read or is not UTF-8, YAML or a mapping."""
    try:
        if file.exists() and not file.is_file():  # reading a pipe or a device may never end
            raise ConfigError(f"{file} is not a file", "name a YAML file")
        with file.open("rb") as content:
            raw = content.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ConfigError(f"{file} is longer than {MAX_BYTES} bytes", "put data into files of their own")
        value = parse_yaml(raw.decode("utf-8-sig"), str(file))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", "check the path and its permissions") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: byte {error.start} is not UTF-8", "save the file as UTF-8") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{file} is not a mapping of keys to values", "start with `name:`, `model:` and `stages:`")
    return value


def parse_yaml(text: str, source: str, remedy: str = _PLACE) -> Any:
    """The value of a YAML text, made of plain values and of mappings whose keys are strings.

    Strings such as `1e-5` are converted to numbers. Raises ConfigError, naming `source` and the line, for a text that
    is not YAML, repeats a key, has a tag or a number that is not plain, or is too deep or too large with its aliases.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check(node, source, {})
            return numbers(loader.construct_document(node))
        finally:
            loader.dispose()
    except UserError:
        raise
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {one_line(error)}", remedy) from None
    except (
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
    ) as error:  # PyYAML's own, such as for `month: 13` of a date
        raise ConfigError(f"{source}: a value cannot be read: {error}", "correct it, or put it into quotes") from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which stops at a level that is too deep before it has read what is in it."""

    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"more than {MAX_DEPTH} levels", problem_mark=self.peek_event().start_mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _check(node: Node, source: str, sizes: dict[int, int]) -> int:
    """The number of values in a node with its aliases expanded; `sizes` has those of the nodes that were checked."""
    place = f"{source}, line {node.start_mark.line + 1}"
    if id(node) in sizes:
        size = sizes[id(node)]
        if not size:
            raise ConfigError(f"{place}: an alias refers to the value that contains it", "write the value out")
        return size
    if node.tag not in _PLAIN:
        what = f"{place}: the tag `{node.tag.replace(_PREFIX, '!!')}` is not allowed"
        raise ConfigError(what, "write a plain value: text, number, true, false, null, date, list or mapping")
    sizes[id(node)] = 0
    if isinstance(node, ScalarNode):
        _check_scalar(node, place)
    if isinstance(node, MappingNode):
        _check_keys(node, source)
    children = [child for pair in node.value for child in pair] if isinstance(node, MappingNode) else node.value
    inner = children if isinstance(node, MappingNode | SequenceNode) else ()
    size = 1 + sum(_check(child, source, sizes) for child in inner)
    if size > MAX_VALUES:
        raise ConfigError(f"{place}: more than {MAX_VALUES} values", "use fewer aliases, or put data into files")
    sizes[id(node)] = size
    return size


def _check_scalar(node: ScalarNode, place: str) -> None:
    if node.tag != _STRING and len(node.value) > MAX_NUMBER:
        raise ConfigError(f"{place}: a number with {len(node.value)} characters", "write a shorter one")
    if any("\ud800" <= letter <= "\udfff" for letter in node.value):
        raise ConfigError(f"{place}: an unpaired surrogate, which UTF-8 cannot encode", "write the character itself")
    if "\0" in node.value:
        raise ConfigError(f"{place}: a NUL character", "remove it: no name or text contains one")


def _check_keys(node: MappingNode, source: str) -> None:
    """Raises ConfigError for a key that is not a string, that a mapping has twice, or that is joined to its value."""
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag == _MERGE:
            continue
        if not isinstance(key, ScalarNode) or key.tag != _STRING:
            shown = f"`{key.value}`" if isinstance(key, ScalarNode) else "a list or mapping"
            raise ConfigError(f"{source}, line {line}: the key {shown} is not a text", "put the key into quotes")
        if key.value in seen:
            what = f"{source}, line {line}: the key `{key.value}` stands in line {seen[key.value]} already"
            raise ConfigError(what, "remove one of them")
        joined = _JOINED.fullmatch(key.value)
        if joined is not None and value.tag == _NULL and not value.value:
            what = f"{source}, line {line}: the entry `{key.value}` has no space after the colon"
            raise ConfigError(what, f"write `{joined[1]}: {joined[2]}`")
        seen[key.value] = line


def numbers(value: Any) -> Any:
    """Converts strings such as `1e-5` to numbers, also in nested values: YAML 1.1 reads them as strings.

    >>> numbers({"learning_rate": "1e-5", "name": "e5"})
    {'learning_rate': 1e-05, 'name': 'e5'}
    """
    if isinstance(value, str) and len(value) <= MAX_NUMBER and _FLOAT.fullmatch(value):
        return float(value)
    if isinstance(value, dict):
        return {key: numbers(child) for key, child in value.items()}
    return [numbers(child) for child in value] if isinstance(value, list) else value


def as_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML, with the keys in order."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


def one_line(error: yaml.YAMLError) -> str:
    """The message of a YAML error on one line."""
    return " ".join(str(error).split())
