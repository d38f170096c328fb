"""Writes an order in a prescriber's shorthand (a sig), with variants and misspellings."""

import re
from random import Random

from rung.tiny.pharmacy.lexicon import (
    ADVICE,
    FREQUENCIES,
    MAXIMUM_SIGS,
    PRN_SIGS,
    REASONS,
    ROUTES,
    UNITS,
)
from rung.tiny.pharmacy.orders import Order, Part, largest

MISSPELT_SHARE = 0.12
DRUG_FIRST_SHARE = 0.6
_LONG_WORD = re.compile(r"[a-z]{5,}")


def sig(order: Order, random: Random) -> str:
    """A random sig (prescriber's shorthand) for `order`; drug names and numbers are never misspelt.

    A strength that is None and a route that is empty are left out.

    >>> from rung.tiny.pharmacy.orders import Order, Part
    >>> order = Order("metformin", "500 mg", "tablet", "by mouth", (Part("1", "2 times a day", "10 days"),))
    >>> sig(order, Random(1))
    '1 tab by mouth bid x10d metformin 500 mg'
    """
    how = _how(order, random)
    if random.random() < MISSPELT_SHARE:
        how = misspell(how, random)
    drug = order.drug if order.strength is None else f"{order.drug} {_strength(order.strength, random)}"
    if random.random() < DRUG_FIRST_SHARE:
        return f"{drug}{random.choice((' ', ' ', ', '))}{how}"
    return f"{how} {drug}"


def misspell(text: str, random: Random) -> str:
    """`text` with one of its longer words misspelt: two letters swapped, one dropped or one doubled."""
    words = list(_LONG_WORD.finditer(text))
    if not words:
        return text
    word = random.choice(words)
    at = word.start() + random.randint(1, len(word.group()) - 3)
    swapped = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return random.choice((swapped, text[:at] + text[at + 1 :], text[:at] + text[at] + text[at:]))


def _how(order: Order, random: Random) -> str:
    first = order.parts[0]
    pieces = [_dose(order, first, random), *([random.choice(ROUTES[order.route].sigs)] if order.route else [])]
    timing = [random.choice(FREQUENCIES[first.frequency].sigs)]
    if order.link == "then":
        timing.append(_duration(first.duration, random))
    if order.link is not None:
        timing.append(_second(order, random))
    if order.advice is not None:
        timing.insert(random.choice((len(timing), len(timing), 0)), random.choice(ADVICE[order.advice].sigs))
    pieces += timing
    last = [_prn(order, random)] if order.prn else []
    if first.duration is not None and order.link != "then":
        last.insert(random.choice((0, len(last))), _duration(first.duration, random))
    if order.maximum is not None:
        last.append(_maximum(order, order.maximum, random))
    return " ".join(pieces + last)


def _strength(strength: str, random: Random) -> str:
    number, unit = strength.split(" ", 1)
    return f"{number}{unit}" if unit == "%" or random.random() < 0.25 else f"{number} {unit}"


def _amount(amount: str, random: Random) -> str:
    if amount == "0.5":
        return random.choice(("1/2", "1/2", "0.5"))
    return amount.replace(" to ", "-")


def _dose(order: Order, part: Part, random: Random) -> str:
    one, many = random.choice(UNITS[order.unit].sigs)
    if order.unit == "thin layer":
        return random.choice(("apply", "apply thin layer"))
    return f"{_amount(part.amount, random)} {many if largest(part.amount) > 1 else one}"


def _second(order: Order, random: Random) -> str:
    second = order.parts[1]
    words = [_dose(order, second, random), random.choice(FREQUENCIES[second.frequency].sigs)]
    if second.duration is not None:
        words.append(_duration(second.duration, random))
    link = random.choice(("and", "and", "&")) if order.link == "and" else "then"
    return f"{link} {' '.join(words)}"


def _duration(duration: str | None, random: Random) -> str:
    assert duration is not None
    number, unit = duration.split()
    short = "d" if unit.startswith("day") else "wk"
    return random.choice((f"x{number}{short}", f"x{number}{short}", f"x {number} {unit}", f"for {number} {unit}"))


def _prn(order: Order, random: Random) -> str:
    prn = random.choice(PRN_SIGS)
    if order.reason is None:
        return prn
    return f"{prn} {random.choice(('', '', 'for '))}{random.choice(REASONS[order.reason].sigs)}"


def _maximum(order: Order, maximum: str, random: Random) -> str:
    _, many = random.choice(UNITS[order.unit].sigs)
    counted = random.choice((maximum, f"{maximum} {many}"))
    return f"{random.choice(MAXIMUM_SIGS)} {counted}{random.choice(('/d', '/d', '/day'))}"
