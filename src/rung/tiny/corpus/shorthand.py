"""Shorthand written out as a sentence, in five domains and in made-up ones.

Every document fixes the codes, the order of the shorthand and the sentence. Codes are the domain's own, its own with
some changed, or all random: the last kind can be read from the earlier turns (or a system turn that lists them) only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from rung.tiny.corpus import words
from rung.tiny.corpus.rules import Rule

_RANDOM_CODES = 0.25
_CHANGED_CODES = 0.35


@dataclass(frozen=True, slots=True)
class Domain:
    """A trade's shorthand: a unit goes with an amount and a thing, `slots` are optional, `spans` count something."""

    label: str
    verbs: Sequence[str]
    units: dict[str, str]  # code -> singular
    slots: Sequence[dict[str, str]]  # code -> phrase, one mapping a slot
    spans: dict[str, str]  # code -> frame of the singular, such as "for {} week"


DOMAINS = tuple(Domain(**domain) for domain in words.load("domains.toml")["domains"])


def shorthand(rng: Random) -> Rule:
    """A domain's shorthand -> its sentence."""
    return _written_out(rng, rng.choice(DOMAINS), rng.random())


def invented_shorthand(rng: Random) -> Rule:
    """The same for a trade that exists in this document only, with random codes."""
    phrases = rng.sample(words.PHRASES, 6)
    extra = [f"{rng.choice(('with', 'in', 'for', 'by', 'on', 'to'))} the {words.thing(rng)}" for _ in range(6)]
    pool = rng.sample(phrases + extra, 9)
    domain = Domain(
        rng.choice(words.NOUNS).capitalize(),
        tuple(verb.capitalize() for verb in rng.sample(words.VERBS, 2)),
        {noun[:2]: noun for noun in rng.sample(words.NOUNS, 3)},
        tuple({words.random_code(rng): phrase for phrase in pool[i : i + 3]} for i in (0, 3, 6)),
        {rng.choice(words.NOUNS)[:2]: f"{rng.choice(('for', 'in', 'with', 'over'))} {{}} {rng.choice(words.NOUNS)}"},
    )
    return _written_out(rng, domain, 0.0)


def _recode(rng: Random, codes: dict[str, str], share: float, keep: int) -> dict[str, str]:
    """`keep` of the entries, each with a new code at the given share."""
    chosen = rng.sample(list(codes), min(keep, len(codes)))
    return {(words.random_code(rng) if rng.random() < share else code): codes[code] for code in chosen}


def _plural(frame: str, amount: str) -> str:
    """The word after the frame's gap in the plural, unless the amount is at most 1."""
    if amount in ("1", "1/2", "1/4", "3/4"):
        return frame
    head, gap, tail = frame.rpartition("{} ")
    word, *rest = tail.split(" ")
    return head + gap + " ".join([words.plural(word), *rest])


def _written_out(rng: Random, domain: Domain, kind: float) -> Rule:
    random_codes, changed = kind < _RANDOM_CODES, kind < _RANDOM_CODES + _CHANGED_CODES
    share = 1.0 if random_codes else 0.3 if changed else 0.0
    # Few codes where they must be learnt from the turns before, so that they return.
    keep = rng.choice((2, 3)) if random_codes else 9
    units = _recode(rng, domain.units, share, keep)
    slots = [_recode(rng, slot, share, keep) for slot in rng.sample(domain.slots, rng.randint(1, 3))]
    spans = _recode(rng, domain.spans, share, keep)
    write = _shorthand_form(rng, len(slots))
    say = _sentence_form(rng, rng.choice(domain.verbs))
    show = rng.choice((str, str, str, _in_words))
    name = rng.choice((words.invented_name, words.invented_name, words.thing, lambda rng: rng.choice(words.NOUNS)))
    glued, sized = rng.random() < 0.5, rng.random() < 0.3
    present, second = rng.uniform(0.5, 0.95), rng.random() < 0.12
    prefix = rng.choice(("", "", f"{domain.label}: ", f"{domain.label} note: ", "Write out: "))

    def part(item: str) -> tuple[str, str]:
        """One amount with its codes, without and with the thing itself, as shorthand and as words."""
        amount, unit = words.number(rng), rng.choice(list(units))
        picks = [rng.choice(list(slot)) if rng.random() < present else None for slot in slots]
        span = rng.choice(list(spans)) if rng.random() < 0.5 else None
        count = str(rng.randint(1, 12))
        phrases = [slot[pick] for slot, pick in zip(slots, picks, strict=True) if pick]
        if span:
            phrases.append(_plural(spans[span], count).format(show(count)))
        what = _plural("{} " + units[unit], amount).format(show(amount))
        return write(f"{amount} {unit}", item, picks, f"{count}{span}" if span else None), say(what, item, phrases)

    def turn() -> tuple[str, str]:
        item, brief_item = name(rng), ""
        if sized:
            size, measure = rng.choice((rng.randint(1, 99), 25 * rng.randint(1, 40))), rng.choice(words.MEASURES)
            item, brief_item = f"{item} {size} {measure}", f"{item} {size}{measure}" if glued else ""
        brief, said = part(item)
        brief = brief.replace(item, brief_item or item)
        if second:
            more = part("")
            brief, said = f"{brief} then {more[0]}", f"{said.rstrip('.')}, then {more[1][0].lower()}{more[1][1:]}"
        return prefix + brief, said

    listed = [*units.items(), *(entry for slot in slots for entry in slot.items())]
    system = None
    if share and rng.random() < 0.35:
        system = rng.choice(("; ", ", ")).join(f"{code} = {phrase}" for code, phrase in rng.sample(listed, len(listed)))
    elif rng.random() < 0.2:
        system = f"Write out the {domain.label.lower()} note as one sentence."
    return Rule(turn, system, (3, 6) if share == 1.0 else (1, 3))


def _in_words(amount: str) -> str:
    """Small whole numbers as words, others as they are."""
    return words.NUMBER_WORDS.get(amount, amount)


def _shorthand_form(rng: Random, num_slots: int) -> Callable[[str, str, list[str | None], str | None], str]:
    """One order of amount, thing, codes and span."""
    order = rng.sample(range(num_slots), num_slots)
    item_at, span_first = rng.choice(("first", "second", "last")), rng.random() < 0.3
    mark = rng.choice(("", "", "x", "/"))

    def write(amount: str, item: str, picks: list[str | None], span: str | None) -> str:
        codes = [code for i in order if (code := picks[i])]
        spans = [mark + span] if span else []
        tail = spans + codes if span_first else codes + spans
        pieces = {"first": [item, amount, *tail], "second": [amount, item, *tail], "last": [amount, *tail, item]}
        return " ".join(piece for piece in pieces[item_at] if piece)

    return write


def _sentence_form(rng: Random, verb: str) -> Callable[[str, str, list[str]], str]:
    """One hand: a plain sentence, commas, the thing first, or the verb apart."""
    style, end = rng.choice(("plain", "plain", "plain", "comma", "and", "colon", "first")), rng.choice((".", ".", ""))
    polite = rng.choice(("", "", "", "Please "))

    def say(what: str, item: str, phrases: list[str]) -> str:
        head = polite + (verb.lower() if polite else verb)
        if style == "first":
            return f"{item + ': ' if item else ''}{' '.join([verb.lower(), what, *phrases])}{end}"
        whole = f"{what} of {item}" if item else what
        if style == "colon":
            return f"{verb}: {', '.join([whole, *phrases])}{end}"
        if style == "and" and len(phrases) > 1:
            return f"{head} {whole} {', '.join(phrases[:-1])} and {phrases[-1]}{end}"
        return f"{head} {(', ' if style == 'comma' else ' ').join([whole, *phrases])}{end}"

    return say
