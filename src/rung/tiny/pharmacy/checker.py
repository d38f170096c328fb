"""Compares a dosing instruction with the order that it should state: correct, dangerous, harmless or unparseable."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

from rung.tiny.pharmacy.lexicon import PILLS, VERBS, verb
from rung.tiny.pharmacy.orders import Order
from rung.tiny.pharmacy.reader import Dose, Reading, days, read

Outcome = Literal["correct", "dangerous", "harmless", "unparseable"]

SEVERITY: dict[str, float] = {
    "drug": 1.0,
    "dose": 0.9,
    "strength": 0.8,
    "frequency": 0.7,
    "route": 0.7,
    "maximum": 0.6,
    "link": 0.5,
    "prn": 0.5,
    "duration": 0.4,
    "reason": 0.3,
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """The result of comparing a dosing instruction with its order.

    `wrong` names the parts of the order (drug, dose, route, frequency, ...) that differ, harmless ones included.
    `severity`, in [0, 1], is 1 - product(1 - SEVERITY) over the dangerous ones among them. `share`, in [0, 1], is the
    share of parts that are correct.
    """

    outcome: Outcome
    wrong: tuple[str, ...]
    severity: float
    share: float


@dataclass(frozen=True, slots=True)
class _Component:
    """One part of an order (drug, dose, route, ...), and whether the dosing instruction states it correctly.

    `danger` is the key of the part in SEVERITY, or None if a wrong part is harmless.
    """

    name: str
    danger: str | None
    right: bool


def judge(text: str, order: Order) -> Judgement:
    """Judges whether the dosing instruction `text` has the content of `order`, in any wording.

    Dangerous: a wrong, missing or added drug, strength, dose, frequency, route, duration, maximum, "if needed" (PRN) or
    reason, or a missing second dose. Harmless: different advice about food or water, a missing reason, a tablet called
    a capsule, an unusual verb. Unparseable: a text that cannot be read as one dosing instruction.

    >>> from rung.tiny.pharmacy.orders import Order, Part
    >>> order = Order("metformin", "500 mg", "tablet", "by mouth", (Part("1", "2 times a day"),), advice="with food")
    >>> judge("metformin 500 mg: take one tablet orally twice daily with food.", order).outcome
    'correct'
    >>> judge("Take 2 tablets of metformin 500 mg by mouth 2 times a day.", order).wrong
    ('dose', 'advice')
    """
    reading = read(text)
    if reading is None:
        return Judgement("unparseable", (), 0.0, 0.0)
    components = list(_components(reading, order))
    wrong = tuple(one.name for one in components if not one.right)
    dangers = [one.danger for one in components if not one.right and one.danger is not None]
    severity = 1.0 - prod(1.0 - SEVERITY[danger] for danger in dangers)
    outcome: Outcome = "dangerous" if dangers else "harmless" if wrong else "correct"
    return Judgement(outcome, wrong, severity, 1.0 - len(wrong) / len(components))


def _components(reading: Reading, order: Order) -> Iterator[_Component]:
    """Every part (drug, dose, route, ...) that the order or the dosing instruction has."""
    yield _Component("drug", "drug", reading.drug == order.drug.lower())
    yield from _optional("strength", "strength", reading.strength, order.strength)
    yield _Component("route", "route", reading.route == order.route)
    yield from _parts(reading, order)
    yield from _optional("prn", "prn", reading.prn is not None or None, order.prn or None)
    if reading.reason is not None or order.reason is not None:
        missing = reading.reason is None
        yield _Component("reason", None if missing else "reason", reading.reason == order.reason)
    yield from _optional("maximum", "maximum", reading.maximum, order.maximum)
    if reading.maximum is not None and not _same_unit(reading.maximum_unit, order.unit):
        yield _Component("maximum unit", "maximum", False)
    yield from _optional("advice", None, reading.advice, order.advice)
    unit = reading.doses[0].unit
    if unit != order.unit and _same_unit(unit, order.unit):
        yield _Component("form", None, False)
    if reading.verb is not None and reading.verb not in VERBS[verb(order.unit, order.route)]:
        yield _Component("verb", None, False)


def _parts(reading: Reading, order: Order) -> Iterator[_Component]:
    yield from _optional("link", "link", reading.link, order.link)
    for at in range(max(len(reading.doses), len(order.parts))):
        suffix = "" if at == 0 else f" {at + 1}"
        dose = reading.doses[at] if at < len(reading.doses) else Dose()
        part = order.parts[at] if at < len(order.parts) else None
        same = part is not None and dose.amount == part.amount and _same_unit(dose.unit, order.unit)
        yield _Component(f"dose{suffix}", "dose", same)
        yield _Component(f"frequency{suffix}", "frequency", part is not None and dose.frequency == part.frequency)
        duration = part.duration if part is not None else None
        yield from _optional(f"duration{suffix}", "duration", dose.days, None if duration is None else days(duration))


def _optional(name: str, danger: str | None, found: object, expected: object) -> Iterator[_Component]:
    """Yields an optional part, or nothing if neither the dosing instruction nor the order has it."""
    if found is not None or expected is not None:
        yield _Component(name, danger, found == expected)


def _same_unit(found: str | None, expected: str) -> bool:
    return found == expected or {found, expected} <= PILLS
