"""Keys that are spelled otherwise elsewhere, and what stands for them here, from `configs/spelling.yaml`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

import rung
from rung.config.models import StageConfig
from rung.registry import hint

STAGE_KEYS = frozenset(field.alias or name for name, field in StageConfig.model_fields.items())
ADVICE = {"write": "write ", "leave out": "leave it out: "}


class Spelling(NamedTuple):
    """What to do about keys, about all keys that begin in one way, and about values of a key."""

    keys: Mapping[str, str]
    families: Mapping[str, str]
    methods: Mapping[tuple[str, str], str]


@cache
def spelling() -> Spelling:
    """The table of `configs/spelling.yaml`, advice by key."""
    files = (Path(root) / "configs" / "spelling.yaml" for root in rung.__path__)
    table = yaml.safe_load(next(file for file in files if file.is_file()).read_text(encoding="utf-8"))
    advice = {
        key: f"{start}{words}"
        for section, start in ADVICE.items()
        for words, keys in table[section].items()
        for key in keys
    }
    families = {key.removesuffix("*"): words for key, words in advice.items() if key.endswith("*")}
    keys = {key: words for key, words in advice.items() if not key.endswith("*")}
    methods = {
        (key, value): f"a name is the whole method: write {words}"
        for key, values in table["methods"].items()
        for value, words in values.items()
    }
    return Spelling(keys, families, methods)


def old_advice(key: str) -> str | None:
    """What to do about a key of TRL or of an older script; None for any other."""
    table = spelling()
    in_family = (words for start, words in table.families.items() if key.startswith(start))
    return table.keys.get(key) or next(in_family, None)


def method_advice(key: str, value: object) -> str | None:
    """What to do about a value that means an algorithm of its own here; None for any other."""
    return spelling().methods.get((key, value)) if isinstance(value, str) else None


def successor(key: str, known: Collection[str], value: object = None) -> str:
    """What to do about an unknown key: what stands for an old spelling, else the nearest known one.

    >>> successor("num_iterations", [])
    'write `updates.epochs`'
    >>> successor("learning_rat", ["learning_rate"])
    'did you mean `learning_rate`? known: learning_rate'
    """
    return old_advice(key) or method_advice(key, value) or hint(key, known)


def setting_successor(key: str, known: Collection[str], value: object) -> str:
    """`successor` for an unknown key inside `algorithm`, where a stage's key may have been written."""
    if key in STAGE_KEYS:
        return f"it is a stage's key: write `{key}` beside `algorithm`"
    return successor(key, known, value)
