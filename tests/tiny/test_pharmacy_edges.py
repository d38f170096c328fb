"""Reading a direction at its limits: words, names, periods, numbers, and severity by hand."""

from random import Random

import pytest

from rung.tiny.pharmacy.checker import judge
from rung.tiny.pharmacy.formulary import drug
from rung.tiny.pharmacy.orders import Order, Part, largest
from rung.tiny.pharmacy.pairs import NEAR_MISSES
from rung.tiny.pharmacy.phrases import scan
from rung.tiny.pharmacy.reader import days, read
from rung.tiny.pharmacy.sigs import misspell
from rung.tiny.pharmacy.style import house_style, style_rules

ORDER = Order("xyz", "5 mg", "tablet", "by mouth", (Part("1", "2 times a day"),))
TEXT = "Take 1 tablet of xyz 5 mg by mouth 2 times a day"


def test_80_words_are_read_and_81_are_not() -> None:
    assert scan("of " * 80) is not None
    assert scan("of " * 81) is None


@pytest.mark.parametrize(("name", "found"), [("a b c", "a b c"), ("a b c d", None)])
def test_a_name_has_three_words_at_most(name: str, found: str | None) -> None:
    reading = read(f"Take 1 tablet of {name} by mouth 2 times a day.")
    assert (reading.drug if reading else None) == found


@pytest.mark.parametrize(
    ("text", "read_as"),
    [
        (f"{TEXT}.", True),
        (f"{TEXT}. ", True),
        ("Take 1 tablet of xyz. By mouth 2 times a day.", True),
        ("Take 1 tablet. Of xyz. By mouth 2 times a day.", False),
        (f"{TEXT}..", False),
        (f". {TEXT}", False),
        (f"{TEXT}, .", False),
        (f"{TEXT} & more", False),
        ("xyz 2 times a day", True),
        ("Take 1 tablet of xyz", True),
        ("Take 1 tablet by mouth", False),
        ("xyz by mouth", False),
        ("", False),
    ],
)
def test_what_is_one_direction(text: str, read_as: bool) -> None:
    assert (read(text) is not None) is read_as


def amounts(text: str) -> list[str]:
    return [phrase.value.split("|")[0] for phrase in scan(text) or [] if phrase.kind == "dose"]


@pytest.mark.parametrize(
    ("words", "amount"),
    [
        ("half a tablet", "0.5"),
        ("1/2 tablet", "0.5"),
        ("1 1/2 tablets", "1.5"),
        ("1 and a half tablets", "1.5"),
        ("one and a half tablets", "1.5"),
        ("1 to 2 tablets", "1 to 2"),
        ("one-two tablets", None),
        ("1-2 tablets", "1 to 2"),
        ("2.50 tablets", "2.5"),
        ("twelve tablets", "12"),
        ("twenty-one tablets", "21"),
    ],
)
def test_amounts_are_read_as_numbers(words: str, amount: str | None) -> None:
    assert amounts(words) == ([] if amount is None else [amount])


def test_a_second_part_needs_its_dose_at_once() -> None:
    first = "Take 1 tablet of xyz by mouth every morning"
    reading = read(f"{first} and take 2 tablets at bedtime")
    assert reading is not None
    assert [(dose.amount, dose.frequency) for dose in reading.doses] == [("1", "every morning"), ("2", "at bedtime")]
    assert reading.link == "and"
    assert read(f"{first} and at bedtime") is None
    assert read(f"{first} and 2 tablets at bedtime and 1 tablet every evening") is None


def test_a_duration_belongs_to_both_amounts_of_a_day_and_to_its_own_step() -> None:
    both = read("Take 1 tablet of xyz by mouth every morning and 2 tablets at bedtime for 10 days.")
    steps = read("Take 1 tablet of xyz by mouth daily for 2 weeks, then 2 tablets daily for 3 days.")
    assert both is not None
    assert steps is not None
    assert [dose.days for dose in both.doses] == [10, None]
    assert [dose.days for dose in steps.doses] == [14, 3]
    assert (days("1 day"), days("1 week"), days("3 weeks")) == (1, 7, 21)


@pytest.mark.parametrize(
    ("text", "wrong", "severity", "share"),
    [
        (f"{TEXT}.", (), 0.0, 1.0),
        (TEXT.replace("xyz", "abc"), ("drug",), 1.0, 4 / 5),
        (TEXT.replace("5 mg", "50 mg"), ("strength",), 0.8, 4 / 5),
        (TEXT.replace("1 tablet", "2 tablets").replace("5 mg ", ""), ("strength", "dose"), 1 - 0.2 * 0.1, 3 / 5),
        (TEXT.replace("2 times", "3 times") + " for 3 days", ("frequency", "duration"), 1 - 0.3 * 0.6, 4 / 6),
        (TEXT + " if needed for pain", ("prn", "reason"), 1 - 0.5 * 0.7, 5 / 7),
        (TEXT + ", at most 4 tablets a day", ("maximum",), 0.6, 5 / 6),
        (TEXT.replace("tablet", "capsule"), ("form",), 0.0, 5 / 6),
        (TEXT + " with food", ("advice",), 0.0, 5 / 6),
        (TEXT.replace("Take", "Insert"), ("verb",), 0.0, 5 / 6),
        ("no direction", (), 0.0, 0.0),
    ],
)
def test_severity_is_one_less_the_product_of_safeties(
    text: str, wrong: tuple[str, ...], severity: float, share: float
) -> None:
    found = judge(text, ORDER)
    assert found.wrong == wrong
    assert found.severity == pytest.approx(severity)
    assert found.share == pytest.approx(share)


def test_a_reason_that_is_left_out_is_harmless_and_another_is_not() -> None:
    order = Order("xyz", None, "tablet", "by mouth", (Part("1", "2 times a day"),), prn=True, reason="pain")
    text = "Take 1 tablet of xyz by mouth 2 times a day if needed"
    assert judge(text, order).outcome == "harmless"
    assert judge(f"{text} for pain", order).outcome == "correct"
    assert judge(f"{text} for sleep", order).severity == pytest.approx(0.3)


def test_a_maximum_in_another_unit_is_dangerous() -> None:
    order = Order("xyz", None, "tablet", "by mouth", (Part("1", "2 times a day"),), maximum="4")
    text = "Take 1 tablet of xyz by mouth 2 times a day, at most 4"
    assert judge(f"{text} tablets a day", order).outcome == "correct"
    assert judge(f"{text} capsules a day", order).outcome == "correct"
    assert judge(f"{text} drops a day", order).wrong == ("maximum unit",)


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        (f"{TEXT}.", set()),
        (f"please {TEXT}.", {"opening", "manner"}),
        (f"{TEXT.replace('1 tablet', 'one tablet')}.", {"opening", "numbers"}),
        (f"{TEXT.replace('tablet', 'tab')}.", {"units"}),
        (f"{TEXT.replace('by mouth', 'orally')}.", {"terms"}),
        (TEXT, {"ending"}),
        ("Take 1 tablet. By mouth 2 times a day.", {"ending"}),
        ("Take 1 tablet by mouth of xyz 5 mg 2 times a day.", {"order"}),
    ],
)
def test_each_rule_of_the_house_is_a_seventh(text: str, broken: set[str]) -> None:
    assert {rule for rule, kept in style_rules(text).items() if not kept} == broken
    assert house_style(text) == pytest.approx(1 - len(broken) / 7)


def test_a_part_that_is_missing_takes_a_third() -> None:
    assert house_style("Take 1 tablet by mouth.") == pytest.approx(2 / 3)
    assert house_style("Take 1 tablet.") == pytest.approx(1 / 3)


def test_a_line_of_the_table() -> None:
    assert drug("a_b/C 1 2 mg/5_mL @x_y @z").names == ("a b", "C")
    found = drug("a 0.5 mg <3")
    assert (found.strengths, found.limit, found.reasons) == (("0.5 mg",), 3.0, ())
    assert drug("a").strengths == ()
    assert (largest("2"), largest("1 to 3")) == (2.0, 3.0)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("maximum", {None, "8"}),
        ("strength", {"10 mg", "50 mg"}),
        ("dose", {"2", "3", "4"}),
        ("duration", {"2 days", "6 days", "12 days", "3 weeks"}),
        ("route", {"under the tongue", "in the rectum"}),
        ("prn", {(False, None)}),
    ],
)
def test_a_near_miss_changes_its_component(name: str, found: set) -> None:
    part = Part("1", "2 times a day", "10 days")
    order = Order("xyz", "5 mg", "tablet", "by mouth", (part,), prn=True, reason="pain", maximum="4")

    def changed(missed: Order | None) -> object:
        assert missed is not None
        first = missed.parts[0]
        told = {"dose": first.amount, "duration": first.duration, "prn": (missed.prn, missed.reason)}
        return told.get(name, getattr(missed, name, None))

    assert {changed(NEAR_MISSES[name](order, Random(i))) for i in range(60)} == found


def test_a_near_miss_of_what_is_not_there_is_none() -> None:
    for name in ("strength", "duration", "prn", "maximum", "second part"):
        bare = Order("xyz", None, "tablet", "by mouth", (Part("1", "2 times a day"),))
        assert NEAR_MISSES[name](bare, Random(0)) is None


def test_short_words_are_never_misspelt() -> None:
    assert misspell("1 tab po bid", Random(0)) == "1 tab po bid"
    found = {misspell("tablet", Random(i)) for i in range(200)}
    swaps = {"tbalet", "talbet", "tabelt"}
    drops = {"tblet", "talet", "tabet"}
    doubles = {"taablet", "tabblet", "tabllet"}
    assert found == swaps | drops | doubles
