"""Tasks in which the assistant expands a shorthand note to a sentence, in ten trades and in invented ones.

All turns of a document have the same codes, the same order of codes and the same form of sentence. The codes are those
of the trade, or some or all of them are replaced by random ones. Random codes can only be learned from earlier turns or
from a system message that lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from rung.tiny.corpus import words
from rung.tiny.corpus.rules import Rule

_RANDOM_CODES = 0.25
_CHANGED_CODES = 0.35


@dataclass(frozen=True, slots=True)
class Domain:
    """The codes of a trade's shorthand, each with the words that it stands for.

    A note has an amount with a unit, a thing, and optional codes from `slots` and `spans`; spans contain a number.
    """

    label: str
    verbs: Sequence[str]
    units: dict[str, str]  # code -> singular
    slots: Sequence[dict[str, str]]  # code -> phrase, one mapping per slot
    spans: Sequence[dict[str, str]]  # code (its number is at {}, or before it) -> frame such as "for {} week"


DOMAINS = tuple(Domain(**domain) for domain in words.load("domains.toml")["domains"])


def shorthand(rng: Random) -> Rule:
    """The assistant expands the shorthand of a domain to a sentence."""
    return _written_out(rng, rng.choice(DOMAINS), rng.random())


def invented_shorthand(rng: Random) -> Rule:
    """Like `shorthand`, for a trade that is invented for this document, with random codes."""
    phrases = rng.sample(words.PHRASES, 6)
    extra = [f"{rng.choice(('with', 'in', 'for', 'by', 'on', 'to'))} the {words.thing(rng)}" for _ in range(6)]
    pool = rng.sample(phrases + extra, 9)
    domain = Domain(
        rng.choice(words.NOUNS).capitalize(),
        tuple(verb.capitalize() for verb in rng.sample(words.VERBS, 2)),
        {noun[:2]: noun for noun in rng.sample(words.NOUNS, 3)},
        tuple({words.random_code(rng): phrase for phrase in pool[i : i + 3]} for i in (0, 3, 6)),
        tuple(_invented_span(rng) for _ in range(rng.randint(1, 2))),
    )
    return _written_out(rng, domain, 0.0)


def _invented_span(rng: Random) -> dict[str, str]:
    code = rng.choice(("{{}}{}", "{{}}{}", "{}{{}}", "{} {{}}")).format(words.random_code(rng))
    return {code: f"{rng.choice(('for', 'in', 'with', 'over', 'every', 'at most'))} {{}} {rng.choice(words.NOUNS)}"}


def _recode(rng: Random, codes: dict[str, str], share: float, keep: int) -> dict[str, str]:
    """Draws `keep` entries and replaces each code by a random one with probability `share`; a `{}` keeps its place."""
    chosen = rng.sample(list(codes), min(keep, len(codes)))
    return {(_other_code(rng, code) if rng.random() < share else code): codes[code] for code in chosen}


def _other_code(rng: Random, code: str) -> str:
    head, gap, tail = code.partition("{}")
    return f"{head and words.random_code(rng)}{gap}{tail and words.random_code(rng)}" if gap else words.random_code(rng)


def _plural(frame: str, amount: str) -> str:
    """Puts the word after the last `{}` of a frame into the plural, unless the amount is at most 1."""
    if amount in ("1", "1/2", "1/4", "3/4"):
        return frame
    head, gap, tail = frame.rpartition("{} ")
    word, *rest = tail.split(" ")
    return head + gap + " ".join([words.plural(word), *rest])


def _written_out(rng: Random, domain: Domain, kind: float) -> Rule:
    random_codes, changed = kind < _RANDOM_CODES, kind < _RANDOM_CODES + _CHANGED_CODES
    share = 1.0 if random_codes else 0.3 if changed else 0.0
    # Random codes must be learned from earlier turns: there are few of them, so that they recur.
    keep = rng.choice((2, 3)) if random_codes else 9
    units = _recode(rng, domain.units, share, keep)
    slots = [_recode(rng, slot, share, keep) for slot in rng.sample(domain.slots, rng.randint(1, 3))]
    spans = [_recode(rng, span, share, keep) for span in domain.spans if rng.random() < 0.75]
    show, mark = rng.choice((_unchanged, _unchanged, _with_halves, _in_words)), rng.choice(("", "", "x", "/"))
    places = [partial(_slot_place, rng, slot) for slot in slots]
    places += [partial(_span_place, rng, span, mark, show) for span in spans]
    rng.shuffle(places)
    write = _shorthand_form(rng, len(places))
    verb = rng.choice(domain.verbs)
    say = _sentence_form(rng, verb)
    name = rng.choice((words.invented_name, words.invented_name, words.thing, lambda rng: rng.choice(words.NOUNS)))
    glued, sized = rng.random() < 0.5, rng.random() < 0.5
    present, second = rng.uniform(0.4, 0.9), rng.random() < 0.25
    link, linked = rng.choice(
        (("then", ", then"), ("then", " and then"), ("and", " and"), ("&", " and"), ("+", " and"))
    )
    again = rng.random() < 0.3
    prefix = rng.choice(("", "", f"{domain.label}: ", f"{domain.label} note: ", "Write out: "))

    def part() -> tuple[str, list[tuple[str, str] | None], str]:
        """An amount with its unit in shorthand, its codes with their phrases, and the amount as in the sentence."""
        amount = str(rng.randint(1, 12)) if rng.random() < 0.5 else words.number(rng)
        unit = rng.choice(list(units))
        picks = [place() if rng.random() < present else None for place in places]
        return f"{amount} {unit}", picks, _plural(f"{{}} {units[unit]}", amount).format(show(amount))

    def turn() -> tuple[str, str]:
        item = brief_item = name(rng)
        if sized:
            size, measure = rng.choice((rng.randint(1, 99), 25 * rng.randint(1, 40))), rng.choice(words.MEASURES)
            item, brief_item = f"{item} {size} {measure}", f"{item} {size}{'' if glued else ' '}{measure}"
        brief, picks, what = part()
        more, phrases = "", [pick[1] for pick in picks if pick]
        if second:
            other, other_picks, other_what = part()
            more = " ".join([link, other, *(pick[0] for pick in other_picks if pick)])
            doing = [verb.lower()] if again else []
            tail = " ".join([*doing, other_what, *(pick[1] for pick in other_picks if pick)])
            phrases = [*phrases[:-1], f"{phrases[-1]}{linked} {tail}"] if phrases else [f"{linked.lstrip(', ')} {tail}"]
        return prefix + write(brief, brief_item, picks, more), say(what, item, phrases)

    counted = {(code if "{}" in code else f"{{}}{code}"): frame for span in spans for code, frame in span.items()}
    listed = [*units.items(), *(entry for slot in slots for entry in slot.items())]
    listed += [(code.format("n"), frame.format("n")) for code, frame in counted.items()]
    system = None
    if share and rng.random() < 0.35:
        system = rng.choice(("; ", ", ")).join(f"{code} = {phrase}" for code, phrase in rng.sample(listed, len(listed)))
    elif rng.random() < 0.2:
        system = f"Write out the {domain.label.lower()} note as one sentence."
    return Rule(turn, system, (3, 6) if share == 1.0 else (1, 3))


def _slot_place(rng: Random, codes: dict[str, str]) -> tuple[str, str]:
    """Draws a code and its phrase."""
    return rng.choice(list(codes.items()))


def _span_place(rng: Random, spans: dict[str, str], mark: str, show: Callable[[str], str]) -> tuple[str, str]:
    """Draws a code with a number, and its phrase with the same number."""
    code, frame = rng.choice(list(spans.items()))
    count = str(rng.randint(1, 12))
    brief = code.format(count) if "{}" in code else f"{mark}{count}{code}"
    return brief, _plural(frame, count).format(show(count))


def _unchanged(amount: str) -> str:
    return amount


def _with_halves(amount: str) -> str:
    """The amount with a half or a range in words; other numbers are unchanged."""
    return "half a" if amount == "1/2" else amount.replace("-", " to ")


def _in_words(amount: str) -> str:
    """The amount with halves, ranges and small whole numbers in words."""
    return " ".join(words.NUMBER_WORDS.get(word, word) for word in _with_halves(amount).split(" "))


def _shorthand_form(rng: Random, num_places: int) -> Callable[[str, str, Sequence[tuple[str, str] | None], str], str]:
    """Draws an order, and returns a function that writes amount, thing and codes in it; `more` follows the codes."""
    order = rng.sample(range(num_places), num_places)
    item_at = rng.choice(("first", "first", "second", "last"))
    comma = rng.choice((" ", " ", " ", ", "))

    def write(amount: str, item: str, picks: Sequence[tuple[str, str] | None], more: str) -> str:
        codes = [*(pick[0] for i in order if (pick := picks[i])), *([more] if more else [])]
        match item_at:
            case "first":
                return f"{item}{comma}{' '.join([amount, *codes])}"
            case "second":
                return " ".join([amount, item, *codes])
            case _:
                return " ".join([amount, *codes, item])

    return write


def _sentence_form(rng: Random, verb: str) -> Callable[[str, str, list[str]], str]:
    """Draws a style (plain, with commas, the thing first, ...), and returns a function that writes sentences in it."""
    style = rng.choice(("plain", "plain", "plain", "comma", "and", "colon", "first", "first"))
    end, polite = rng.choice((".", ".", "")), rng.choice(("", "", "", "Please "))
    of = rng.choice(("of", "of", "of the", "of your"))

    def say(what: str, item: str, phrases: list[str]) -> str:
        head = polite + (verb.lower() if polite else verb)
        if style == "first":
            return f"{item}: {' '.join([polite.lower() + verb.lower(), what, *phrases])}{end}"
        whole = f"{what} {of} {item}"
        if style == "colon":
            return f"{verb}: {', '.join([whole, *phrases])}{end}"
        if style == "and" and len(phrases) > 1:
            return f"{head} {whole} {', '.join(phrases[:-1])} and {phrases[-1]}{end}"
        return f"{head} {(', ' if style == 'comma' else ' ').join([whole, *phrases])}{end}"

    return say
