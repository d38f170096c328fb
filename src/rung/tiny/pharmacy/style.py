"""Measures how far a dosing instruction follows the house style, whether its content is right or wrong."""

import re
from functools import lru_cache

from rung.tiny.pharmacy.directions import NUMBER_WORDS
from rung.tiny.pharmacy.lexicon import ADVICE, FREQUENCIES, PRN_PLAIN, REASONS, ROUTES, UNITS, VERBS
from rung.tiny.pharmacy.phrases import FILLERS, Phrase, scan

ORDER = ("verb", "dose", "name", "strength", "route", "frequency", "advice", "prn", "reason", "duration", "maximum")
CORE = frozenset({"dose", "route", "frequency"})
_HOUSE_FILLERS = frozenset({"of", "the"})
_OPENING = re.compile(r"(\d+(\.\d+)?( to \d+(\.\d+)?)?|half a|a thin) ")
_WORD = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*|\d+")


def style_rules(text: str) -> dict[str, float]:
    """For each rule of the house style, 1 if `text` follows the rule, else 0.

    opening: a plain verb, then the amount; numbers: in digits, not in words; terms: plain words, no jargon; units: not
    shortened; manner: no filler words; order: dose, route, frequency, ... in the order of ORDER; ending: one period, at
    the end.

    >>> style_rules("xyz: take one tab orally twice daily")["order"]
    0.0
    """
    phrases = scan(text) or []
    words = [word.lower() for word in _WORD.findall(text)]
    return {
        "opening": float(_opens(text)),
        "numbers": float(not _NUMBERS.intersection(words)),
        "terms": float(not _jargon().intersection(words)),
        "units": float(not _SHORT.intersection(words)),
        "manner": float(not (FILLERS - _HOUSE_FILLERS).intersection(words)),
        "order": float(_ordered(phrases)),
        "ending": float(text.endswith(".") and not re.search(r"\.\s", text)),
    }


def house_style(text: str) -> float:
    """The share of the house-style rules that `text` follows, multiplied by the completeness of `text`; in [0, 1].

    Completeness is the share of dose, route and frequency that `text` states. It makes a text without content score 0,
    although such a text breaks few rules.

    >>> house_style("Take 1 tablet of xyz 5 mg by mouth 2 times a day.")
    1.0
    >>> house_style("Hello.")
    0.0
    """
    rules = style_rules(text)
    core = CORE.intersection(phrase.kind for phrase in scan(text) or [])
    return len(core) / len(CORE) * sum(rules.values()) / len(rules)


_NUMBERS = frozenset(NUMBER_WORDS.values())
_SHORT = frozenset(word for unit in UNITS.values() for word in unit.short if word not in (unit.one, unit.many))


def _opens(text: str) -> bool:
    first, _, remainder = text.partition(" ")
    return first.lower() in VERBS and first.istitle() and _OPENING.match(remainder) is not None


def _ordered(phrases: list[Phrase]) -> bool:
    firsts: dict[str, int] = {}
    for at, phrase in enumerate(phrases):
        firsts.setdefault(phrase.kind, at)
    places = [firsts[kind] for kind in ORDER if kind in firsts]
    return bool(places) and places == sorted(places)


@lru_cache(maxsize=1)
def _jargon() -> frozenset[str]:
    """The words that occur in clinical terms or in shorthand, but in no plain wording."""
    tables = (ROUTES, FREQUENCIES, ADVICE, REASONS)
    plain = {word for table in tables for key in table for word in key.split()} | set(PRN_PLAIN.split())
    units = {word for unit in UNITS.values() for word in f"{unit.one} {unit.many}".split()}
    clinical = [term.clinical for table in tables for term in table.values()] + ["as needed", "maximum", "daily"]
    shorthand = [sig for table in tables for term in table.values() for sig in term.sigs] + ["prn", "max", "nte"]
    words = {word for wording in clinical + shorthand for word in _WORD.findall(wording) if word.isalpha()}
    return frozenset(words - plain - units - set(NUMBER_WORDS.values()) - _COMMON)


_COMMON = frozenset({"a", "at", "most", "of", "for", "to", "in", "with", "by", "then", "and"})
