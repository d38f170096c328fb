"""The generated data of a seed are what they were when the shipped results and `tiny:base` were made from them.

A share, a bound or an order of draws that changes gives other data under an old name: each digest below is the first
16 hex digits of the SHA-256 of the rows as JSON. Whoever means to change the data changes the digests with them.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from random import Random

import pytest

from rung.errors import DataError
from rung.tiny import corpus
from rung.tiny.corpus import meanings, rules, shorthand, words
from rung.tiny.pharmacy.checker import judge
from rung.tiny.pharmacy.directions import HANDS, direction
from rung.tiny.pharmacy.names import invent
from rung.tiny.pharmacy.pairs import draw_near_miss
from rung.tiny.pharmacy.style import house_style, style_rules
from rung.tiny.pharmacy.task import cases
from rung.tiny.tasks import names, rows

SPLITS = {
    "pharmacy/sft": "16a99408b17c109a",
    "pharmacy/pairs": "24e6e181c95df22a",
    "pharmacy/sft-and-chosen": "327afa4a6a2c3177",
    "pharmacy/prompts": "1d9088c4d518ccb2",
    "pharmacy/validation": "e58911defe5619d3",
    "pharmacy/test": "92f713d5393cf887",
    "formulary/sft": "200c747cc53567b2",
    "formulary/prompts": "76a2510bc05348b9",
    "formulary/validation": "7a8a2bd6321c5e54",
    "formulary/test": "73ee44a8edbc828b",
    "formulary/told-sft": "4fcd791a6f777562",
    "formulary/told-prompts": "29b29b9eaa7aa0cc",
    "formulary/told-validation": "63af635128589a2c",
    "arithmetic/sft": "3703ec8237f2aec8",
    "arithmetic/pairs": "34502a6e4d90c77e",
    "arithmetic/prompts": "67963952e049b8db",
    "arithmetic/validation": "f0e73656f253d7ed",
    "arithmetic/test": "7a829a1993d8bc9f",
}
RULES: dict[Callable[[Random], rules.Rule], str] = {
    shorthand.shorthand: "3c2b4b8cf56d03f9",
    shorthand.invented_shorthand: "866e187b25f3c9ad",
    rules.copying: "9bd61b8e1fa44470",
    rules.recall: "6eeec487fdcc09f2",
    rules.mapping: "a228541e2b7780a6",
    rules.field_lookup: "27205afc5e023eb3",
    rules.template: "ad263f4c0070145c",
    rules.select: "54239bc52a30926d",
    rules.case: "844db4afad84dd37",
    rules.dictionary: "2834bf03a59d332c",
    rules.spelling: "9b8c4b494a58f88e",
    rules.addition: "7ba5b0369104a8bc",
    rules.instruction: "f6db642a67e39045",
    meanings.leaflet: "81ff4a6d26ab1fd7",
    lambda rng: meanings.one(rng, "full"): "2261c2dfcb0f1577",
    lambda rng: meanings.several(rng, "full"): "f7d51dabef94296f",
}
WORDS: dict[Callable[[Random], str], str] = {
    words.invented_name: "50e7d7b42786f321",
    words.random_string: "7216aa08d7b5b893",
    words.random_code: "116a9f043d232a37",
    words.number: "b493d3134d6e1b46",
    words.thing: "49e3cc32fd437064",
    lambda rng: words.random_string(rng, 2, 4): "03ee6f53944ed91f",
}


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", SPLITS)
def test_the_rows_of_seed_0_are_what_they_were(name: str) -> None:
    assert digest(rows(name)) == SPLITS[name]


def test_every_split_is_held() -> None:
    assert {name for name in names() if not name.startswith("base/")} == SPLITS.keys()


@pytest.mark.parametrize(("make", "expected"), RULES.items(), ids=[str(i) for i in range(len(RULES))])
def test_the_turns_of_a_rule_are_what_they_were(make: Callable[[Random], rules.Rule], expected: str) -> None:
    made = []
    for i in range(300):
        rule = make(Random(f"rule {i}"))
        made.append([rule.system, rule.num_turns, [rule.turn() for _ in range(3)]])
    assert digest(made) == expected


@pytest.mark.parametrize(("make", "expected"), WORDS.items(), ids=[str(i) for i in range(len(WORDS))])
def test_words_are_what_they_were(make: Callable[[Random], str], expected: str) -> None:
    assert digest([make(Random(f"word {i}")) for i in range(500)]) == expected


def test_documents_and_misspelt_words_are_what_they_were() -> None:
    assert digest(corpus.documents(0, 500)) == "821f93d5452a75c4"
    assert digest(corpus.documents(0, 500, glossary="without_task")) == "c2415b50dabee0c8"
    assert digest(corpus.rows("validation", 3)[:200]) == "f0d0cf85f0376bcb"
    assert digest([words.typo(Random(f"word {i}"), "tablet") for i in range(100)]) == "79d647e53f5cb088"
    assert digest([invent(Random(f"name {i}")) for i in range(300)]) == "9eb7c159d12d1268"


def test_the_splits_of_the_base_have_their_sizes() -> None:
    assert len(corpus.rows("validation")) == 500
    assert list(corpus.texts(count=2)) == [m["content"] for row in corpus.documents(0, 2) for m in row["messages"]]


def test_judgements_are_what_they_were() -> None:
    """Of each hand's text on the next order, and of a near miss of its own."""
    orders, random, found = [order for _, order in cases(0)["validation"]], Random("misses"), []
    for order, other in pairwise(orders):
        for hand in HANDS.values():
            found.append(asdict(judge(direction(order, hand), other)))
            found.append(asdict(judge(direction(draw_near_miss(order, random), hand), order)))
    assert digest(found) == "3991128ea2baa79a"


def test_styles_are_what_they_were() -> None:
    orders = [order for _, order in cases(0)["validation"]][:200]
    texts = [direction(order, hand) for order in orders for hand in HANDS.values()]
    assert digest([[style_rules(text), round(house_style(text), 6)] for text in texts]) == "4f93bf1ea805caf4"


@pytest.mark.parametrize(("name", "nearest"), [("pharmacy/tests", "pharmacy/test"), ("zzz", None)])
def test_an_unknown_split_is_told_the_nearest_or_all(name: str, nearest: str | None) -> None:
    with pytest.raises(DataError, match=f"unknown task data `{name}`") as caught:
        rows(name)
    assert caught.value.remedy == (f"did you mean `{nearest}`?" if nearest else f"known: {', '.join(names())}")
