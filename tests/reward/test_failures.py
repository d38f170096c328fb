"""What is told of a reward that fails."""

from collections.abc import Callable

import pytest

from rung.reward import RewardPolicy, Sample
from rung.reward.failures import FailureWatch
from rung.reward.outcome import Outcome


def test_20_reasons_of_300_characters_are_told_and_a_number_makes_no_other(
    sample: Callable[..., Sample], capsys: pytest.CaptureFixture[str]
) -> None:
    notes = ["x" * 299 + "yz", "busy 1", "busy 22", *(f"broken {letter}" for letter in "abcdefghijklmnopqrs")]
    watch = FailureWatch(["judge"], RewardPolicy())
    watch.tell("judge", [Outcome("error", note=note) for note in notes], [sample(row=row) for row in range(22)])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"warning: reward `judge` failed on row rows.jsonl:0: {'x' * 299}y (told once)"
    assert [line.split(": ")[2] for line in lines[1:]] == [f"{note} (told once)" for note in (notes[1], *notes[3:21])]
