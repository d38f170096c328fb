"""Preference pairs of dosing instructions: the rejected one has a worse style, or one dangerous error (a near-miss)."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random

from rung.tiny.pharmacy.directions import HANDS, direction, toward_house
from rung.tiny.pharmacy.formulary import families
from rung.tiny.pharmacy.lexicon import FREQUENCIES
from rung.tiny.pharmacy.orders import Order, Part
from rung.tiny.pharmacy.style import house_style

NEAR_MISS_SHARE = 0.2
SLIP = 0.5
OTHER_HANDS = tuple(hand for name, hand in HANDS.items() if name != "house")
CONFUSED_ROUTES = (
    ("by mouth", "under the tongue", "in the rectum"),
    ("in the rectum", "in the vagina", "by mouth"),
    ("on the skin", "under the skin"),
    ("into the lungs", "in each nostril", "by mouth"),
    ("in the right eye", "in the left eye", "in both eyes", "in the right ear"),
    ("in the right ear", "in the left ear", "in both ears", "in the right eye"),
)


def draw_pair(order: Order, random: Random) -> tuple[str, str]:
    """Draws the chosen and the rejected dosing instruction for `order`.

    In most pairs both texts have the right content. The rejected text is in a style other than the house style; the
    chosen one is closer to the house style, but keeps each feature of the other style with probability `SLIP`. So every
    pair prefers the house style, although most chosen texts do not fully follow it. In the other pairs, a share of
    `NEAR_MISS_SHARE`, the rejected text has one dangerous error, in the style of the chosen text or in the other style.
    """
    hand = random.choice(OTHER_HANDS)
    edited = toward_house(hand, SLIP, random)
    if random.random() < NEAR_MISS_SHARE:
        return direction(order, edited), direction(draw_near_miss(order, random), random.choice((edited, hand)))
    rejected = direction(order, hand)
    while house_style(chosen := direction(order, edited)) <= house_style(rejected):
        edited = toward_house(hand, SLIP, random)
    return chosen, rejected


def draw_near_miss(order: Order, random: Random) -> Order:
    """`order` with one dangerous error: one part of it (drug, dose, route, ...) is changed or left out."""
    changes = [change for change in NEAR_MISSES.values() if change(order, random) is not None]
    missed = random.choice(changes)(order, random)
    assert missed is not None
    return missed


def _first(order: Order, **changes: str | None) -> Order:
    first = order.parts[0]
    values = {"amount": first.amount, "frequency": first.frequency, "duration": first.duration, **changes}
    assert values["amount"] is not None
    assert values["frequency"] is not None
    part = Part(values["amount"], values["frequency"], values["duration"])
    return replace(order, parts=(part, *order.parts[1:]))


def _other(random: Random, choices: Iterable[str], value: str) -> str:
    return random.choice([choice for choice in choices if choice != value])


def _drug(order: Order, random: Random) -> Order:
    others = [drug for family in families() for drug in family.drugs["train"] if order.drug not in drug.names]
    return replace(order, drug=random.choice(random.choice(others).names))


def _strength(order: Order, random: Random) -> Order | None:
    if order.strength is None:
        return None
    number, unit = order.strength.split(" ", 1)
    return replace(order, strength=f"{float(number) * random.choice((2, 10)):g} {unit}")


def _dose(order: Order, random: Random) -> Order | None:
    if order.unit == "thin layer":
        return None
    return _first(order, amount=_other(random, ["1", "2", "3", "4"], order.parts[0].amount))


def _frequency(order: Order, random: Random) -> Order:
    return _first(order, frequency=_other(random, FREQUENCIES, order.parts[0].frequency))


def _route(order: Order, random: Random) -> Order:
    return replace(order, route=_other(random, _confused(order.route), order.route))


def _confused(route: str) -> tuple[str, ...]:
    return next(routes for routes in CONFUSED_ROUTES if routes[0] == route or route in routes[1:])


def _duration(order: Order, random: Random) -> Order | None:
    duration = order.parts[0].duration
    if duration is None:
        return None
    return _first(order, duration=_other(random, ["2 days", "6 days", "12 days", "3 weeks"], duration))


def _prn(order: Order, random: Random) -> Order | None:
    return replace(order, prn=False, reason=None) if order.prn else None


def _maximum(order: Order, random: Random) -> Order | None:
    if order.maximum is None:
        return None
    return replace(order, maximum=random.choice((None, str(int(order.maximum) * 2))))


def _second(order: Order, random: Random) -> Order | None:
    return replace(order, parts=order.parts[:1], link=None) if order.link is not None else None


NEAR_MISSES: dict[str, Callable[[Order, Random], Order | None]] = {
    "drug": _drug,
    "strength": _strength,
    "dose": _dose,
    "frequency": _frequency,
    "route": _route,
    "duration": _duration,
    "prn": _prn,
    "maximum": _maximum,
    "second part": _second,
}
