"""The rewards of the medication task: four outcomes that exclude each other, and one number to train on."""

import pytest

from rung.reward import RewardSet, Sample
from rung.rewards import pharmacy
from rung.tiny.tasks import rows

ROW = rows("pharmacy/validation")[0]
OUTCOMES = (pharmacy.correct, pharmacy.dangerous, pharmacy.harmless, pharmacy.unparseable)
ORDER = {
    "drug": "metformin",
    "strength": "500 mg",
    "unit": "tablet",
    "route": "by mouth",
    "parts": [{"amount": "1", "frequency": "2 times a day", "duration": None}],
    "link": None,
    "advice": "with food",
    "prn": False,
    "reason": None,
    "maximum": None,
}
RIGHT = "Take 1 tablet of metformin 500 mg by mouth 2 times a day with food."


@pytest.mark.maths
@pytest.mark.parametrize(
    ("text", "outcome", "match"),
    [
        (RIGHT, "correct", 2.0),
        (RIGHT.replace(" with food", ""), "harmless", 5 / 6),
        (RIGHT.replace("2 times", "3 times"), "dangerous", 5 / 6 - 0.5),
        (RIGHT + " " + RIGHT, "unparseable", -0.5),
    ],
)
def test_one_outcome_each_and_the_training_reward_by_hand(text, outcome, match):
    """Six components: drug, strength, route, dose, frequency and advice."""
    found = {function.__name__: function(text, ORDER) for function in OUTCOMES}
    assert found == {name: float(name == outcome) for name in found}
    assert pharmacy.direction_match(text, ORDER) == pytest.approx(match)


def test_severity_abstains_where_nothing_can_be_read():
    assert pharmacy.severity("hm", ORDER) is None
    assert pharmacy.severity(RIGHT, ORDER) == 0.0
    assert pharmacy.severity(RIGHT.replace("metformin", "aspirin"), ORDER) == 1.0


@pytest.mark.parametrize("split", ["validation", "test"])
def test_every_gold_answer_has_the_highest_reward(split):
    for row in rows(f"pharmacy/{split}"):
        assert pharmacy.direction_match(row["answer"], row["order"]) == 2.0
        assert pharmacy.house_style(row["answer"]) == 1.0


def test_they_are_registered_and_score_samples_of_the_data():
    names = ["correct", "dangerous", "severity", "harmless", "unparseable", "house_style", "direction_match"]
    rewards = RewardSet(names)
    rewards.check(ROW)
    sample = Sample(
        prompt=tuple(ROW["prompt"]),
        completion=ROW["answer"],
        prompt_ids=(1,),
        completion_ids=(1,),
        finish_reason="eos",
        n_tokens=1,
        row_id="0",
        group=0,
        columns=ROW,
    )
    scores = rewards.score([sample])
    assert {name: scores.by_reward[name][0].value for name in names} == {
        "correct": 1.0,
        "dangerous": 0.0,
        "severity": 0.0,
        "harmless": 0.0,
        "unparseable": 0.0,
        "house_style": 1.0,
        "direction_match": 2.0,
    }
