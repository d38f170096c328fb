"""The rewards that ship: their examples hold, gold passes, tricks do not, and no input breaks them."""

from __future__ import annotations

import doctest
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.registry import package_modules
from rung.reward.registry import reward_function, reward_names
from rung.rewards.exact_match import exact_match, normalized_match
from rung.rewards.final_number import final_number
from rung.rewards.json_valid import json_valid
from rung.rewards.label import label
from rung.rewards.length import length
from rung.rewards.soft_overlong import soft_overlong
from rung.rewards.tag_format import tag_format
from rung.rewards.token_f1 import token_f1

LABELS = ("card", "card_lost", "refund")


@pytest.mark.parametrize(
    "module", list(package_modules("rung.rewards")), ids=lambda module: module.__name__.rpartition(".")[2]
)
def test_the_examples_of_a_reward_hold(module) -> None:
    failed, attempted = doctest.testmod(module)
    assert attempted > 0, "every reward shows an example"
    assert failed == 0


@pytest.mark.parametrize("gold", ["18", "-5", "1,234.50", "3/4", "A: 70000", "12%"])
def test_gold_answers_of_number_and_text_rewards_score_the_most(gold) -> None:
    assert (
        final_number(gold, gold) == exact_match(gold, gold) == normalized_match(gold, gold) == token_f1(gold, gold) == 1
    )


def test_gold_answers_of_format_rewards_score_the_most() -> None:
    assert all(label(name, name, labels=LABELS) == 1 for name in LABELS)
    assert tag_format("<think>so</think><answer>4</answer>") == 1
    assert json_valid(json.dumps({"a": [1, None]})) == json_valid("[]") == 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("it costs $1,234.50.", "1234.5"),
        ("16 - 3 = 13, and 13 * 2 = 26", "26"),
        ("the answer is 16-3", "3"),
        ("from 5 - 3", "3"),
        ("so x = -3", "-3"),
        ("x = - 3", "-3"),
        ("down to \u22123 degrees", "-3"),
        ("-$40", "-40"),
        ("$-40", "-40"),
        ("Net loss: (134)", "-134"),
        ("$(134)", "-134"),
        ("there are eighteen (18)", "18"),
        ("f(18)", "18"),
        ("- 18", "18"),
        ("on 2024-01-05", "5"),
        ("3/4 of it", "0.75"),
        ("1 1/2 cups", "1.5"),
        ("a share of 50%", "50"),
        ("a share of 50 \\%", "0.5"),
        (".5", "1/2"),
        ("1,2345", "2345"),
        ("18.", "18"),
        ("#### 18", "18.00"),
    ],
)
def test_the_last_number_is_read_as_a_person_reads_it(text, number) -> None:
    assert final_number(text, number) == 1.0


@pytest.mark.parametrize(
    ("text", "number"), [("18 or 19", "18"), ("-5", "5"), ("50%", "5"), ("no idea", "0"), ("", "0")]
)
def test_another_last_number_or_none_scores_zero(text, number) -> None:
    assert final_number(text, number) == 0.0


def test_a_gold_answer_without_a_number_abstains() -> None:
    assert final_number("18", "unknown") is None


def test_tolerance_is_absolute_and_exact() -> None:
    assert final_number("0.3", "0.1", tolerance=0.25) == 1.0
    assert final_number("0.1000000000000000001", "0.1") == 0.0


def test_naming_several_labels_does_not_win() -> None:
    assert label("card or refund", "card", labels=LABELS) == 0
    assert label("card_lost", "card", labels=LABELS) == 0
    assert label("discard", "card", labels=LABELS) == 0
    assert label("the card, I repeat: card", "card", labels=LABELS) == 1
    assert label("card", "cheque", labels=LABELS) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<think>a</think>",
        "<answer>4</answer><think>a</think>",
        "<think>a<answer>4</answer></think>",
        "<think>a</think><answer>4</answer><answer>5</answer>",
        "</think><think>a<answer>4</answer>",
    ],
)
def test_tags_out_of_order_missing_or_repeated_score_zero(text) -> None:
    assert tag_format(text) == 0.0


@pytest.mark.parametrize("text", ["", "{", '{"a": NaN}', "3", '"text"', "true", 'Here it is: {"a": 1}', "[" * 100_000])
def test_what_is_no_json_object_or_list_scores_zero(text) -> None:
    assert json_valid(text) == 0.0


@pytest.mark.maths
def test_token_f1_counts_repeats() -> None:
    """Shared words: 1; 4 found, 2 gold: 2 * 1 / 6."""
    assert token_f1("red red red red", "red blue") == pytest.approx(1 / 3)
    assert token_f1("", "red") == 0.0
    assert token_f1("the", "a") == 1.0


@pytest.mark.maths
def test_golden_18_soft_overlong_is_clamped() -> None:
    found = [soft_overlong(n, max_length=20, buffer=4) for n in (10, 16, 17, 18, 20, 21)]
    assert found == [0, 0, -0.25, -0.5, -1, -1]


def test_length_never_pays_for_more() -> None:
    prices = [length(n, max_length=10) for n in range(20)]
    assert prices == sorted(prices, reverse=True)


@pytest.mark.parametrize("name", reward_names())
def test_every_registered_reward_declares_a_range_or_is_a_metric(name) -> None:
    from rung.reward.decorator import declaration

    declared = declaration(reward_function(name))
    assert declared.range is not None or declared.role == "metric"


NASTY = [
    "\0",
    "\ud800",
    "{" * 10_000,
    "(" * 10_000,
    "-" * 10_000,
    "9" * 10_000,
    "1," * 10_000,
    "1/" * 10_000,
    "<think>" * 999,
]


@pytest.mark.parametrize("text", NASTY, ids=lambda text: f"{len(text)}x{text[0]!r}")
def test_hostile_text_is_scored_like_any_other(text) -> None:
    assert final_number(text, "7") == 0.0
    assert exact_match(text, "7") == token_f1(text, "7") == tag_format(text) == json_valid(text) == 0.0
    assert label(text, "card", labels=LABELS) == 0.0


@given(st.text(alphabet="0123456789 -/.,()$%=:x\n\\", max_size=30), st.sampled_from(["7", "-1/3", "50%"]))
def test_the_number_matcher_scores_zero_or_one_on_any_text(text, gold) -> None:
    assert final_number(text, gold) in (0.0, 1.0)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**12), max_value=10**12))
def test_every_decimal_is_read_back_with_and_without_thousands_commas(number) -> None:
    assert final_number(f"so it is {number:,}.", f"{number:f}") == 1.0


@pytest.mark.real_data
@pytest.mark.skipif("RUNG_DATA" not in os.environ, reason="RUNG_DATA does not name the folder of public data")
def test_the_last_number_agrees_with_every_label_of_the_gsm8k_model_solutions() -> None:
    path = Path(os.environ["RUNG_DATA"], "gsm8k", "example_model_solutions.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    labelled = [(s, row["ground_truth"]) for row in rows for s in row.values() if isinstance(s, dict)]
    assert len(labelled) == 5276
    wrong = [s for s, gold in labelled if final_number(s["solution"], gold) != float(s["is_correct"])]
    assert wrong == []
