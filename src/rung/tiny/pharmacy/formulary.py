"""The drugs of the task: their names, strengths and plausible doses, read from `families.toml` in this folder."""

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Drug:
    """One drug with all its names; `limit` is the maximum amount per day, in the unit of `strengths`."""

    names: tuple[str, ...]
    strengths: tuple[str, ...]
    limit: float | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Drugs that are taken in the same way: the plausible values of an order, and the drugs of each split.

    `weight` is the relative frequency of the family, `prn` the share of its orders that are taken only if needed, and
    `lasting` the share with a duration. `steps` are tapers; `halves` allows two different amounts per day.
    """

    weight: float
    unit: str
    routes: tuple[str, ...]
    amounts: tuple[str, ...]
    frequencies: tuple[str, ...]
    drugs: dict[str, tuple[Drug, ...]]
    advice: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    prn: float = 0.0
    durations: tuple[str, ...] = ()
    lasting: float = 0.0
    maxima: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    halves: bool = False


def drug(line: str) -> Drug:
    """Parses a drug from its line in `families.toml`.

    >>> drug("ibuprofen/Advil 200 400 mg <2400 @pain")
    Drug(names=('ibuprofen', 'Advil'), strengths=('200 mg', '400 mg'), limit=2400.0, reasons=('pain',))
    """
    names, *words = line.split()
    reasons = tuple(word[1:].replace("_", " ") for word in words if word.startswith("@"))
    limits = [float(word[1:]) for word in words if word.startswith("<")]
    *numbers, unit = [word for word in words if word[0] not in "@<"] or [""]
    strengths = tuple(f"{number} {unit.replace('_', ' ')}" for number in numbers)
    spelled = tuple(name.replace("_", " ") for name in names.split("/"))
    return Drug(spelled, strengths, limits[0] if limits else None, reasons)


def _family(table: dict[str, Any]) -> Family:
    choices: dict[str, Any] = {key: _frozen(value) for key, value in table.items() if key not in SPLITS}
    return Family(**choices, drugs={split: tuple(drug(line) for line in table[split]) for split in SPLITS})


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


@lru_cache(maxsize=1)
def families() -> tuple[Family, ...]:
    """All drug families in `families.toml`."""
    table = tomllib.loads((Path(__file__).parent / "families.toml").read_text(encoding="utf-8"))
    return tuple(_family(entry) for entry in table["family"])


@lru_cache(maxsize=len(SPLITS))
def drug_names(split: str) -> frozenset[str]:
    """The generic and brand names of all drugs of `split`."""
    return frozenset(name for family in families() for one in family.drugs[split] for name in one.names)
