"""Records cannot be changed once they are made, and have no fields but their own."""

import pytest
from helpers.edges import changeless

from rung.data.encode import _Prompt
from rung.data.formats.form import Format
from rung.data.load import DataSpec, ShareSpec
from rung.data.read import Row
from rung.data.records import Answer, Encoded, Example

RECORDS = (
    _Prompt,
    Format,
    ShareSpec,
    DataSpec,
    Row,
    Example,
    Answer,
    Encoded,
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_record_takes_no_change_and_no_other_field(record: type) -> None:
    assert changeless(record)
