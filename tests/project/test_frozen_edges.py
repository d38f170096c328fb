"""Records cannot be changed once they are made, and have no fields but their own."""

import pytest
from helpers.edges import changeless

from rung.algorithm import Algorithm
from rung.batch import Batch, Completion, Loss, Outputs
from rung.metrics import Max, Mean, Min, Quantile, Std, Sum

RECORDS = (
    Algorithm,
    Batch,
    Outputs,
    Loss,
    Completion,
    Mean,
    Std,
    Sum,
    Max,
    Min,
    Quantile,
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_record_takes_no_change_and_no_other_field(record: type) -> None:
    assert changeless(record)
