"""Generated pretraining data of `tiny:base`: conversations on *other* tasks than those in `rung.tiny`.

Every row is a conversation whose assistant turns are trained. All turns of a conversation follow one rule, so its first
turns are few-shot examples for the later ones. The abbreviations of the medication task occur in glossary questions,
and its vocabulary in sentences from leaflets, but none of its prompts, dosing instructions or drugs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random

from rung.errors import DataError
from rung.tiny.corpus import meanings, rules, shorthand
from rung.tiny.corpus.meanings import Glossary
from rung.tiny.corpus.rules import Rule

# Generators of documents and their sampling weights.
_MIXTURE: dict[Callable[[Random], Rule], int] = {
    shorthand.shorthand: 30,
    shorthand.invented_shorthand: 10,
    rules.copying: 10,
    rules.recall: 10,
    rules.mapping: 6,
    rules.field_lookup: 7,
    rules.template: 6,
    rules.select: 1,
    rules.case: 1,
    rules.dictionary: 5,
    rules.spelling: 1,
    rules.addition: 1,
    rules.instruction: 1,
    meanings.leaflet: 4,
}
_GLOSSARY: dict[Callable[[Random, Glossary], Rule], int] = {meanings.one: 5, meanings.several: 3}
_COPYING: dict[Callable[[Random], Rule], int] = {rules.copying: 8, rules.select: 1, rules.field_lookup: 1}
_SPLITS = {"train": (0, 60_000), "validation": (1_000_000, 500)}  # index of the first document, number of documents
_NUM_COPIES = 12_000


def documents(seed: int, count: int, *, first: int = 0, glossary: Glossary = "full") -> list[dict]:
    """The documents with the indices `first` to `first + count - 1`, as rows {"messages": [...]}.

    Document i depends only on (seed, i, glossary).

    `glossary="without_task"` removes every abbreviation of the medication task from the glossaries.

    >>> documents(0, 2) == documents(0, 1) + documents(0, 1, first=1)
    True
    """
    return [{"messages": _document(Random(f"{seed}/{index}"), glossary)} for index in range(first, first + count)]


def rows(split: str, seed: int = 0, *, glossary: Glossary = "full") -> list[dict]:
    """The rows of `task:base/<split>`: copying, train or validation. Raises DataError for another split.

    `copying` is the easy first stage of pretraining: each row is one question that contains its answer.
    """
    if split == "copying":
        return [
            {"messages": _conversation(Random(f"copy {seed}/{index}"), _COPYING, 1)} for index in range(_NUM_COPIES)
        ]
    if split not in _SPLITS:
        raise DataError(f"the task `base` has no split `{split}`", f"choose one of copying, {', '.join(_SPLITS)}")
    first, count = _SPLITS[split]
    return documents(seed, count, first=first, glossary=glossary)


def texts(seed: int = 0, *, count: int) -> Iterator[str]:
    """The contents of all messages in `count` documents: the text on which the tokenizer of `tiny:base` is trained."""
    for row in documents(seed, count):
        yield from (message["content"] for message in row["messages"])


def _document(rng: Random, which: Glossary) -> list[dict[str, str]]:
    return _conversation(rng, {**_MIXTURE, **{_bound(maker, which): share for maker, share in _GLOSSARY.items()}})


def _conversation(
    rng: Random, makers: Mapping[Callable[[Random], Rule], int], num_turns: int | None = None
) -> list[dict[str, str]]:
    rule = rng.choices(list(makers), list(makers.values()))[0](rng)
    messages = [{"role": "system", "content": rule.system}] if rule.system else []
    for _ in range(num_turns or rng.randint(*rule.num_turns)):
        question, answer = rule.turn()
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def _bound(maker: Callable[[Random, Glossary], Rule], which: Glossary) -> Callable[[Random], Rule]:
    return lambda rng: maker(rng, which)
