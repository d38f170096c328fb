"""Parses a whole dosing instruction, in any wording and mostly in any order.

Parsing is strict where a policy could exploit leniency: there is at most one drug, every other part (dose, route, ...)
occurs at most once, and no word may be left over.
"""

from dataclasses import dataclass, field
from itertools import pairwise

from rung.tiny.pharmacy.phrases import Phrase, scan

MAX_NAME_WORDS = 3


@dataclass(slots=True)
class Dose:
    """A dose as a text states it; `days` is the duration in days."""

    amount: str | None = None
    unit: str | None = None
    frequency: str | None = None
    days: int | None = None


@dataclass(slots=True)
class Reading:
    """The content of a dosing instruction; a field is None if the text does not state it."""

    drug: str | None = None
    strength: str | None = None
    route: str | None = None
    doses: list[Dose] = field(default_factory=lambda: [Dose()])
    link: str | None = None
    advice: str | None = None
    prn: str | None = None
    reason: str | None = None
    maximum: str | None = None
    maximum_unit: str | None = None
    verb: str | None = None


def days(duration: str) -> int:
    """Converts a duration to days.

    >>> days("10 days"), days("2 weeks")
    (10, 14)
    """
    number, unit = duration.split()
    return int(float(number)) * (7 if unit.startswith("week") else 1)


def read(text: str) -> Reading | None:
    """The content of `text`, or None if it is not a single, unambiguous dosing instruction.

    >>> read("Take 1 tablet of xyz 5 mg by mouth once a day.").drug
    'xyz'
    >>> read("Take 1 tablet of xyz by mouth once a day twice a day.") is None
    True
    """
    phrases = scan(text)
    if phrases is None or not _punctuated(phrases):
        return None
    reading = Reading()
    for at, phrase in enumerate(phrases):
        if phrase.kind in ("mark", "filler"):
            continue
        if phrase.kind == "link":
            if reading.link is not None or not _opens_dose(phrases[at + 1 :]):
                return None
            reading.link = phrase.value
            reading.doses.append(Dose())
        elif not _store(reading, phrase):
            return None
    core = (reading.drug, reading.doses[0].amount, reading.doses[0].frequency)
    return reading if sum(value is not None for value in core) >= 2 else None


def _store(reading: Reading, phrase: Phrase) -> bool:
    """Stores `phrase` in `reading`; returns False if the phrase has no field, or its field is already set."""
    dose = reading.doses[-1]
    match phrase.kind:
        case "name":
            return phrase.count <= MAX_NAME_WORDS and _set_once(reading, "drug", phrase.value)
        case "dose":
            amount, unit = phrase.value.split("|")
            return _set_once(dose, "amount", amount) and _set_once(dose, "unit", unit)
        case "maximum":
            amount, unit = phrase.value.split("|")
            return _set_once(reading, "maximum", amount) and _set_once(reading, "maximum_unit", unit)
        case "duration":
            return _set_once(reading.doses[0] if reading.link == "and" else dose, "days", days(phrase.value))
        case "frequency":
            return _set_once(dose, "frequency", phrase.value)
        case "verb" if reading.link is not None:
            return dose.amount is None
        case "stray":
            return False
        case kind:
            return _set_once(reading, kind, phrase.value)


def _set_once(record: Reading | Dose, name: str, value: str | int) -> bool:
    if getattr(record, name) is not None:
        return False
    setattr(record, name, value)
    return True


def _opens_dose(phrases: list[Phrase]) -> bool:
    """Whether the next phrase is a dose, ignoring a verb or filler before it."""
    kinds = [phrase.kind for phrase in phrases[:3] if phrase.kind not in ("verb", "filler")]
    return kinds[:1] == ["dose"]


def _punctuated(phrases: list[Phrase]) -> bool:
    """Whether no mark begins the text or follows another mark, and there are at most two periods."""
    kinds = [phrase.kind for phrase in phrases]
    doubled = any(a == b == "mark" for a, b in pairwise(kinds))
    periods = sum(phrase.kind == "mark" and phrase.value == "." for phrase in phrases)
    return bool(kinds) and kinds[0] != "mark" and not doubled and periods <= 2
