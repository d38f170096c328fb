"""Mixtures of several data sets, of which each gives a share of the examples by its weight."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rung.data.spec import DataSpec
from rung.errors import ConfigError, DataError

ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Part:
    """One data set of a mixture, and its weight relative to the others; None if the mixture has no weights."""

    spec: str | Mapping[str, Any] | DataSpec
    weight: float | None


@dataclass(frozen=True, slots=True)
class Mixture:
    """Several data sets that are used as one."""

    parts: tuple[Part, ...]


def mixture(entries: Sequence[Any]) -> Mixture:
    """The mixture that a list in a config describes: of files, hub ids, and mappings with an optional `weight`.

    Raises `ConfigError` for an empty list, and if some data sets have a weight and others have none.
    """
    parts = tuple(_part(entry, number) for number, entry in enumerate(entries, 1))
    if not parts:
        raise ConfigError("data: the list has no data set", "give at least one file, hub id or mapping")
    weighted = [part.weight is not None for part in parts]
    if any(weighted) and not all(weighted):
        raise ConfigError(
            f"data: number {weighted.index(False) + 1} of the list has no `weight`, but others have one",
            "give every data set a `weight`, or none to use all rows",
        )
    return Mixture(parts)


def drawn(names: Sequence[str], sizes: Sequence[int], weights: Sequence[float | None]) -> list[int]:
    """How many examples each data set gives: all without weights, else the most that have the ratios of the weights.

    No example is used twice: the data set that is smallest for its weight is used as a whole. Raises `DataError` if
    a data set gives none.

    >>> drawn(["a", "b"], [100, 1000], [2, 1]), drawn(["a", "b"], [100, 1000], [None, None])
    ([100, 50], [100, 1000])
    """
    given = [1.0 if weight is None else weight for weight in weights]
    if None in weights:
        return list(sizes)
    unit = min(size / weight for size, weight in zip(sizes, given, strict=True))
    counts = [math.floor(unit * weight + ROUNDING) for weight in given]
    if 0 in counts:
        scarce = names[min(range(len(sizes)), key=lambda i: sizes[i] / given[i])]
        what = f"{names[counts.index(0)]}: its `weight` gives no example, since {scarce} has too few for its own"
        raise DataError(what, "choose weights that are closer to each other, or add rows")
    return counts


def _part(entry: Any, number: int) -> Part:
    if isinstance(entry, str):
        return Part(entry, None)
    if not isinstance(entry, Mapping):
        what = f"data: number {number} of the list is not a data set (found {type(entry).__name__})"
        raise ConfigError(what, "give a file, a hub id, or a mapping with `path` or `name`, and an optional `weight`")
    weight = entry.get("weight")
    if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0):
        raise ConfigError(f"data: the `weight` of number {number} of the list is {weight!r}", "give a number above 0")
    return Part({key: value for key, value in entry.items() if key != "weight"}, weight)
