"""Restores rows of parquet files and hub data sets: no nulls that Arrow added, and class names in place of numbers."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Classes = Mapping[str, Sequence[str]]


def from_arrow(columns: Mapping[str, Any], classes: Classes) -> dict[str, Any]:
    """The columns, with class numbers as names, and without the null keys of objects that are inside lists.

    Arrow gives all objects of a column the same keys, so that a tool call gets the arguments of all other tools, as
    null; a class number below 0 (no label) becomes null.

    >>> from_arrow({"calls": [{"city": "Ulm", "a": None}], "label": 1}, {"label": ["good", "bad"]})
    {'calls': [{'city': 'Ulm'}], 'label': 'bad'}
    """
    named = {name: _class_name(value, classes[name]) if name in classes else value for name, value in columns.items()}
    return {name: _without_nulls(value, in_list=False) for name, value in named.items()}


def class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of the classes of each `ClassLabel` column, from the features of a data set as JSON values."""
    found = {name: feature for name, feature in features.items() if isinstance(feature, Mapping)}
    return {name: list(kind["names"]) for name, kind in found.items() if kind.get("_type") == "ClassLabel"}


def classes_of_parquet(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of the classes of each column, from the metadata that `datasets` writes into parquet files."""
    written = (metadata or {}).get(b"huggingface")
    if written is None:
        return {}
    try:
        features = json.loads(written)["info"]["features"]
    except (ValueError, KeyError, TypeError):  # written by something else
        return {}
    return class_names(features) if isinstance(features, dict) else {}


def _class_name(value: Any, names: Sequence[str]) -> Any:
    if not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def _without_nulls(value: Any, *, in_list: bool) -> Any:
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if part is not None or not in_list}
        return {key: _without_nulls(part, in_list=in_list) for key, part in kept.items()}
    if isinstance(value, list):
        return [_without_nulls(part, in_list=True) for part in value]
    return value
