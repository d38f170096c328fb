"""The formulary: which strength and route each drug has, and the tool with which a model looks them up."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from rung.tiny.pharmacy.formulary import SPLITS, Drug, Family, families
from rung.tiny.pharmacy.names import invent

INVENTED = 1500
PLAIN = frozenset({"tablet", "capsule", "spray", "drop", "puff"})  # units whose amounts are plain numbers


@dataclass(frozen=True, slots=True)
class Entry:
    """A drug of the formulary: its name, the only strength and route in which it is stocked, and what it is like."""

    name: str
    strength: str
    route: str
    family: Family
    drug: Drug


def lookup(drug: str) -> str:
    """Strength and route.

    Args:
        drug: its name
    """
    entry = entries().get(drug.strip().lower())
    if entry is None:
        alike = [name for name in _by_initial().get(drug[:1].lower(), ()) if abs(len(name) - len(drug)) <= 1]
        near = difflib.get_close_matches(drug.lower(), alike, n=1, cutoff=0.7)
        raise ValueError(f"no {drug}; {entries()[near[0]].name}?" if near else f"no {drug}")
    return f"{entry.strength} {entry.route}"


@lru_cache(maxsize=1)
def entries() -> dict[str, Entry]:
    """All drugs by their names in lower case: the real ones, and invented ones."""
    found = {name.lower(): _entry(name, family, drug) for family, drug, name in _real()}
    random = Random("formulary/names")
    usable = [(family, drug) for family, drug, _ in _real()]
    while len(found) < len(_real()) + INVENTED:
        name = invent(random)
        if name.lower() not in found:
            found[name.lower()] = _entry(name, *random.choice(usable))
    return found


@lru_cache(maxsize=1)
def _by_initial() -> dict[str, list[str]]:
    """The names in lower case by their first letter: comparing a name with all of them would take milliseconds."""
    found: dict[str, list[str]] = {}
    for name in entries():
        found.setdefault(name[0], []).append(name)
    return found


@lru_cache(maxsize=1)
def _real() -> tuple[tuple[Family, Drug, str], ...]:
    """The names of real drugs that have strengths."""
    return tuple(
        (family, drug, name)
        for family in families()
        if family.unit in PLAIN
        for split in SPLITS
        for drug in family.drugs[split]
        if drug.strengths
        for name in drug.names
    )


def real_names(split: str) -> list[str]:
    """The names of the real drugs of a split that are in the formulary."""
    return [
        name
        for family in families()
        if family.unit in PLAIN
        for drug in family.drugs[split]
        if drug.strengths
        for name in drug.names
    ]


def _entry(name: str, family: Family, drug: Drug) -> Entry:
    random = Random(f"formulary/{name}")
    return Entry(name, random.choice(drug.strengths), random.choice(family.routes), family, drug)
