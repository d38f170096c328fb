"""Orders, which represent the meaning of a prescription, and a generator of plausible ones."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import accumulate
from random import Random
from typing import Any

from rung.tiny.pharmacy.formulary import Drug, Family, families
from rung.tiny.pharmacy.lexicon import TIMES_A_DAY

STRENGTH_SHARE = 0.88
ADVICE_SHARE = 0.35
REASON_SHARE = 0.85
MAXIMUM_SHARE = 0.35
HALVES_SHARE = 0.25
STEPS_SHARE = 0.8
HALVES = (("every morning", "at bedtime"), ("every morning", "every evening"), ("every morning", "at bedtime"))


@dataclass(frozen=True, slots=True)
class Part:
    """One dose of an order: an amount and how often it is taken.

    In a taper (one dose for some days, then another), `duration`, such as "10 days", applies to this dose only.
    """

    amount: str
    frequency: str
    duration: str | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """The meaning of a prescription, in the plain words of `lexicon.py` and with amounts in digits ("1 to 2").

    `parts` are one or two doses. `link` is "and" for two doses per day with a common duration, which the first part
    holds, or "then" for one dose after the other, each with its own duration. `prn` is true for a drug that is taken
    only if needed. `maximum` is an amount per day. Errors in `advice` are harmless.
    """

    drug: str
    strength: str | None
    unit: str
    route: str
    parts: tuple[Part, ...]
    link: str | None = None
    advice: str | None = None
    prn: bool = False
    reason: str | None = None
    maximum: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The order as plain JSON values."""
        record = asdict(self)
        record["parts"] = list(record["parts"])
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Order":
        """Makes an order from its plain record; the inverse of `as_dict`."""
        return cls(**{**record, "parts": tuple(Part(**part) for part in record["parts"])})


def largest(amount: str) -> float:
    """An amount as a number; for a range, its upper end.

    >>> largest("1 to 2"), largest("0.5")
    (2.0, 0.5)
    """
    return float(amount.split()[-1])


def draw_order(random: Random, split: str, name: str | None = None) -> Order:
    """Draws a plausible order for a drug of `split`; `name`, if given, replaces the name of the drug."""
    table, cumulative = families(), _cumulative()
    while True:
        family = random.choices(table, cum_weights=cumulative)[0]
        drug = random.choice(family.drugs[split])
        order = _order(random, family, drug, name or random.choice(drug.names))
        if _plausible(order, drug):
            return order


def draw_order_of(random: Random, family: Family, drug: Drug, name: str) -> Order:
    """Draws a plausible order for a drug under one of its names, or an invented one."""
    while True:
        order = _order(random, family, drug, name)
        if _plausible(order, drug):
            return order


@lru_cache(maxsize=1)
def _cumulative() -> list[float]:
    return list(accumulate(family.weight for family in families()))


def _order(random: Random, family: Family, drug: Drug, name: str) -> Order:
    reasons = drug.reasons or family.reasons
    parts, link = _parts(random, family)
    prn = link is None and bool(reasons) and random.random() < family.prn
    duration = link != "then" and random.random() < family.lasting
    if duration:
        parts = (Part(parts[0].amount, parts[0].frequency, random.choice(family.durations)), *parts[1:])
    return Order(
        drug=name,
        strength=random.choice(drug.strengths) if drug.strengths and random.random() < STRENGTH_SHARE else None,
        unit=family.unit,
        route=random.choice(family.routes),
        parts=parts,
        link=link,
        advice=random.choice(family.advice) if family.advice and random.random() < ADVICE_SHARE else None,
        prn=prn,
        reason=random.choice(reasons) if prn and random.random() < REASON_SHARE else None,
        maximum=random.choice(family.maxima) if prn and family.maxima and random.random() < MAXIMUM_SHARE else None,
    )


def _parts(random: Random, family: Family) -> tuple[tuple[Part, ...], str | None]:
    if family.steps and random.random() < STEPS_SHARE:
        first, first_days, second, second_days = random.choice(family.steps).split("/")
        frequency = random.choice(family.frequencies)
        return (Part(first, frequency, first_days), Part(second, frequency, second_days)), "then"
    if family.halves and random.random() < HALVES_SHARE:
        first, second = random.sample(sorted(set(family.amounts)), 2)
        early, late = random.choice(HALVES)
        return (Part(first, early), Part(second, late)), "and"
    return (Part(random.choice(family.amounts), random.choice(family.frequencies)),), None


def _plausible(order: Order, drug: Drug) -> bool:
    """Whether the amount per day is within the drug's limit, and a maximum is reachable and at least two doses."""
    times = TIMES_A_DAY[order.parts[0].frequency]
    if order.link == "and":
        day = sum(largest(part.amount) for part in order.parts)
    else:
        day = max(largest(part.amount) * TIMES_A_DAY[part.frequency] for part in order.parts)
    if order.maximum is not None:
        ceiling = float(order.maximum)
        if ceiling < 2 * largest(order.parts[0].amount) or ceiling > times * largest(order.parts[0].amount):
            return False
        day = ceiling
    if order.strength is None or drug.limit is None:
        return True
    return day * float(order.strength.split()[0]) <= drug.limit
