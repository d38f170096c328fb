"""Words, invented names and random strings for the generated documents."""

import tomllib
from pathlib import Path
from random import Random
from typing import Any


def load(name: str) -> dict[str, Any]:
    """The content of the TOML file `name` in this folder."""
    return tomllib.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))


_DATA = load("words.toml")
NOUNS, ADJECTIVES, VERBS = (tuple(_DATA[kind].split()) for kind in ("nouns", "adjectives", "verbs"))
FIRST_NAMES, MEASURES = tuple(_DATA["first_names"].split()), tuple(_DATA["measures"].split())
PHRASES: tuple[str, ...] = tuple(_DATA["phrases"])
NUMBER_WORDS = {str(number): word for number, word in enumerate(_DATA["numbers"].split())}

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_PLAIN = (tuple(_DATA["plain_onsets"].split()), tuple("aeiou"))
_RICH = ((*_DATA["onsets"].split(), "", ""), tuple(_DATA["vowels"].split()))
_CODAS = (*[""] * 12, *_DATA["codas"].split())


def invented_name(rng: Random) -> str:
    """A pronounceable random name of two to five syllables; 30% of the names are capitalised."""
    onsets, vowels = rng.choice((_PLAIN, _RICH))
    while True:
        syllables = rng.choices((2, 3, 4, 5), (3, 5, 4, 2))[0]
        name = "".join(rng.choice(onsets) + rng.choice(vowels) + rng.choice(_CODAS) for _ in range(syllables))
        if 3 < len(name) < 16:
            return name.capitalize() if rng.random() < 0.3 else name


def random_string(rng: Random, low: int = 3, high: int = 9) -> str:
    """A string of `low` to `high` random letters, digits or both."""
    letters = rng.choice((_LETTERS, _LETTERS, _LETTERS.upper(), _LETTERS + "0123456789", "0123456789"))
    return "".join(rng.choices(letters, k=rng.randint(low, high)))


def random_code(rng: Random) -> str:
    """A random code of two or three letters, as in shorthand."""
    return "".join(rng.choices(_LETTERS, k=rng.choice((2, 2, 3))))


def number(rng: Random) -> str:
    """A random amount as people write it: a whole number, a decimal, a fraction or a range."""
    kind = rng.random()
    if kind < 0.6:
        return str(rng.choice((rng.randint(1, 12), rng.randint(1, 99), 25 * rng.randint(1, 40))))
    if kind < 0.75:
        return f"{rng.randint(0, 9)}.{rng.choice((5, 5, 25, 75, 1, 2, 4))}"
    if kind < 0.85:
        return rng.choice(("1/2", "1/4", "3/4", "1 1/2", "2 1/2"))
    return f"{(low := rng.randint(1, 8))}-{low + rng.randint(1, 3)}"


def thing(rng: Random) -> str:
    """A random thing: a noun, an adjective with a noun, an invented name or a random string."""
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(NOUNS)
    if kind < 0.4:
        return f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    if kind < 0.85:
        return invented_name(rng)
    return random_string(rng)


def typo(rng: Random, word: str) -> str:
    """`word` with one letter left out, doubled or swapped with the next."""
    at = rng.randrange(len(word) - 1)
    kind = rng.choice(("drop", "double", "swap"))
    if kind == "drop":
        return word[:at] + word[at + 1 :]
    if kind == "double":
        return word[: at + 1] + word[at:]
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def plural(noun: str) -> str:
    """The noun in the plural.

    >>> plural("box"), plural("copy"), plural("tray")
    ('boxes', 'copies', 'trays')
    """
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "sh", "ch")) else "s")
