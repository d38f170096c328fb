"""Records cannot be changed once they are made, and have no fields but their own."""

import pytest
from helpers.edges import changeless

from rung.tiny.corpus.rules import Rule
from rung.tiny.corpus.shorthand import Domain
from rung.tiny.pharmacy.checker import Judgement, _Component
from rung.tiny.pharmacy.directions import Style
from rung.tiny.pharmacy.formulary import Drug, Family
from rung.tiny.pharmacy.lexicon import Term, Unit
from rung.tiny.pharmacy.orders import Order, Part
from rung.tiny.pharmacy.phrases import Phrase

RECORDS = (
    Rule,
    Domain,
    Judgement,
    _Component,
    Style,
    Drug,
    Family,
    Term,
    Unit,
    Part,
    Order,
    Phrase,
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_record_takes_no_change_and_no_other_field(record: type) -> None:
    assert changeless(record)
