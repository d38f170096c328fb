"""The data card of a stage: a damaged one is named, and a stage does not go on with other rows."""

from pathlib import Path

import pytest

from rung.artifacts.data_card import DATA, read_data_card, refuse_other_rows, write_data_card
from rung.data.report import DataReport
from rung.errors import CheckpointError, DataError

ROWS = ["a", "b", "c", "d"]


def report(rows: list[str]) -> DataReport:
    return DataReport(rows=len(rows), encoded=len(rows), digests=rows)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"rows": "x", "fingerprint": ""}'])
def test_a_damaged_card_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / DATA).write_text(content)
    with pytest.raises(CheckpointError, match=DATA):
        read_data_card(tmp_path)


def test_a_stage_that_trains_nothing_has_no_card(tmp_path: Path) -> None:
    assert read_data_card(tmp_path) is None
    write_data_card(tmp_path, report(ROWS).as_dict())
    assert read_data_card(tmp_path) == report(ROWS).as_dict()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["a", "x", "c", "d"], "4 rows before, 4 rows (the first other row is row 2) now"),
        (["a", "b", "c", "d", "e"], "4 rows before, 5 rows (the first other row is row 5) now"),
        (["a", "b", "c"], "4 rows before, 3 rows (the first other row is row 4) now"),
        (["b", "a", "c", "d"], "4 rows before, 4 rows (the same rows in another order) now"),
        ([], "4 rows before, 0 rows (the first other row is row 1) now"),
    ],
)
def test_a_stage_goes_on_with_the_rows_it_began_with_alone(tmp_path: Path, rows: list[str], said: str) -> None:
    write_data_card(tmp_path, report(ROWS).as_dict())
    refuse_other_rows(tmp_path, report(ROWS))
    with pytest.raises(DataError) as caught:
        refuse_other_rows(tmp_path, report(rows))
    assert caught.value.what.endswith(f"the rows are not those with which this stage began: {said}")
    assert "`--allow-drift`" in caught.value.remedy


def test_a_difference_in_many_rows_is_located_to_a_block(tmp_path: Path) -> None:
    many = [str(number) for number in range(1000)]
    write_data_card(tmp_path, report(many).as_dict())
    with pytest.raises(DataError, match="the first other row is among rows 497 to 512"):
        refuse_other_rows(tmp_path, report([*many[:500], "x", *many[501:]]))


def test_a_stage_with_checkpoints_needs_its_card(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"data.json is missing, but the stage has checkpoints"):
        refuse_other_rows(tmp_path, report(ROWS))
