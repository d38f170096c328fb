"""Records cannot be changed once they are made, and have no fields but their own."""

import pytest
from helpers.edges import changeless

from rung.rollout.decode import Prefill, Rows
from rung.rollout.draw import Sampling
from rung.rollout.generate import Generated, Generator
from rung.rollout.philox import Key

RECORDS = (
    Prefill,
    Rows,
    Sampling,
    Generated,
    Generator,
    Key,
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_record_takes_no_change_and_no_other_field(record: type) -> None:
    assert changeless(record)
