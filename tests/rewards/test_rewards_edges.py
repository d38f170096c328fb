"""Shipped rewards exactly at their bounds, by hand."""

import math

import pytest

from rung.reward.decorator import declaration
from rung.reward.registry import reward_function, reward_names
from rung.rewards import pharmacy
from rung.rewards.exact_match import exact_match, normalized, normalized_match
from rung.rewards.final_number import final_number
from rung.rewards.soft_overlong import soft_overlong
from rung.rewards.token_f1 import token_f1


@pytest.mark.parametrize(
    ("tokens", "score"), [(1, 0.0), (16, 0.0), (17, -0.25), (18, -0.5), (19, -0.75), (20, -1.0), (99, -1.0)]
)
def test_an_answer_near_the_limit_loses_by_the_token(tokens: int, score: float) -> None:
    assert soft_overlong(tokens, max_length=20, buffer=4) == score


@pytest.mark.parametrize(
    ("completion", "answer", "f1"),
    [
        ("x y z", "x y", 4 / 5),
        ("x x y", "x z", 2 / 5),
        ("x x", "x x x", 4 / 5),
        ("", "", 1.0),
        ("the", "", 1.0),
        ("x", "", 0.0),
        ("", "x", 0.0),
        ("x", "y", 0.0),
        ("X.", "x", 1.0),
    ],
)
def test_words_shared_count_twice_over_the_words_of_both(completion: str, answer: str, f1: float) -> None:
    assert token_f1(completion, answer) == pytest.approx(f1)


def test_words_are_normalised_as_a_whole() -> None:
    assert normalized("An apple, THE pear  and a\tfig-tree!") == "apple pear and figtree"
    assert normalized("another theory") == "another theory"
    assert (exact_match(" x ", "x"), exact_match("x", " x"), exact_match("X", "x")) == (1, 1, 0)
    assert (normalized_match("The X.", "x"), normalized_match("x y", "xy")) == (1, 0)
    assert [normalized_match(one, other) for one, other in (("y", "x"), ("x", "y"), ("x y", "x"))] == [0, 0, 0]
    assert [exact_match(one, other) for one, other in (("y", "x"), ("x", "y"), ("x y", "x"))] == [0, 0, 0]


@pytest.mark.parametrize(
    ("completion", "answer", "score"),
    [
        ("7", "7.0", 1),
        ("7.01", "7", 0),
        ("1 1/2", "1.5", 1),
        ("11/2", "5.5", 1),
        ("3/0", "3", 0),
        ("1,000", "1000", 1),
        ("1,00", "100", 0),
        (".5", "0.5", 1),
        ("50%", "0.5", 1),
        ("50%", "50", 1),
        ("50%", "50%", 1),
        ("0.5%", "50%", 0),
        ("0.5", "50%", 1),
        ("50", "50%", 1),
        ("5000", "50%", 0),
        ("x = -3", "-3", 1),
        ("10-3", "3", 1),
        ("10 - 3", "3", 1),
        ("(3)", "-3", 1),
        ("three (3)", "3", 1),
        ("-$3", "-3", 1),
        ("$-3", "-3", 1),
        ("first 1, then 2", "2", 1),
        ("9" * 200, "9" * 200, 1),
        ("no", "1", 0),
    ],
)
def test_the_last_number_is_compared(completion: str, answer: str, score: float) -> None:
    assert final_number(completion, answer) == score


def test_a_number_of_more_than_200_digits_is_none() -> None:
    assert final_number("9" * 201, "1") == 0
    assert final_number("1", "9" * 201) is None
    assert final_number("1", "none") is None


@pytest.mark.parametrize(("tolerance", "score"), [(0.5, 1), (0.49, 0), (0.0, 0)])
def test_a_tolerance_holds_its_bound(tolerance: float, score: float) -> None:
    assert final_number("7.5", "7", tolerance=tolerance) == score
    assert final_number("6.5", "7", tolerance=tolerance) == score


ORDER = {
    "drug": "xyz",
    "strength": "5 mg",
    "unit": "tablet",
    "route": "by mouth",
    "parts": [{"amount": "1", "frequency": "2 times a day", "duration": None}],
    "link": None,
    "advice": None,
    "prn": False,
    "reason": None,
    "maximum": None,
}
TEXT = "Take 1 tablet of xyz 5 mg by mouth 2 times a day."


@pytest.mark.parametrize(
    ("text", "outcome", "match", "severity"),
    [
        (TEXT, "correct", 2.0, 0.0),
        (TEXT.replace("1 tablet", "2 tablets"), "dangerous", 0.3, 0.9),
        (TEXT.replace("tablet", "capsule"), "harmless", 5 / 6, 0.0),
        ("nothing", "unparseable", -0.5, None),
    ],
)
def test_a_direction_has_one_outcome_and_its_worth(
    text: str, outcome: str, match: float, severity: float | None
) -> None:
    """Five components: one wrong leaves .8 - .5 = .3; all right and one more is 2."""
    kinds = {name: getattr(pharmacy, name)(text, ORDER) for name in ("correct", "dangerous", "harmless", "unparseable")}
    assert kinds == {name: float(name == outcome) for name in kinds}
    assert pharmacy.direction_match(text, ORDER) == pytest.approx(match)
    assert pharmacy.severity(text, ORDER) == (None if severity is None else pytest.approx(severity))


SHARE = (0, 1)
DECLARED = {
    **dict.fromkeys(
        ("correct", "exact_match", "final_number", "json_valid", "label", "normalized_match", "tag_format"),
        (SHARE, "reward", "max"),
    ),
    **dict.fromkeys(("dangerous", "harmless", "severity", "truncated", "unparseable"), (SHARE, "metric", "min")),
    **dict.fromkeys(("house_style", "token_f1"), (SHARE, "metric", "max")),
    **dict.fromkeys(("length", "soft_overlong"), ((-1, 0), "shaping", "max")),
    **dict.fromkeys(
        ("num_turns", "num_calls", "failed_calls", "unknown_calls", "repeated_calls"), (None, "metric", "min")
    ),
    "hit_limit": (SHARE, "metric", "min"),
    "environment_reward": ((-math.inf, math.inf), "reward", "max"),
    "direction_match": ((-0.5, 2), "reward", "max"),
    "output_tokens": (None, "metric", "min"),
    "reward_model": ((-math.inf, math.inf), "reward", "max"),
}


def test_the_shipped_rewards_declare_their_range_role_and_goal() -> None:
    """A value outside the range is an error of the function, the role decides about training, the goal about gates."""
    declared = {name: declaration(reward_function(name)) for name in reward_names()}
    assert {name: (found.range, found.role, found.goal) for name, found in declared.items()} == DECLARED
