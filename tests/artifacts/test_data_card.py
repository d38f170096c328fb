"""The data card of a stage: a damaged one is named, and a stage does not go on with other rows."""

from pathlib import Path

import pytest

from rung.artifacts.data_card import DATA, read_data_card, refuse_other_rows, write_data_card
from rung.errors import CheckpointError, DataError


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"rows": "x", "fingerprint": ""}'])
def test_a_damaged_card_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / DATA).write_text(content)
    with pytest.raises(CheckpointError, match=DATA):
        read_data_card(tmp_path)


def test_a_stage_that_trains_nothing_has_no_card(tmp_path: Path) -> None:
    assert read_data_card(tmp_path) is None
    write_data_card(tmp_path, {"rows": 3, "fingerprint": "f"})
    assert read_data_card(tmp_path) == {"rows": 3, "fingerprint": "f"}


def test_a_stage_goes_on_with_the_rows_it_began_with_alone(tmp_path: Path) -> None:
    refuse_other_rows(tmp_path, "f")  # begun by a version of rung that wrote no card
    write_data_card(tmp_path, {"rows": 3, "fingerprint": "f"})
    refuse_other_rows(tmp_path, "f")
    with pytest.raises(DataError, match=r"the rows are not those with which this stage began \(3 rows then\)"):
        refuse_other_rows(tmp_path, "g")
