"""The data splits of the medication task, in TRL's conversational format; each is a pure function of the seed."""

from functools import lru_cache
from random import Random
from typing import Any

from rung.tiny.pharmacy.directions import HANDS, direction
from rung.tiny.pharmacy.names import invent
from rung.tiny.pharmacy.orders import Order, draw_order
from rung.tiny.pharmacy.pairs import draw_pair
from rung.tiny.pharmacy.sigs import sig

SIZES = {"sft": 500, "prompts": 4000, "validation": 600, "test": 600}
INVENTED_SHARE = 0.5

Case = tuple[str, Order]


@lru_cache(maxsize=8)
def cases(seed: int) -> dict[str, tuple[Case, ...]]:
    """The sigs (prescriber's shorthand) and orders of every split; no sig occurs twice, within or across splits."""
    seen: set[str] = set()
    return {name: tuple(_draw(name, size, seed, seen)) for name, size in SIZES.items()}


def _draw(name: str, size: int, seed: int, seen: set[str]) -> list[Case]:
    random = Random(f"pharmacy/{name}/{seed}")
    split = name if name in ("validation", "test") else "train"
    found: list[Case] = []
    while len(found) < size:
        invented = name == "prompts" and random.random() < INVENTED_SHARE
        order = draw_order(random, split, invent(random) if invented else None)
        text = sig(order, random)
        if text not in seen:
            seen.add(text)
            found.append((text, order))
    return found


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Sig: {text}"}]


def _assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def sft(seed: int) -> list[dict[str, Any]]:
    """500 sigs (prescriber's shorthand), each with a dosing instruction in one of several writing styles."""
    random = Random(f"pharmacy/labels/{seed}")
    hands = random.choices(list(HANDS), k=SIZES["sft"])
    return [
        {
            "prompt": _user(text),
            "completion": _assistant(direction(order, HANDS[hand])),
            "order": order.as_dict(),
            "hand": hand,
        }
        for (text, order), hand in zip(cases(seed)["sft"], hands, strict=True)
    ]


def pairs(seed: int) -> list[dict[str, Any]]:
    """A preference pair of dosing instructions for each sig (prescriber's shorthand) of `sft`."""
    random = Random(f"pharmacy/pairs/{seed}")
    rows = []
    for text, order in cases(seed)["sft"]:
        chosen, rejected = draw_pair(order, random)
        rows.append(
            {
                "prompt": _user(text),
                "chosen": _assistant(chosen),
                "rejected": _assistant(rejected),
                "order": order.as_dict(),
            }
        )
    return rows


def sft_and_chosen(seed: int) -> list[dict[str, Any]]:
    """The rows of `sft`, then the chosen texts of `pairs` as completions: the SFT baseline for DPO."""
    chosen = [
        {"prompt": r["prompt"], "completion": r["chosen"], "order": r["order"], "hand": None} for r in pairs(seed)
    ]
    return sft(seed) + chosen


def prompts(seed: int) -> list[dict[str, Any]]:
    """4,000 sigs (prescriber's shorthand) without a dosing instruction; half of the drug names are invented."""
    return [{"prompt": _user(text), "order": order.as_dict()} for text, order in cases(seed)["prompts"]]


def validation(seed: int) -> list[dict[str, Any]]:
    """600 sigs for drugs that occur in no other split; `answer` is the dosing instruction in house style."""
    return _judged("validation", seed)


def test(seed: int) -> list[dict[str, Any]]:
    """600 sigs for further drugs that occur in no other split; `answer` is the dosing instruction in house style."""
    return _judged("test", seed)


def _judged(name: str, seed: int) -> list[dict[str, Any]]:
    return [
        {"prompt": _user(text), "order": order.as_dict(), "answer": direction(order)}
        for text, order in cases(seed)[name]
    ]
