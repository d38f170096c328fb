"""The checker of medication directions: right whatever the wording, strict about content, and not to be gamed."""

from dataclasses import replace
from itertools import product
from random import Random
from typing import get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.tiny.pharmacy.checker import judge
from rung.tiny.pharmacy.directions import HANDS, HOUSE, Style, direction
from rung.tiny.pharmacy.lexicon import ADVICE, FREQUENCIES, REASONS, ROUTES
from rung.tiny.pharmacy.orders import Order, Part, draw_order
from rung.tiny.pharmacy.pairs import NEAR_MISSES
from rung.tiny.pharmacy.reader import read

STYLES = [Style(*ways) for ways in product(*map(get_args, get_type_hints(Style).values()))]
METFORMIN = Order(
    "metformin", "500 mg", "tablet", "by mouth", (Part("1", "2 times a day", "10 days"),), advice="with food"
)
IBUPROFEN = Order(
    "Advil",
    "200 mg",
    "tablet",
    "by mouth",
    (Part("1 to 2", "every 4 to 6 hours"),),
    prn=True,
    reason="pain",
    maximum="6",
)
PREDNISONE = Order(
    "prednisone",
    "10 mg",
    "tablet",
    "by mouth",
    (Part("2", "once a day", "1 week"), Part("1", "once a day", "4 days")),
    link="then",
)
GABAPENTIN = Order(
    "gabapentin",
    None,
    "capsule",
    "by mouth",
    (Part("1", "every morning", "30 days"), Part("2", "at bedtime")),
    link="and",
)
HALF = replace(METFORMIN, parts=(Part("0.5", "once a day"),), advice=None)
ONE_AND_A_HALF = replace(METFORMIN, parts=(Part("1.5", "once a day"),), advice=None)

orders = st.builds(
    lambda seed, split: draw_order(Random(seed), split),
    st.integers(0, 10**9),
    st.sampled_from(["train", "validation", "test"]),
)


@settings(max_examples=80, deadline=None)
@given(orders)
def test_every_order_in_every_style_is_correct(order):
    for style in STYLES:
        judgement = judge(direction(order, style), order)
        assert (judgement.outcome, judgement.wrong, judgement.severity, judgement.share) == ("correct", (), 0.0, 1.0)


@pytest.mark.parametrize(
    ("order", "text"),
    [
        (METFORMIN, "Take one tablet of metformin 500 mg by mouth twice a day with meals for ten days."),
        (METFORMIN, "metformin 500mg: 1 tab orally 2 times daily with food x 10 days"),
        (METFORMIN, "For 10 days, take 1 tablet of metformin 500 mg with food two times each day by mouth."),
        (METFORMIN, "Please swallow 1 tablet of your METFORMIN 500 mg by mouth twice daily. With food, for 10 days."),
        (
            IBUPROFEN,
            "Take 1-2 tablets of Advil 200 mg by mouth every 4-6 hours as needed for pain, maximum 6 tablets daily.",
        ),
        (
            IBUPROFEN,
            "Take one to two tablets of advil 200 mg orally every four to six hours only if needed for pain. "
            "Do not take more than 6 tablets a day.",
        ),
        (
            PREDNISONE,
            "Take 2 tablets of prednisone 10 mg by mouth every day for 7 days and then take 1 tablet daily for 4 days.",
        ),
        (GABAPENTIN, "Take 1 capsule of gabapentin by mouth each morning and 2 capsules nightly for 30 days."),
        (GABAPENTIN, "For 30 days take 1 capsule of gabapentin by mouth each morning and 2 capsules nightly."),
        (HALF, "Take 1/2 tablet of metformin 500 mg orally once daily."),
        (ONE_AND_A_HALF, "Take one and a half tablets of metformin 500 mg orally every day."),
        (ONE_AND_A_HALF, "Take 1 1/2 tablets of metformin 500 mg orally every day."),
    ],
)
def test_other_wordings_of_the_same_content_are_correct(order, text):
    assert judge(text, order).outcome == "correct"


@settings(max_examples=80, deadline=None)
@given(orders, st.integers(0, 10**9), st.sampled_from(sorted(NEAR_MISSES)), st.sampled_from(sorted(HANDS)))
def test_every_near_miss_is_dangerous_and_its_component_is_named(order, seed, name, hand):
    missed = NEAR_MISSES[name](order, Random(seed))
    if missed is None:
        return
    judgement = judge(direction(missed, HANDS[hand]), order)
    assert judgement.outcome == "dangerous"
    assert judgement.severity > 0
    assert judgement.share < 1
    assert {"second part": "dose 2"}.get(name, name) in judgement.wrong


def _first(**changes):
    return lambda order: replace(order, parts=(replace(order.parts[0], **changes), *order.parts[1:]))


@pytest.mark.parametrize(
    ("order", "change", "wrong"),
    [
        (METFORMIN, lambda order: replace(order, drug="metformine"), ("drug",)),
        (METFORMIN, lambda order: replace(order, strength=None), ("strength",)),
        (GABAPENTIN, lambda order: replace(order, strength="100 mg"), ("strength",)),
        (METFORMIN, lambda order: replace(order, strength="500 mcg"), ("strength",)),
        (METFORMIN, lambda order: replace(order, unit="mL"), ("dose",)),
        (METFORMIN, _first(amount="1 to 2"), ("dose",)),
        (METFORMIN, _first(frequency="every 12 hours"), ("frequency",)),
        (METFORMIN, _first(duration=None), ("duration",)),
        (IBUPROFEN, _first(duration="3 days"), ("duration",)),
        (METFORMIN, lambda order: replace(order, prn=True), ("prn",)),
        (IBUPROFEN, lambda order: replace(order, reason="fever"), ("reason",)),
        (METFORMIN, lambda order: replace(order, maximum="4"), ("maximum",)),
        (
            PREDNISONE,
            lambda order: replace(order, parts=(order.parts[0], Part("1", "once a day", "5 days"))),
            ("duration 2",),
        ),
        (
            PREDNISONE,
            lambda order: replace(order, parts=(order.parts[0], Part("3", "once a day", "4 days"))),
            ("dose 2",),
        ),
        (
            PREDNISONE,
            lambda order: replace(order, parts=order.parts[::-1]),
            ("dose", "duration", "dose 2", "duration 2"),
        ),
    ],
)
def test_one_changed_component_is_dangerous(order, change, wrong):
    for style in STYLES:
        judgement = judge(direction(change(order), style), order)
        assert judgement.outcome == "dangerous"
        assert judgement.wrong == wrong


@pytest.mark.parametrize(
    ("order", "text", "wrong"),
    [
        (METFORMIN, direction(replace(METFORMIN, advice=None)), ("advice",)),
        (METFORMIN, direction(replace(METFORMIN, advice="before meals")), ("advice",)),
        (PREDNISONE, direction(replace(PREDNISONE, advice="with food")), ("advice",)),
        (IBUPROFEN, direction(replace(IBUPROFEN, reason=None)), ("reason",)),
        (METFORMIN, direction(replace(METFORMIN, unit="capsule")), ("form",)),
        (METFORMIN, direction(METFORMIN).replace("Take", "Apply"), ("verb",)),
    ],
)
def test_what_does_no_harm_is_harmless_and_not_correct(order, text, wrong):
    judgement = judge(text, order)
    assert (judgement.outcome, judgement.wrong, judgement.severity) == ("harmless", wrong, 0.0)


@pytest.mark.maths
def test_severity_and_share_by_hand():
    """drug, strength, route, dose, frequency, duration and advice are asked: 7 components.

    Wrong are the dose (0.9), the duration (0.4) and, harmless, the advice: 1 - 0.1 * 0.6 = 0.94; 4 of 7 are right.
    """
    judgement = judge("Take 2 tablets of metformin 500 mg by mouth 2 times a day for 5 days.", METFORMIN)
    assert judgement.wrong == ("dose", "duration", "advice")
    assert judgement.severity == pytest.approx(0.94)
    assert judgement.share == pytest.approx(4 / 7)


GOOD = "Take 1 tablet of metformin 500 mg by mouth 2 times a day with food for 10 days."


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "Take",
        "metformin",
        "I do not know.",
        GOOD + " " + GOOD,
        GOOD + " Take 2 tablets.",
        GOOD + " qwerty",
        GOOD + " metformin",
        GOOD + " 3",
        GOOD + "..",
        GOOD + " :",
        GOOD + " <|im_end|>",
        GOOD.replace("2 times a day", "2 times a day 2 times a day"),
        GOOD.replace("2 times a day", "once a day, 2 times a day, 3 times a day"),
        GOOD.replace("by mouth", "by mouth or on the skin"),
        GOOD.replace("by mouth", "by mouth on the skin"),
        GOOD.replace("for 10 days", "for 5 days for 10 days"),
        GOOD.replace("1 tablet", "1 tablet 2 tablets"),
        GOOD.replace("1 tablet", "1 tablet and 2 tablets and 3 tablets"),
        GOOD.replace("500 mg", "500 mg 250 mg"),
        GOOD.replace("with food", "with food before meals"),
        GOOD.replace("with food", "with food and"),
        "Take take 1 tablet of metformin 500 mg by mouth 2 times a day with food for 10 days.",
        "Take 1 tablet of metformin, lisinopril by mouth 2 times a day.",
        "word " * 500,
    ],
)
def test_a_text_that_is_no_single_direction_is_unparseable(text):
    assert judge(text, METFORMIN).outcome == "unparseable"


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("metformin", "metformin or lisinopril"),
        GOOD.replace("metformin", "metformin lisinopril"),
        GOOD.replace("metformin", "met formin"),
        GOOD.replace("of metformin 500 mg ", ""),
        GOOD.replace("by mouth ", ""),
        GOOD.replace("2 times a day ", ""),
        GOOD.replace("1 tablet of ", ""),
        GOOD.replace("2 times a day", "if needed"),
        GOOD.replace("for 10 days", "for 10 weeks"),
        GOOD.replace("1 tablet", "10 tablets"),
        GOOD.replace("1 tablet", "0.1 tablet"),
        GOOD.replace("by mouth", "by mouth and 1 tablet"),
        GOOD.replace("10 days", "10 days, at most 2 tablets a day"),
    ],
)
def test_a_direction_that_hedges_drops_or_adds_is_not_rewarded(text):
    assert judge(text, METFORMIN).outcome in ("dangerous", "unparseable")


def test_a_name_is_the_one_that_was_written_but_for_its_capitals():
    assert judge(GOOD.replace("metformin", "Metformin"), METFORMIN).outcome == "correct"
    assert judge(GOOD.replace("metformin", "Glucophage"), METFORMIN).wrong == ("drug",)


@pytest.mark.parametrize(("table", "place"), [(ROUTES, "route"), (FREQUENCIES, "frequency"), (ADVICE, "advice")])
def test_every_listed_wording_reads_as_its_meaning_alone(table, place):
    base = {"route": "by mouth", "frequency": "once a day", "advice": "with food"}
    for plain, term in table.items():
        for wording in (plain, term.clinical, *term.also):
            said = base | {place: wording}
            reading = read(f"Take 1 tablet of xyz {said['route']} {said['frequency']} {said['advice']}.")
            assert reading is not None, wording
            found = {"route": reading.route, "frequency": reading.doses[0].frequency, "advice": reading.advice}
            assert found == base | {place: plain}


def test_every_reason_reads_as_itself():
    for plain, term in REASONS.items():
        for wording in (plain, term.clinical, *term.also):
            reading = read(f"Take 1 tablet of xyz by mouth once a day if needed for {wording}.")
            assert reading is not None
            assert reading.reason == plain


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from([*GOOD.split(), "then", "and", "2", "/", "-", "half"])).map(" ".join)
)
def test_any_text_is_judged_without_an_error(text):
    judgement = judge(text, METFORMIN)
    assert judgement.outcome in ("correct", "dangerous", "harmless", "unparseable")
    assert 0 <= judgement.severity <= 1
    assert 0 <= judgement.share <= 1
    assert (judgement.severity > 0) == (judgement.outcome == "dangerous")


def test_no_order_of_another_content_is_correct():
    random = Random(5)
    drawn = list({draw_order(random, "train") for _ in range(60)})
    for order in drawn:
        assert [other for other in drawn if judge(direction(other, HOUSE), order).outcome == "correct"] == [order]
