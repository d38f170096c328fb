"""Records cannot be changed once they are made, and have no fields but their own."""

import pytest
from helpers.edges import changeless

from rung.config.models import (
    Adapter,
    EarlyStopping,
    EvaluateConfig,
    PathConfig,
    RolloutConfig,
    Section,
    StageConfig,
    TokenBatch,
    UpdatesConfig,
)

RECORDS = (
    Section,
    TokenBatch,
    RolloutConfig,
    UpdatesConfig,
    Adapter,
    EarlyStopping,
    StageConfig,
    EvaluateConfig,
    PathConfig,
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_record_takes_no_change_and_no_other_field(record: type) -> None:
    assert changeless(record)
