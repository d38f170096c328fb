"""Questions with labelled solutions, as pairs and as single answers."""

from typing import Any

import pytest

import rung
from rung.errors import DataError


def solutions(*right: bool, name: str = "q") -> dict[str, Any]:
    several = {
        f"{i}": {"is_correct": is_correct, "solution": f"so {i}\n#### {i}"} for i, is_correct in enumerate(right)
    }
    return {"question": name, "ground_truth": "so\n#### 4", **several}


MIXED, GOOD, BAD = solutions(True, True, False, name="a"), solutions(True, True, name="b"), solutions(False, name="c")


def trained(algorithm: str, rows: list[dict[str, Any]]) -> Any:
    return rung.train(algorithm, model="tiny:llama", data=rows, max_steps=1, batch_size=2)


def test_kto_uses_every_answer_once_also_of_questions_whose_answers_are_alike() -> None:
    stage = trained("kto", [MIXED, GOOD, BAD])
    assert stage.report.encoded == 3 + 2 + 1
    assert not stage.report.dropped


def test_pairs_are_made_of_the_questions_that_have_both_and_the_others_are_counted() -> None:
    stage = trained("dpo", [MIXED, GOOD, BAD])
    assert stage.report.encoded == 2
    (tally,) = stage.report.dropped.values()
    assert tally.count == 3
    assert tally.first == ["rows:2#1", "rows:2#2", "rows:3#1"]


def test_without_a_single_pair_there_is_nothing_to_prefer() -> None:
    with pytest.raises(DataError, match="learns from pairs, but this row is unpaired data"):
        trained("dpo", [GOOD, BAD])
