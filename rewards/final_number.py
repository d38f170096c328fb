"""Whether the last number of a completion equals the gold number, without a maths library.

Numbers are integers, decimals, thousands with commas (1,234.5), fractions (3/4), mixed numbers (1 1/2), percentages,
amounts with a currency sign, and negatives, written as -5 or, in an entry of its own, as (134). A percentage equals
both the number before the sign and the fraction: 50% equals 50 and 0.5.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rung.reward import reward

_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = re.compile(
    rf"(?:(?P<whole>[0-9]+) (?=[0-9]+/[0-9]))?(?P<number>{_INTEGER}(?:\.[0-9]+)?|\.[0-9]+)(?:/(?P<below>[0-9]+))?"
)
_CURRENCY = r"(?:\\?[$\u00a3\u20ac\u00a5] ?)"
_MINUS = r"[-\u2212]"
_SIGN = re.compile(  # not a sign: a minus between numbers or between spaces (subtraction), "- 3" at a line start
    rf"(?:(?<![0-9A-Za-z)\]%])(?<![0-9)\]%] ){_MINUS}{_CURRENCY}?|[=(:] ?{_MINUS} {_CURRENCY}?|{_CURRENCY}{_MINUS})$"
)
_OPEN = re.compile(rf"(?:[\n:#|] ?|{_CURRENCY})\( ?{_CURRENCY}?$")  # "eighteen (18)" is a remark, not a negative
_AFTER = re.compile(r"(?: ?\\?(?P<percent>%))?(?P<close> ?\))?")
_CONTEXT = 8  # characters before a number that can contain its sign, bracket and currency
_MAX_LENGTH = 200  # a longer number equals no gold answer, and parsing takes time quadratic in its length


@reward(range=(0, 1))
def final_number(completion: str, answer: str, *, tolerance: float = 0.0) -> float | None:
    """1 where the last number of `completion` equals that of `answer`, within an absolute `tolerance`.

    0 where the completion has no number; None (no reward) where the answer has none.

    >>> final_number("so 3 * 6 = 18 dollars.", "#### 18"), final_number("I do not know", "#### 18")
    (1.0, 0.0)
    >>> final_number("a loss of $(1,340)", "-1340"), final_number("1/8", "12.5%")
    (1.0, 1.0)
    """
    gold = _last_number(str(answer))
    if gold is None:
        return None
    found = _last_number(completion)
    if found is None:
        return 0.0
    return float(any(abs(a - b) <= tolerance for a, b in _comparable(found, gold)))


def _comparable(one: tuple[Fraction, bool], other: tuple[Fraction, bool]) -> list[tuple[Fraction, Fraction]]:
    (a, a_percent), (b, b_percent) = one, other
    if a_percent == b_percent:
        return [(a, b)]
    return [(a, b), (a / 100, b) if a_percent else (a, b / 100)]


def _last_number(text: str) -> tuple[Fraction, bool] | None:
    """The value of the last number as written, and whether a percent sign follows it."""
    last = None
    for match in _NUMBER.finditer(text):
        last = match
    if last is None or last.end() - last.start() > _MAX_LENGTH:
        return None
    below = int(last["below"] or 1)
    if below == 0:
        return None
    value = int(last["whole"] or 0) + Fraction(last["number"].replace(",", "")) / below
    start = last.start()
    before = text[start - _CONTEXT : start] if start > _CONTEXT else "\n" + text[:start]
    after = _AFTER.match(text, last.end())
    assert after, "the pattern matches the empty text"
    negative = _SIGN.search(before) or (after["close"] and _OPEN.search(before))
    return (-value if negative else value), bool(after["percent"])
