"""Writes an order as a dosing instruction for the patient, in the house style or in another writing style."""

import re
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Literal

from rung.tiny.pharmacy.lexicon import FREQUENCIES, PRN_CLINICAL, PRN_PLAIN, REASONS, ROUTES, UNITS, verb
from rung.tiny.pharmacy.orders import Order, Part, largest

_TO_TWENTY = str.split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
NUMBER_WORDS = dict(enumerate(_TO_TWENTY)) | {
    21: "twenty-one",
    28: "twenty-eight",
    30: "thirty",
    40: "forty",
    60: "sixty",
    90: "ninety",
}


@dataclass(frozen=True, slots=True)
class Style:
    """A writing style. The defaults are the house style: verb first, digits, plain words, no filler, a final period."""

    opening: Literal["verb", "drug"] = "verb"
    numbers: Literal["digits", "words"] = "digits"
    terms: Literal["plain", "clinical"] = "plain"
    units: Literal["full", "short"] = "full"
    manner: Literal["bare", "polite"] = "bare"
    ending: Literal["period", "none"] = "period"


HOUSE = Style()
HANDS: dict[str, Style] = {
    "house": HOUSE,
    "formal": Style(opening="drug", numbers="words", terms="clinical"),
    "brief": Style(opening="drug", terms="clinical", units="short", ending="none"),
    "chatty": Style(numbers="words", manner="polite"),
}


def toward_house(hand: Style, slip: float, random: Random) -> Style:
    """A mixture of two styles: each field is that of `hand` with probability `slip`, else that of the house style."""
    kept = {f.name: getattr(hand, f.name) for f in fields(Style) if random.random() < slip}
    return replace(HOUSE, **kept)


def direction(order: Order, style: Style = HOUSE) -> str:
    """The dosing instruction for `order`, written in `style`.

    >>> from rung.tiny.pharmacy.orders import Order, Part
    >>> order = Order("metformin", "500 mg", "tablet", "by mouth", (Part("1", "2 times a day", "10 days"),))
    >>> direction(order)
    'Take 1 tablet of metformin 500 mg by mouth 2 times a day for 10 days.'
    >>> direction(order, HANDS["formal"])
    'metformin 500 mg: take one tablet orally twice daily for ten days.'
    """
    drug = order.drug if order.strength is None else f"{order.drug} {order.strength}"
    dose, how = _dose(order, order.parts[0].amount, style), _how(order, style)
    act = verb(order.unit, order.route)
    polite = style.manner == "polite"
    if style.opening == "drug":
        text = f"{drug}: {'please ' if polite else ''}{act} {dose} {how}"
    elif polite:
        text = f"Please {act} {dose} of your {drug} {how}"
    else:
        text = f"{act.capitalize()} {dose} of {drug} {how}"
    return text + ("." if style.ending == "period" else "")


def _how(order: Order, style: Style) -> str:
    first = order.parts[0]
    route = ROUTES[order.route].clinical if style.terms == "clinical" else order.route
    words = [route, _frequency(first, style)]
    if order.link == "and":
        words.append(f"and {_second(order, style)}")
    if order.advice is not None:
        words.append(order.advice)  # every hand has the same words for it
    if order.prn:
        words.append(_prn(order, style))
    if first.duration is not None:
        words.append(f"for {_spelled(first.duration, style)}")
    text = " ".join(words)
    if order.link == "then":
        text += f", then {_second(order, style)}"
    if order.maximum is not None:
        text += f", {_maximum(order, order.maximum, style)}"
    return text


def _spelled(text: str, style: Style) -> str:
    """`text`, with whole numbers written in words if `style.numbers` is "words"."""
    if style.numbers == "digits":
        return text
    return re.sub(r"(?<![\d.])\d+(?![\d.])", lambda found: NUMBER_WORDS.get(int(found[0]), found[0]), text)


def _counted(order: Order, amount: str, style: Style) -> str:
    unit = UNITS[order.unit]
    one, many = (unit.one, unit.many) if style.units == "full" else unit.short
    return f"{_spelled(amount, style)} {many if largest(amount) > 1 else one}"


def _dose(order: Order, amount: str, style: Style) -> str:
    if order.unit == "thin layer":
        return "a thin layer"
    if amount == "0.5":
        return f"half a {_counted(order, '1', HOUSE if style.units == 'full' else style).split(maxsplit=1)[1]}"
    return _counted(order, amount, style)


def _frequency(part: Part, style: Style) -> str:
    words = FREQUENCIES[part.frequency].clinical if style.terms == "clinical" else part.frequency
    return _spelled(words, style)


def _second(order: Order, style: Style) -> str:
    second = order.parts[1]
    text = f"{_dose(order, second.amount, style)} {_frequency(second, style)}"
    return text if second.duration is None else f"{text} for {_spelled(second.duration, style)}"


def _prn(order: Order, style: Style) -> str:
    words = PRN_CLINICAL if style.terms == "clinical" else PRN_PLAIN
    if order.reason is None:
        return words
    return f"{words} for {REASONS[order.reason].clinical if style.terms == 'clinical' else order.reason}"


def _maximum(order: Order, maximum: str, style: Style) -> str:
    counted = _counted(order, maximum, style)
    return f"maximum {counted} daily" if style.terms == "clinical" else f"at most {counted} a day"
