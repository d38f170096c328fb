"""Advice on what to write in place of keys of TRL, older scripts and earlier versions, from `configs/spelling.yaml`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

import rung
from rung.config.schema import StageConfig
from rung.utils.messages import did_you_mean

STAGE_KEYS = frozenset(field.alias or name for name, field in StageConfig.model_fields.items())
ADVICE = {"write": "write ", "leave out": "leave it out because "}


class Spelling(NamedTuple):
    """The tables of `configs/spelling.yaml`.

    `keys`: advice for a key. `families`: advice for all keys with a prefix. `methods`: advice for a key with a certain
    value. `renamed`: the new names of renamed keys.
    """

    keys: Mapping[str, str]
    families: Mapping[str, str]
    methods: Mapping[tuple[str, str], str]
    renamed: Mapping[str, str]


@cache
def spelling() -> Spelling:
    """Reads the tables of `configs/spelling.yaml`, which lists the keys under each piece of advice."""
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
        (key, value): f"the name of the algorithm selects the objective: write {words}"
        for key, values in table["methods"].items()
        for value, words in values.items()
    }
    renamed = dict(table["renamed"])
    return Spelling(keys | {old: f"write `{new}`" for old, new in renamed.items()}, families, methods, renamed)


def old_advice(key: str) -> str | None:
    """Advice for a key of TRL, of an older script or of an earlier version of rung; None for any other key."""
    table = spelling()
    in_family = (words for start, words in table.families.items() if key.startswith(start))
    return table.keys.get(key) or next(in_family, None)


def method_advice(key: str, value: object) -> str | None:
    """Advice for a value that is an algorithm of its own in rung, such as `loss_type: dapo`; None for other values."""
    return spelling().methods.get((key, value)) if isinstance(value, str) else None


def successor(key: str, known: Collection[str], value: object = None) -> str:
    """Advice for an unknown key: the name that it has in rung, else similar keys among `known`.

    >>> successor("num_iterations", [])
    'write `updates.epochs`'
    >>> successor("learning_rat", ["learning_rate"])
    'did you mean `learning_rate`? known: learning_rate'
    """
    return old_advice(key) or method_advice(key, value) or did_you_mean(key, known)


def setting_successor(key: str, known: Collection[str], value: object) -> str:
    """Advice for an unknown key inside `algorithm`: like `successor`, but the key may also be one of the stage."""
    if key in STAGE_KEYS:
        return f"it is a key of the stage: write `{key}` beside `algorithm`"
    return successor(key, known, value)
