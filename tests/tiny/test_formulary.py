"""The task formulary: what the tool tells, splits, and that only the answer with the looked-up values is correct."""

from dataclasses import replace

import pytest

from rung.data.load import load_examples
from rung.rewards.pharmacy import correct
from rung.tiny.formulary.entries import entries, lookup, real_names
from rung.tiny.formulary.task import cases, conversation
from rung.tiny.pharmacy.directions import direction
from rung.tiny.tasks import rows

SPLITS = ("sft", "prompts", "validation", "test")


def test_the_tool_knows_every_drug_and_helps_with_a_misspelt_one() -> None:
    entry = entries()["tenormin"]
    assert lookup("Tenormin") == lookup("tenormin") == f"{entry.strength} {entry.route}"
    with pytest.raises(ValueError, match=r"no tenomrin; Tenormin\?"):
        lookup("tenomrin")
    with pytest.raises(ValueError, match=r"^no xx$"):
        lookup("xx")


def test_equal_seeds_give_equal_rows_and_others_do_not() -> None:
    cases.cache_clear()
    first = rows("formulary/sft", 3)
    cases.cache_clear()
    assert rows("formulary/sft", 3) == first != rows("formulary/sft", 4)


def test_held_out_drugs_are_in_no_other_split() -> None:
    drugs = {split: {order.drug.lower() for _, _, order in cases(0)[split]} for split in SPLITS}
    assert not (drugs["sft"] | drugs["prompts"]) & (drugs["validation"] | drugs["test"])
    assert not drugs["validation"] & drugs["test"]
    texts = [text for split in SPLITS for text, _, _ in cases(0)[split]]
    assert len(texts) == len(set(texts))
    assert drugs["validation"] <= {name.lower() for name in real_names("validation")}


def test_strength_and_route_are_not_in_the_prompt() -> None:
    for text, _, order in cases(0)["prompts"][:500]:
        assert order.strength is not None
        assert order.strength not in text
        assert order.route not in text


def test_the_reference_answer_is_correct_and_another_strength_or_route_is_not() -> None:
    for _, written, order in cases(0)["validation"]:
        *_, answer = conversation(written, order)
        record = order.as_dict()
        assert correct(answer["content"], record) == 1
        assert order.strength is not None
        number = order.strength.split()[0]
        other = replace(order, strength=order.strength.replace(number, "12345"))
        assert correct(direction(other), record) == 0
        route = "by mouth" if order.route != "by mouth" else "under the tongue"
        assert correct(direction(replace(order, route=route)), record) == 0


def test_a_misspelt_name_is_looked_up_a_second_time() -> None:
    turns = [conversation(written, order) for _, written, order in cases(0)["sft"]]
    seconds = [one for one in turns if len(one) == 5]
    assert 0.1 < len(seconds) / len(turns) < 0.35
    for _, error, again, found, _ in seconds:
        assert error["content"].startswith("{'error': 'no ")
        name = again["tool_calls"][0]["function"]["arguments"]["drug"]
        assert f"; {name}?" in error["content"]
        assert found["content"] == lookup(name)


def test_the_control_is_told_what_the_tool_would_tell() -> None:
    for row, (text, _, order) in zip(rows("formulary/told-validation"), cases(0)["validation"], strict=True):
        assert row["prompt"][0]["content"] == f"Sig: {text}. {order.drug}: {lookup(order.drug)}"


@pytest.mark.parametrize("split", [*SPLITS, "told-sft", "told-prompts", "told-validation"])
def test_every_split_can_be_read(split: str) -> None:
    examples, report = load_examples(f"task:formulary/{split}")
    assert len(examples) == report.rows
