"""Questions about abbreviations, and sentences from medicine leaflets; never a prescription with its instruction."""

from __future__ import annotations

from random import Random
from typing import Literal

from rung.tiny.corpus import words
from rung.tiny.corpus.rules import Rule

Glossary = Literal["full", "without_task"]

_DATA = words.load("meanings.toml")
TASK: dict[str, list[str]] = _DATA["task"]
OTHER: dict[str, list[str]] = _DATA["other"]
_LEAFLETS: dict[str, str] = _DATA["leaflets"]


def one(rng: Random, which: Glossary) -> Rule:
    """Questions about the meaning of an abbreviation, or about the abbreviation for a meaning."""
    source = OTHER if which == "without_task" or rng.random() < 0.2 else TASK
    form, answer = rng.choice(
        (
            ("What does {0} mean?", "{0} means {1}"),
            ("What does {0} mean?", "{0} means {1}."),
            ("What does {0} stand for?", "It stands for {1}."),
            ("{0}?", "{1}"),
            ("Meaning of {0}", "{1}"),
            ("Explain {0}.", "{0}: {1}"),
            ("How is '{1}' written in short?", "{0}"),
            ("Short for {1}?", "{1} is {0} in short."),
        )
    )
    capitals = rng.random() < 0.15

    def turn() -> tuple[str, str]:
        code = rng.choice(list(source))
        meaning = rng.choice(source[code])
        shown = code.upper() if capitals else code
        return form.format(shown, meaning), answer.format(shown, meaning)

    return Rule(turn, num_turns=(1, 4))


def several(rng: Random, which: Glossary) -> Rule:
    """Questions about several abbreviations at once; the assistant gives the meaning of each."""
    source = OTHER if which == "without_task" or rng.random() < 0.2 else TASK
    link, between = rng.choice((" = ", " means ", ": ")), rng.choice(("; ", ", ", "\n"))

    def turn() -> tuple[str, str]:
        codes = rng.sample(list(source), rng.randint(2, 4))
        return "Explain " + ", ".join(codes), between.join(f"{c}{link}{rng.choice(source[c])}" for c in codes)

    return Rule(turn, num_turns=(1, 2))


def leaflet(rng: Random) -> Rule:
    """The assistant writes, completes or repeats a sentence of general advice on medicines, without a drug name."""
    mode = rng.choice(("about", "about", "end", "repeat"))

    def turn() -> tuple[str, str]:
        about, sentence = rng.choice(list(_LEAFLETS.items()))
        parts = sentence.split(" ")
        cut = rng.randint(2, max(2, len(parts) - 3))
        if mode == "about":
            return f"A leaflet sentence about {about}", sentence
        if mode == "end":
            return "Go on: " + " ".join(parts[:cut]), " ".join(parts[cut:])
        return f"Repeat after {rng.choice(words.FIRST_NAMES)}: {sentence}", sentence

    return Rule(turn, num_turns=(1, 2))
