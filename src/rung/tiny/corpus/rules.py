"""Small text tasks: copying, recall, fields of records, case, dictionaries, spelling, sums, short instructions.

Each function draws the rule of one document. This rule generates all turns of the document, so that the first turns are
examples for the later ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from rung.tiny.corpus import words


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule of one document: `turn()` makes the next user message and the assistant's answer to it.

    `system` is the system message, if any; the number of turns is drawn from the range `num_turns`.
    """

    turn: Callable[[], tuple[str, str]]
    system: str | None = None
    num_turns: tuple[int, int] = (1, 3)


_ASKED = ("Repeat: {}", "Copy: {}", "Say {}", "Echo {}", "Write this again: {}", "Please repeat {}.", "Repeat ' {} '")
_SHOWN = ("{}", "{}", "The word is {}", "Here is {}.")
_ANSWERS = ("{}", "{}.", "Name: {}", "It is {}.", "You said {}", "-> {}", "{} {}")


def copying(rng: Random) -> Rule:
    """The assistant repeats a text on request, or puts a text that it is shown into the document's answer form."""
    asked = rng.random() < 0.6
    form = rng.choice(_ASKED if asked else _SHOWN)
    answer = "{}" if asked else rng.choice(_ANSWERS)
    many = rng.choice((1, 1, 1, 1, 2, 3, 6))
    make = rng.choice((words.thing, words.invented_name, words.invented_name, words.random_string))

    def turn() -> tuple[str, str]:
        text = rng.choice((" ", ", ", " ")).join(make(rng) for _ in range(many))
        return form.format(text), answer.format(text, text)

    return Rule(turn, num_turns=(1, 2))


def recall(rng: Random) -> Rule:
    """Keys and values are stated once; each turn asks for one value."""
    num = rng.randint(2, 5)
    known = rng.choice((words.FIRST_NAMES, words.NOUNS, [words.random_code(rng) for _ in range(num)]))
    keys = rng.sample(known, num)
    values = [rng.choice((words.invented_name, words.random_string, words.number, words.thing))(rng) for _ in keys]
    link = rng.choice((" = ", ": ", " has ", " -> ", " is "))
    facts = rng.choice(("; ", ", ", " / ", ". ")).join(f"{k}{link}{v}" for k, v in zip(keys, values, strict=True))
    question = rng.choice(("{}?", "What about {}?", "{} {link}", "Value of {}")).replace("{link}", link.strip())
    answer = rng.choice(("{1}", "{1}", "{0}{link}{1}")).replace("{link}", link)
    as_system = rng.random() < 0.5
    first = [not as_system]

    def turn() -> tuple[str, str]:
        pick = rng.randrange(num)
        asked = question.format(keys[pick])
        if first[0]:
            asked, first[0] = f"{facts}. {asked}", False
        return asked, answer.format(keys[pick], values[pick])

    return Rule(turn, facts if as_system else None, (1, 3))


def mapping(rng: Random) -> Rule:
    """The assistant answers each code with its name, which is unpredictable until the code has occurred once."""
    num = rng.randint(2, 4)
    make = rng.choice((words.random_code, words.random_code, words.random_string))
    keys = [make(rng) for _ in range(num)]
    values = [rng.choice((words.invented_name, words.invented_name, words.thing))(rng) for _ in keys]
    form, answer = (
        rng.choice(("{}", "{}", "{}?", "{} =", "What is {}?")),
        rng.choice(("{1}", "{1}", "{0} is {1}", "{1}.")),
    )
    order = rng.sample(range(num), num)
    asked = 0

    def turn() -> tuple[str, str]:
        nonlocal asked
        pick = order[asked] if asked < num else rng.randrange(num)
        asked += 1
        return form.format(keys[pick]), answer.format(keys[pick], values[pick])

    return Rule(turn, num_turns=(num + 1, num + 4))


_FIELDS: dict[str, Callable[[Random], str]] = {
    "name": words.invented_name,
    "item": words.thing,
    "code": words.random_string,
    "amount": words.number,
    "place": lambda rng: rng.choice(words.PHRASES),
    "colour": lambda rng: rng.choice(words.ADJECTIVES),
    "owner": lambda rng: rng.choice(words.FIRST_NAMES),
    "size": lambda rng: f"{words.number(rng)} {rng.choice(words.MEASURES)}",
    "product": words.invented_name,
}


def _record(rng: Random, fields: list[str]) -> dict[str, str]:
    return {field: _FIELDS[field](rng) for field in fields}


def field_lookup(rng: Random) -> Rule:
    """Each turn shows a record; the answer is the field that the turn names, or the same unnamed field every time."""
    fields = rng.sample(list(_FIELDS), rng.randint(2, 5))
    between, link = rng.choice((", ", "; ", " | ", "\n")), rng.choice((": ", " = ", " "))
    always = rng.choice(fields) if rng.random() < 0.4 else None
    question = rng.choice(("{r} - {f}?", "What is the {f}? {r}", "Give the {f}. {r}", "{r} -> {f}"))

    def turn() -> tuple[str, str]:
        record = _record(rng, fields)
        text = between.join(f"{field}{link}{value}" for field, value in record.items())
        if always:
            return text, record[always]
        field = rng.choice(fields)
        return question.format(r=text, f=field), record[field]

    return Rule(turn)


def template(rng: Random) -> Rule:
    """The assistant puts the fields of a record into a sentence pattern that is specific to the document."""
    fields = rng.sample(list(_FIELDS), rng.randint(2, 4))
    verb, adjective = rng.choice(words.VERBS), rng.choice(words.ADJECTIVES)
    openings = (f"{verb.capitalize()} {{}}", f"We {verb} {{}}", "{}", f"The {adjective} {{}}", "There is {}")
    links = [
        rng.choice((" of {}", " with {}", " by {}", " for {}", ", {}", " and {}", " to {}", " {}")) for _ in fields[1:]
    ]
    sentence = rng.choice(openings) + "".join(links) + rng.choice((".", "", " today."))
    shuffled = rng.sample(fields, len(fields))
    between = rng.choice((", ", "; ", " ", " / "))
    shown = rng.random() < 0.5

    def turn() -> tuple[str, str]:
        record = _record(rng, fields)
        if shown:
            text = between.join(f"{field}: {record[field]}" for field in shuffled)
        else:
            text = between.join(record[field] for field in shuffled)
        return text, sentence.format(*record.values())

    system = None if rng.random() < 0.6 else "Fill in: " + sentence.format(*(f"[{field}]" for field in fields))
    return Rule(turn, system, (1, 4))


def select(rng: Random) -> Rule:
    """The assistant answers with the first, second or last of several things."""
    num = rng.randint(2, 5)
    which, name = rng.choice(((0, "first"), (1, "second"), (-1, "last")))
    between = rng.choice((" ", ", ", "; "))
    form = rng.choice((f"{name}: {{}}", f"Which is {name}? {{}}", "{}"))

    def turn() -> tuple[str, str]:
        things = [rng.choice((words.invented_name(rng), rng.choice(words.NOUNS))) for _ in range(num)]
        return form.format(between.join(things)), things[which]

    return Rule(turn)


def case(rng: Random) -> Rule:
    """The assistant writes a text in upper case, lower case or capitalised words."""
    name, change = rng.choice((("upper case", str.upper), ("lower case", str.lower), ("capital letters", str.title)))
    form = rng.choice((f"{name}: {{}}", f"Write in {name}: {{}}", "{}"))
    distort = rng.choice((str.upper, str.lower, str.title, str))

    def turn() -> tuple[str, str]:
        text = distort(words.thing(rng))
        return form.format(text), change(text)

    return Rule(turn)


def dictionary(rng: Random) -> Rule:
    """The system message is an invented dictionary; the assistant translates one or several of its words."""
    num = rng.randint(3, 7)
    known = rng.sample(words.NOUNS + words.PHRASES, num)
    invented = [rng.choice((words.random_code, words.random_code, words.invented_name))(rng) for _ in known]
    facts = rng.choice(("; ", ", ")).join(f"{code} = {word}" for code, word in zip(invented, known, strict=True))
    many = rng.randint(1, min(3, num))

    def turn() -> tuple[str, str]:
        picks = rng.sample(range(num), many)
        return " ".join(invented[i] for i in picks), " ".join(known[i] for i in picks)

    return Rule(turn, facts, (1, 4))


def spelling(rng: Random) -> Rule:
    """The assistant spells a word letter by letter, joins letters to a word, or corrects a misspelt word."""
    form = rng.choice(("Spell {}", "{}", "spell: {}"))
    mode = rng.choice(("apart", "together", "correct"))
    between = rng.choice((" ", "-"))

    def turn() -> tuple[str, str]:
        word = words.invented_name(rng) if rng.random() < 0.6 else rng.choice(words.NOUNS)
        if mode == "correct":
            word = rng.choice(words.NOUNS + words.VERBS)
            return f"Correct: {words.typo(rng, word)}", word
        apart = between.join(word)
        return (form.format(word), apart) if mode == "apart" else (f"Join {apart}", word)

    return Rule(turn)


def addition(rng: Random) -> Rule:
    """Sums, and products with a small factor."""
    form = rng.choice(("{} + {}", "{}+{}=", "Add {} and {}.", "{} plus {}"))
    times = rng.random() < 0.3

    def turn() -> tuple[str, str]:
        a, b = rng.randint(0, 20), rng.randint(0, 20)
        if times:
            a, b = rng.randint(1, 12), rng.randint(2, 4)
            return f"{a} times {b}", str(a * b)
        return form.format(a, b), str(a + b)

    return Rule(turn, num_turns=(1, 4))


def instruction(rng: Random) -> Rule:
    """A short instruction with one right answer."""
    kind = rng.choice(("words", "digits", "how many", "plural", "join", "remove", "quote", "apart"))

    def turn() -> tuple[str, str]:
        amount, noun, name = rng.randint(1, 10), rng.choice(words.NOUNS), words.invented_name(rng)
        if kind == "words":
            return f"Write {amount} as a word.", words.NUMBER_WORDS[str(amount)]
        if kind == "digits":
            return f"Write {words.NUMBER_WORDS[str(amount)]} as a number.", str(amount)
        if kind == "how many":
            return f"How many? {amount} {noun}s from {name}", str(amount)
        if kind == "plural":
            amount = rng.choice((1, 1, amount))
            return f"{amount} {noun}", f"{amount} {noun if amount == 1 else words.plural(noun)}"
        if kind == "apart":
            measure = rng.choice(words.MEASURES)
            return f"{name} {amount}{measure}", f"{name} {amount} {measure}"
        if kind == "join":
            return f"Join with 'and': {noun}, {name}", f"{noun} and {name}"
        if kind == "remove":
            return f"Leave out '{noun}': {noun} {name}", name
        return f"Put {name} in quotes.", f"'{name}'"

    return Rule(turn)
