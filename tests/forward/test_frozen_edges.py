"""Records cannot be changed once they are made, and have no fields but their own."""

import pytest
from helpers.edges import changeless

from rung.layouts import States
from rung.passes import Passes
from rung.planner import Block, Cost, Part, _Plan
from rung.policy import Following
from rung.scoring import Teaching

RECORDS = (
    States,
    Passes,
    Cost,
    Part,
    Block,
    _Plan,
    Following,
    Teaching,
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_record_takes_no_change_and_no_other_field(record: type) -> None:
    assert changeless(record)
