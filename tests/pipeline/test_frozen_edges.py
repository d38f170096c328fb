"""Records cannot be changed once they are made, and have no fields but their own."""

import pytest
from helpers.edges import changeless

from rung.opening import Given
from rung.path import Run

RECORDS = (
    Given,
    Run,
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_record_takes_no_change_and_no_other_field(record: type) -> None:
    assert changeless(record)
