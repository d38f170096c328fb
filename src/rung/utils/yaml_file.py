"""Reads YAML files, with numbers such as `1e-5`, and writes YAML with the keys in order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rung.errors import ConfigError

_FLOAT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def read_yaml(file: Path) -> dict[str, Any]:
    """Reads a YAML file that is a mapping; ConfigError where it cannot be read or is not UTF-8, YAML or a mapping."""
    try:
        return _mapping(yaml.safe_load(file.read_text(encoding="utf-8")), str(file))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", "check the path and its permissions") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: byte {error.start} is not UTF-8", "save the file as UTF-8") from None
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{file} is not YAML: {one_line(error)}",
            "correct this place; tabs and unclosed brackets are common causes",
        ) from None


def _mapping(value: object, source: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{source} is not a mapping of keys to values", "start with `name:`, `model:` and `stages:`")
    return {key: numbers(child) for key, child in value.items()}


def numbers(value: Any) -> Any:
    """Converts strings such as `1e-5` to numbers, also in nested values: YAML 1.1 reads them as strings.

    >>> numbers({"learning_rate": "1e-5", "name": "e5"})
    {'learning_rate': 1e-05, 'name': 'e5'}
    """
    if isinstance(value, str) and _FLOAT.fullmatch(value):
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
