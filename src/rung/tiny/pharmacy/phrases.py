"""Splits a dosing instruction in any writing style into phrases, each with its meaning, such as a dose or a route."""

import re
from dataclasses import dataclass
from functools import lru_cache

from rung.tiny.pharmacy.directions import NUMBER_WORDS
from rung.tiny.pharmacy.lexicon import (
    ADVICE,
    FREQUENCIES,
    PRN_ALSO,
    PRN_CLINICAL,
    PRN_PLAIN,
    REASONS,
    ROUTES,
    STRENGTH_UNITS,
    UNITS,
    VERBS,
)

MAX_WORDS = 80
FILLERS = frozenset({"please", "your", "of", "the"})
MARKS = frozenset(".,:;")
MOST = ("at most", "maximum", "no more than", "up to", "do not take more than", "do not use more than")
_WORD = re.compile(r"\d+(?:\.\d+)?|[a-z]+(?:[-'][a-z]+)*|[-.,:;/%]")
_VALUES = {word: str(number) for number, word in NUMBER_WORDS.items()}


@dataclass(frozen=True, slots=True)
class Phrase:
    """Consecutive words of a text with one meaning, as a kind and a value ("frequency", "2 times a day").

    `count` is the number of words. Kind "name" is a run of words that belong to no known phrase, "stray" a number or
    sign that belongs to none, "mark" punctuation, and "filler" a word without a meaning, such as "please".
    """

    kind: str
    value: str
    count: int = 1


def scan(text: str) -> list[Phrase] | None:
    """The phrases of `text` in order; None if it has more than MAX_WORDS words or an unknown character.

    >>> [(phrase.kind, phrase.value) for phrase in scan("Take 1 tab of xyz twice daily")]
    [('verb', 'take'), ('dose', '1|tablet'), ('filler', 'of'), ('name', 'xyz'), ('frequency', '2 times a day')]
    """
    words = _words(text.lower())
    if words is None or len(words) > MAX_WORDS:
        return None
    shape = ["#" if word[0].isdigit() else word for word in words]
    phrases: list[Phrase] = []
    at = 0
    while at < len(words):
        phrase = _phrase(words, shape, at) or _single(words[at])
        at += phrase.count
        if phrase.kind == "name" and phrases and phrases[-1].kind == "name":
            last = phrases.pop()
            phrase = Phrase("name", f"{last.value} {phrase.value}", last.count + 1)
        phrases.append(phrase)
    return phrases


def _words(text: str) -> list[str] | None:
    """The words of a lower-case text, with numbers in digits; None if a character belongs to no word."""
    words: list[str] = _WORD.findall(text)
    if len("".join(words)) != len("".join(text.split())):
        return None
    return _ranges([_canonical(word) for word in _halves([_spelled(word) for word in words])])


def _spelled(word: str) -> str:
    return _VALUES.get(word, word)


def _canonical(word: str) -> str:
    return f"{float(word):g}" if word[0].isdigit() else word


def _halves(words: list[str]) -> list[str]:
    """`words` with every spelling of a half as a number: "half a", "1/2", "1 and a half"."""
    if "half" not in words and "/" not in words:
        return words
    text = " ".join(words)
    text = re.sub(r"(?<![\d.])(\d+) (?:and (?:a |1 )?half|1 / 2)\b", r"\g<1>.5", text)
    text = re.sub(r"(?<![\d.])1 / 2\b|\bhalf an?\b|\ba half\b|\bhalf\b", "0.5", text)
    return text.split()


def _ranges(words: list[str]) -> list[str]:
    """`words` with "1 to 2" and "1 - 2" as one word."""
    joined: list[str] = []
    for word in words:
        if len(joined) >= 2 and joined[-1] in ("to", "-") and word[0].isdigit() and joined[-2][0].isdigit():
            joined.pop()
            joined.append(f"{joined.pop()} to {word}")
        else:
            joined.append(word)
    return joined


def _single(word: str) -> Phrase:
    if word in MARKS:
        return Phrase("mark", word)
    if word in FILLERS:
        return Phrase("filler", word)
    return Phrase("name" if word[0].isalpha() else "stray", word)


def _phrase(words: list[str], shape: list[str], at: int) -> Phrase | None:
    """The longest known phrase that starts at word `at`; its exact words take precedence over a pattern with `#`."""
    table, lengths = _patterns()
    for length in lengths.get(shape[at], ()):
        end = at + length
        found = table.get(tuple(words[at:end])) or table.get(tuple(shape[at:end]))
        if found is not None:
            numbers = (word for word in words[at:end] if word[0].isdigit())
            return Phrase(found[0], found[1].format(*numbers), length)
    return None


@lru_cache(maxsize=1)
def _patterns() -> tuple[dict[tuple[str, ...], tuple[str, str]], dict[str, list[int]]]:
    """The known phrases: kind and value by words (`#` is any number), and lengths, longest first, by first word."""
    table: dict[tuple[str, ...], tuple[str, str]] = {}
    lengths: dict[str, set[int]] = {}
    for kind, wording, value in _wordings():
        words = tuple(_VALUES.get(word, word) for word in wording.lower().split())
        table.setdefault(words, (kind, value))
        lengths.setdefault("#" if words[0][0].isdigit() else words[0], set()).add(len(words))
    return table, {first: sorted(found, reverse=True) for first, found in lengths.items()}


def _wordings() -> list[tuple[str, str, str]]:
    found = [("verb", verb, verb) for verb in sorted(set(VERBS).union(*VERBS.values()))]
    for kind, terms in (("route", ROUTES), ("frequency", FREQUENCIES), ("advice", ADVICE)):
        for plain, term in terms.items():
            found += [(kind, wording, plain) for wording in (plain, term.clinical, *term.also)]
    for plain, term in REASONS.items():
        found += [("reason", f"for {wording}", plain) for wording in (plain, term.clinical, *term.also)]
    found += [("prn", wording, PRN_PLAIN) for wording in (PRN_PLAIN, PRN_CLINICAL, *PRN_ALSO)]
    found += [("link", "and", "and"), ("link", "then", "then")]
    found += [("link", "and then", "then"), ("link", "followed by", "then")]
    for unit in STRENGTH_UNITS:
        words = re.sub(r"([/%])", r" \1 ", unit)
        found.append(("strength", "# " + re.sub(r"\d+", "#", words), "{} " + re.sub(r"\d+", "{}", unit)))
    for times in ("a day", "daily", "each day", "per day"):
        found.append(("frequency", f"# times {times}", "{} times a day"))
    found += [("frequency", "every # hours", "every {} hours"), ("frequency", "every # days", "every {} days")]
    found += [("frequency", "# times a week", "{} times a week")]
    for length in ("day", "days", "week", "weeks"):
        found += [("duration", f"{word} # {length}", "{} " + length) for word in ("for", "x", "for the next")]
    return found + _counts()


def _counts() -> list[tuple[str, str, str]]:
    """Wordings of doses and maxima: a number with a unit, in full or short."""
    found = [("dose", "a thin layer", "1|thin layer")]
    for name, unit in UNITS.items():
        for counted in {unit.one, unit.many, *unit.short}:
            found.append(("dose", f"# {counted}", "{}|" + name))
            for day in ("a day", "daily", "per day", "each day"):
                found += [("maximum", f"{most} # {counted} {day}", "{}|" + name) for most in MOST]
    return found
