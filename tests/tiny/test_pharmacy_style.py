"""The house style: measured rule by rule on any text, whatever it says."""

from dataclasses import fields, replace
from random import Random

import pytest

from rung.tiny.pharmacy.directions import HANDS, HOUSE, direction
from rung.tiny.pharmacy.orders import Order, Part, draw_order
from rung.tiny.pharmacy.style import house_style, style_rules

ORDER = Order("metformin", "500 mg", "tablet", "by mouth", (Part("1", "2 times a day", "10 days"),), advice="with food")


@pytest.mark.parametrize("hand", [name for name in HANDS if name != "house"])
def test_the_house_scores_1_and_another_hand_clearly_less(hand):
    random = Random(0)
    orders = [draw_order(random, "train") for _ in range(500)]
    assert {house_style(direction(order)) for order in orders} == {1.0}
    scores = [house_style(direction(order, HANDS[hand])) for order in orders]
    assert max(scores) <= 0.75
    assert sum(scores) / len(scores) < 0.65


@pytest.mark.parametrize(
    ("way", "broken"),
    [
        ({"opening": "drug"}, {"opening", "order"}),
        ({"numbers": "words"}, {"opening", "numbers"}),
        ({"terms": "clinical"}, {"terms"}),
        ({"units": "short"}, {"units"}),
        ({"manner": "polite"}, {"opening", "manner"}),
        ({"ending": "none"}, {"ending"}),
    ],
)
def test_each_lapse_breaks_its_rule(way, broken):
    rules = style_rules(direction(ORDER, replace(HOUSE, **way)))
    assert {name for name, kept in rules.items() if kept < 1} == broken


def test_every_way_of_writing_has_a_lapse_above():
    assert [field.name for field in fields(HOUSE)] == ["opening", "numbers", "terms", "units", "manner", "ending"]


def test_components_in_another_order_break_one_rule():
    text = "Take 1 tablet of metformin 500 mg for 10 days with food 2 times a day by mouth."
    assert [name for name, kept in style_rules(text).items() if not kept] == ["order"]


def test_style_is_apart_from_content():
    """The wrong drug and dose, or a frequency said twice: dangerous or unparseable, and still in the house's words."""
    assert house_style(direction(replace(ORDER, drug="aspirin", parts=(Part("9", "every 4 hours"),)))) == 1.0
    assert house_style("Take 1 tablet of xyz by mouth once a day 2 times a day.") == 1.0


@pytest.mark.parametrize("text", ["", ".", "Hello.", "Take.", "x" * 1000, "metformin metformin"])
def test_saying_nothing_is_no_style(text):
    assert house_style(text) == 0.0


def test_a_fragment_loses_a_third_for_each_part_that_it_lacks():
    assert house_style("Take 1 tablet of xyz by mouth.") == pytest.approx(2 / 3)
