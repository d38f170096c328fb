"""Records cannot be changed once they are made, and have no fields but their own."""

import pytest
from helpers.edges import changeless

from rung.report.curves import Curves, Line, Panel
from rung.report.plot import _Curve
from rung.report.records import Entry, Report, Section, Table
from rung.report.terminal import Rendered

RECORDS = (
    Line,
    Panel,
    Curves,
    _Curve,
    Entry,
    Report,
    Table,
    Section,
    Rendered,
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_record_takes_no_change_and_no_other_field(record: type) -> None:
    assert changeless(record)
