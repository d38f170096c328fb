"""What a medication direction is worth: its content against the order behind the sig, its wording apart from that.

`order` is the record that the data of `task:pharmacy/...` carries. Not for medical use.
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
    """1 where every component of the direction is right, whatever the wording."""
    return float(_judged(completion, order).outcome == "correct")


@reward(range=(0, 1), goal="min")
def dangerous(completion: str, order: Mapping[str, Any]) -> float:
    """1 where a component that matters is wrong, dropped or added; an unparseable text is not counted here."""
    return float(_judged(completion, order).outcome == "dangerous")


@reward(range=(0, 1), goal="min")
def severity(completion: str, order: Mapping[str, Any]) -> float | None:
    """How dangerous the direction is, 0 for a safe one; None (abstains) where it is unparseable."""
    judgement = _judged(completion, order)
    return None if judgement.outcome == "unparseable" else judgement.severity


@reward(range=(0, 1), goal="min")
def harmless(completion: str, order: Mapping[str, Any]) -> float:
    """1 where all differences are harmless: advice about food or water, a missing reason, a pill's form, the verb."""
    return float(_judged(completion, order).outcome == "harmless")


@reward(range=(0, 1), goal="min")
def unparseable(completion: str, order: Mapping[str, Any]) -> float:
    """1 where the text is no single, unambiguous direction."""
    return float(_judged(completion, order).outcome == "unparseable")


@reward(range=(0, 1), role="metric")
def house_style(completion: str) -> float:
    """The share of the house's style rules that the text keeps; see `rung.tiny.pharmacy.style`.

    >>> house_style("Take 1 tablet of xyz 5 mg by mouth 2 times a day.")
    1.0
    """
    return style.house_style(completion)


@reward(range=(-0.5, 2))
def direction_match(completion: str, order: Mapping[str, Any]) -> float:
    """The share of right components, plus 1 if all are, minus 0.5 if one is dangerous; -0.5 where unparseable."""
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
