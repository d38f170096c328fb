"""Records cannot be changed once they are made, and have no fields but their own."""

import pytest
from helpers.edges import changeless

from rung.comparison import Comparison
from rung.evaluate import Estimate, Evaluation, Lengths, Row, _Record
from rung.gate import Decision, GateConfig, Guard, Limit, _Check

RECORDS = (
    Comparison,
    _Record,
    Estimate,
    Lengths,
    Row,
    Evaluation,
    Guard,
    GateConfig,
    Limit,
    Decision,
    _Check,
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_record_takes_no_change_and_no_other_field(record: type) -> None:
    assert changeless(record)
