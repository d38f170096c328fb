"""Records cannot be changed once they are made, and have no fields but their own."""

import pytest
from helpers.edges import changeless

from rung.reward.bound import Reward
from rung.reward.contract import Declaration, Verdict
from rung.reward.outcome import Outcome
from rung.reward.sample import Sample
from rung.reward.scores import Scores
from rung.reward.serve import _Loaded
from rung.reward.signature import Signature
from rung.reward.spec import RewardPolicy, RewardSpec

RECORDS = (
    Reward,
    Declaration,
    Verdict,
    Outcome,
    Sample,
    Scores,
    _Loaded,
    Signature,
    RewardSpec,
    RewardPolicy,
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_record_takes_no_change_and_no_other_field(record: type) -> None:
    assert changeless(record)
