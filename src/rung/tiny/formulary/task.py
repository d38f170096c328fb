"""The data of the task `formulary`, in TRL's conversational format; each split is a pure function of the seed."""

from dataclasses import replace
from functools import lru_cache
from random import Random
from typing import Any

from rung.tiny.formulary.entries import Entry, entries, lookup, real_names
from rung.tiny.pharmacy.directions import direction
from rung.tiny.pharmacy.orders import Order, draw_order_of
from rung.tiny.pharmacy.sigs import misspell, sig

SIZES = {"sft": 240, "prompts": 3000, "validation": 300, "test": 300}
MISSPELT_SHARE = 0.25

Case = tuple[str, Order]  # the sig, and the order that it means


@lru_cache(maxsize=8)
def cases(seed: int) -> dict[str, tuple[tuple[str, str, Order], ...]]:
    """For every split: the sigs, the names as the sigs write them, and the orders; no sig and no drug of a held-out
    split occurs in another split."""
    seen: set[str] = set()
    return {name: tuple(_draw(name, size, seed, seen)) for name, size in SIZES.items()}


def _draw(split: str, size: int, seed: int, seen: set[str]) -> list[tuple[str, str, Order]]:
    random = Random(f"formulary/{split}/{seed}")
    held_out = split in ("validation", "test")
    pool = real_names(split) if held_out else _training_names()
    found: list[tuple[str, str, Order]] = []
    while len(found) < size:
        entry = entries()[random.choice(pool).lower()]
        order = _order(entry, random)
        written = _written(entry, random)
        text = sig(replace(order, drug=written, strength=None, route=""), random)
        if text not in seen:
            seen.add(text)
            found.append((text, written, order))
    return found


def _training_names() -> list[str]:
    """The names that no held-out split has: the real drugs of the split `train`, and the invented ones."""
    held_out = {name.lower() for split in ("validation", "test") for name in real_names(split)}
    return [entry.name for name, entry in entries().items() if name not in held_out]


def _order(entry: Entry, random: Random) -> Order:
    while True:
        drawn = draw_order_of(random, entry.family, entry.drug, entry.name)
        if drawn.link is None and drawn.maximum is None:
            return replace(drawn, strength=entry.strength, route=entry.route)


def _written(entry: Entry, random: Random) -> str:
    """The name as the prescriber writes it, sometimes misspelt."""
    if random.random() >= MISSPELT_SHARE:
        return entry.name
    written = misspell(entry.name.lower(), random)
    return entry.name if written in entries() or not _is_found(written, entry) else written


def _is_found(written: str, entry: Entry) -> bool:
    try:
        lookup(written)
    except ValueError as error:
        return f"; {entry.name}?" in str(error)
    return False


def _user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"Sig: {text}"}]


def _call(drug: str) -> dict[str, Any]:
    function = {"name": "lookup", "arguments": {"drug": drug}}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}


def _result(drug: str) -> dict[str, Any]:
    try:
        content = lookup(drug)
    except ValueError as error:
        content = str({"error": str(error)})
    return {"role": "tool", "name": "lookup", "content": content}


def conversation(written: str, order: Order) -> list[dict[str, Any]]:
    """The turns that answer a sig: the calls (a second one if the name is misspelt), their results, the direction."""
    names = [written] if written.lower() == order.drug.lower() else [written, order.drug]
    asked = [message for name in names for message in (_call(name), _result(name))]
    return [*asked, {"role": "assistant", "content": direction(order)}]


def sft(seed: int) -> list[dict[str, Any]]:
    """240 sigs (prescriber's shorthand) without strength and route, each with calls of `lookup` and the direction."""
    return [{"messages": [*_user(text), *conversation(written, order)]} for text, written, order in cases(seed)["sft"]]


def prompts(seed: int) -> list[dict[str, Any]]:
    """3,000 sigs (prescriber's shorthand) without strength and route; most of the drug names are invented."""
    return [{"prompt": _user(text), "order": order.as_dict()} for text, _, order in cases(seed)["prompts"]]


def validation(seed: int) -> list[dict[str, Any]]:
    """300 sigs for drugs that occur in no other split."""
    return _judged("validation", seed)


def test(seed: int) -> list[dict[str, Any]]:
    """300 sigs for further drugs that occur in no other split."""
    return _judged("test", seed)


def told_sft(seed: int) -> list[dict[str, Any]]:
    """The rows of `sft` without calls: the sig tells name, strength and route; a control without a tool."""
    return [
        {"prompt": _told(text, order), "completion": [{"role": "assistant", "content": direction(order)}]}
        for text, _, order in cases(seed)["sft"]
    ]


def told_prompts(seed: int) -> list[dict[str, Any]]:
    """The rows of `prompts`, whose sig tells name, strength and route."""
    return [{"prompt": _told(text, order), "order": order.as_dict()} for text, _, order in cases(seed)["prompts"]]


def told_validation(seed: int) -> list[dict[str, Any]]:
    """The rows of `validation`, whose sig tells name, strength and route."""
    return [
        {**row, "prompt": _told(text, order)}
        for row, (text, _, order) in zip(validation(seed), cases(seed)["validation"], strict=True)
    ]


def _told(text: str, order: Order) -> list[dict[str, Any]]:
    return _user(f"{text}. {order.drug}: {order.strength} {order.route}")


def _judged(split: str, seed: int) -> list[dict[str, Any]]:
    return [
        {"prompt": _user(text), "order": order.as_dict(), "answer": direction(order)}
        for text, _, order in cases(seed)[split]
    ]
