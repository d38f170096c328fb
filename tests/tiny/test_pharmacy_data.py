"""The medication task: what its rows hold, that its splits share nothing, and that its orders are plausible."""

import json
import math
from collections import Counter
from random import Random

import pytest

from rung.errors import DataError
from rung.tiny import tasks
from rung.tiny.pharmacy.checker import judge
from rung.tiny.pharmacy.directions import HANDS
from rung.tiny.pharmacy.formulary import SPLITS, drug_names, families
from rung.tiny.pharmacy.lexicon import TIMES_A_DAY
from rung.tiny.pharmacy.names import invent
from rung.tiny.pharmacy.orders import Order, draw_order, largest
from rung.tiny.pharmacy.phrases import scan
from rung.tiny.pharmacy.sigs import misspell, sig
from rung.tiny.pharmacy.style import house_style

NAMES = [name for name in tasks.names() if name.startswith("pharmacy/")]


@pytest.fixture(scope="module")
def data():
    return {name: tasks.rows(name) for name in NAMES}


def _sig(row):
    return row["prompt"][0]["content"]


def _orders(rows):
    return [Order.from_dict(row["order"]) for row in rows]


def _drugs(rows):
    return {order.drug for order in _orders(rows)}


def test_sizes_and_columns(data):
    assert {name: (len(rows), *rows[0]) for name, rows in data.items()} == {
        "pharmacy/sft": (500, "prompt", "completion", "order", "hand"),
        "pharmacy/pairs": (500, "prompt", "chosen", "rejected", "order"),
        "pharmacy/sft-and-chosen": (1000, "prompt", "completion", "order", "hand"),
        "pharmacy/prompts": (4000, "prompt", "order"),
        "pharmacy/validation": (600, "prompt", "order", "answer"),
        "pharmacy/test": (600, "prompt", "order", "answer"),
    }


def test_rows_are_json_and_an_order_survives_it(data):
    for rows in data.values():
        assert json.loads(json.dumps(rows)) == rows
        assert all(Order.from_dict(row["order"]).as_dict() == row["order"] for row in rows)


def test_the_pairs_are_about_the_sigs_of_sft(data):
    assert [_sig(row) for row in data["pharmacy/pairs"]] == [_sig(row) for row in data["pharmacy/sft"]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_sig_is_in_two_splits_or_twice_in_one(seed):
    splits = ["pharmacy/sft", "pharmacy/prompts", "pharmacy/validation", "pharmacy/test"]
    counted = Counter(_sig(row) for name in splits for row in tasks.rows(name, seed))
    assert max(counted.values()) == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_validation_and_test_have_drugs_that_are_named_nowhere_else(seed):
    drugs = {name: _drugs(tasks.rows(name, seed)) for name in NAMES}
    trained = drugs["pharmacy/sft"] | drugs["pharmacy/pairs"] | drugs["pharmacy/prompts"]
    text = " ".join(json.dumps(tasks.rows(name, seed)) for name in NAMES[:3]).lower()
    assert len(drugs["pharmacy/validation"]) > 80
    assert len(drugs["pharmacy/test"]) > 80
    assert not drugs["pharmacy/validation"] & drugs["pharmacy/test"]
    for held_out in drugs["pharmacy/validation"] | drugs["pharmacy/test"]:
        assert held_out not in trained
        assert held_out.lower() not in text


def test_all_names_of_a_medicine_are_in_one_split():
    split_of: dict[str, set[str]] = {}
    for split in SPLITS:
        for drug in (drug for family in families() for drug in family.drugs[split]):
            for name in drug.names:
                split_of.setdefault(name.lower(), set()).add(split)
    assert all(len(splits) == 1 for splits in split_of.values())


@pytest.mark.parametrize("split", SPLITS)
def test_no_name_of_a_split_hides_in_a_name_of_another(split):
    text = " ".join(name for other in SPLITS if other != split for name in drug_names(other)).lower()
    assert [name for name in drug_names(split) if name.lower() in text] == []


def test_every_family_has_drugs_in_every_split():
    assert all(family.drugs[split] for family in families() for split in SPLITS)


def test_no_drug_is_called_like_a_phrase():
    random = Random(0)
    invented = {invent(random) for _ in range(2000)}
    for name in invented.union(*map(drug_names, SPLITS)):
        assert [phrase.kind for phrase in scan(name) or []] == ["name"], name


def test_a_seed_gives_the_same_rows_and_another_seed_others():
    assert tasks.rows("pharmacy/pairs", 3) == tasks.rows("pharmacy/pairs", 3)
    assert tasks.rows("pharmacy/test", 3) != tasks.rows("pharmacy/test", 4)


def test_rows_are_the_callers_own_to_change(data):
    tasks.rows("pharmacy/sft")[0]["order"]["parts"][0]["amount"] = "99"
    assert tasks.rows("pharmacy/sft") == data["pharmacy/sft"]


def test_half_of_the_unlabelled_drugs_are_invented(data):
    invented = sum(order.drug not in drug_names("train") for order in _orders(data["pharmacy/prompts"]))
    assert 0.45 < invented / 4000 < 0.55


def test_every_label_is_right_and_the_hands_have_their_shares(data):
    rows = data["pharmacy/sft"]
    assert {judge(row["completion"][0]["content"], Order.from_dict(row["order"])).outcome for row in rows} == {
        "correct"
    }
    hands = Counter(row["hand"] for row in rows)
    assert all(abs(hands[hand] / 500 - 1 / len(HANDS)) < 0.07 for hand in HANDS)


def test_a_preferred_text_is_right_and_the_other_is_worse_in_style_or_dangerous(data):
    outcomes = Counter()
    for row in data["pharmacy/pairs"]:
        order = Order.from_dict(row["order"])
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        outcome = judge(rejected, order).outcome
        outcomes[outcome] += 1
        assert judge(chosen, order).outcome == "correct"
        assert house_style(chosen) >= house_style(rejected)
        assert outcome == "dangerous" or house_style(chosen) > house_style(rejected)
    assert set(outcomes) == {"correct", "dangerous"}
    assert 0.15 < outcomes["dangerous"] / 500 < 0.25


def test_answers_are_right_and_in_the_house_style(data):
    for row in data["pharmacy/validation"] + data["pharmacy/test"]:
        judgement = judge(row["answer"], Order.from_dict(row["order"]))
        assert (judgement.outcome, judgement.share, judgement.severity) == ("correct", 1.0, 0.0)
        assert house_style(row["answer"]) == 1.0


def test_a_day_stays_within_the_limit_of_the_drug_and_a_maximum_binds():
    limits: dict[str, list[float]] = {}
    for drug in (drug for family in families() for drug in family.drugs["train"]):
        for name in drug.names:
            limits.setdefault(name, []).append(drug.limit or math.inf)
    random = Random(0)
    for order in (draw_order(random, "train") for _ in range(3000)):
        first = order.parts[0]
        day = largest(first.amount) * TIMES_A_DAY[first.frequency]
        if order.maximum is not None:
            assert 2 * largest(first.amount) <= float(order.maximum) <= day
            day = float(order.maximum)
        if order.strength is not None and order.link is None:
            assert day * float(order.strength.split()[0]) <= max(limits[order.drug])


def test_orders_are_of_every_kind():
    random = Random(1)
    orders = [draw_order(random, "test") for _ in range(3000)]
    assert {order.link for order in orders} == {None, "and", "then"}
    assert len({order.route for order in orders}) == 14
    assert len({order.parts[0].frequency for order in orders}) == 16
    assert {bool(order.maximum) for order in orders} == {bool(order.reason) for order in orders} == {True, False}
    assert len(set(orders)) > 2000


def test_one_order_is_written_in_many_ways_but_its_drug_in_one():
    random = Random(2)
    order = next(one for one in (draw_order(random, "train") for _ in range(999)) if one.prn and one.advice)
    written = {sig(order, random) for _ in range(300)}
    assert len(written) > 100
    assert all(order.drug in text for text in written)


def test_a_misspelling_changes_one_longer_word_a_little():
    random = Random(3)
    for _ in range(200):
        text = "1 tablet po bid with food"
        changed = [(a, b) for a, b in zip(text.split(), misspell(text, random).split(), strict=True) if a != b]
        assert [word for word, _ in changed] in ([], ["tablet"])
        assert all(abs(len(a) - len(b)) <= 1 for a, b in changed)


def test_prompts_are_short(data):
    lengths = sorted(len(_sig(row)) for row in data["pharmacy/prompts"])
    assert lengths[len(lengths) // 2] < 60
    assert lengths[-1] < 130


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(DataError, match=r"did you mean `pharmacy/pairs`"):
        tasks.rows("pharmacy/pair")
