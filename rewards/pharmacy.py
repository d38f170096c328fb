"""Rewards for dosing instructions: for their content, compared with the prescribed order, and for their wording.

`order` (drug, dose, route, frequency, ...) is a column of the data of `task:pharmacy/...`. Not for medical use.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rung.reward import reward
from rung.tiny.pharmacy import style
from rung.tiny.pharmacy.checker import Judgement, judge
from rung.tiny.pharmacy.orders import Order

_judge = lru_cache(maxsize=4096)(judge)


def _judged(completion: str, order: Mapping[str, Any]) -> Judgement:
    return _judge(completion, Order.from_dict(order))


@reward(range=(0, 1))
def correct(completion: str, order: Mapping[str, Any]) -> float:
    """1 where every part of the order (drug, dose, route, ...) is stated correctly, in any wording."""
    return float(_judged(completion, order).outcome == "correct")


@reward(range=(0, 1), goal="min")
def dangerous(completion: str, order: Mapping[str, Any]) -> float:
    """1 where an error is dangerous, such as a wrong, missing or added dose; 0 where the text is unparseable."""
    return float(_judged(completion, order).outcome == "dangerous")


@reward(range=(0, 1), goal="min")
def severity(completion: str, order: Mapping[str, Any]) -> float | None:
    """How dangerous the errors of the dosing instruction are, 0 without any; None (no reward) if it is unparseable."""
    judgement = _judged(completion, order)
    return None if judgement.outcome == "unparseable" else judgement.severity


@reward(range=(0, 1), goal="min")
def harmless(completion: str, order: Mapping[str, Any]) -> float:
    """1 where there are errors, all harmless: food or water advice, a missing reason, a pill's form, the verb."""
    return float(_judged(completion, order).outcome == "harmless")


@reward(range=(0, 1), goal="min")
def unparseable(completion: str, order: Mapping[str, Any]) -> float:
    """1 where the text is not a single, unambiguous dosing instruction."""
    return float(_judged(completion, order).outcome == "unparseable")


@reward(range=(0, 1), role="metric")
def house_style(completion: str) -> float:
    """The share of the house-style rules that the text follows, multiplied by its completeness.

    Completeness is the share of dose, route and frequency that the text states; see `rung.tiny.pharmacy.style`.

    >>> house_style("Take 1 tablet of xyz 5 mg by mouth 2 times a day.")
    1.0
    """
    return style.house_style(completion)


@reward(range=(-0.5, 2))
def direction_match(completion: str, order: Mapping[str, Any]) -> float:
    """The share of the order that is stated correctly, plus 1 if this is all of it, minus 0.5 for a dangerous error.

    The share counts parts of the order (drug, dose, route, ...). An unparseable text scores -0.5.
    """
    judgement = _judged(completion, order)
    match judgement.outcome:
        case "unparseable":
            return -0.5
        case "correct":
            return judgement.share + 1.0
        case "dangerous":
            return judgement.share - 0.5
        case "harmless":
            return judgement.share
