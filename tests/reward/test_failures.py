"""What is told of a reward that fails."""

from collections.abc import Callable, Sequence

import pytest

from rung.errors import RewardError
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


GOOD, BAD, LATE = Outcome("scored", 1.0), Outcome("error", note="KeyError: x"), Outcome("timeout", note="no score")
Check = Callable[..., str]


@pytest.fixture
def checking(sample: Callable[..., Sample]) -> Callable[..., Check]:
    """Makes a watch, whose checks give what is wrong and the remedy, or empty text."""

    def make(rate: float = 0.1, **policy: str) -> Check:
        watch = FailureWatch(["judge"], RewardPolicy(max_error_rate=rate, **policy))  # type: ignore[arg-type]

        def check(outcomes: Sequence[Outcome], calls: Sequence[Sequence[int]] | None = None) -> str:
            samples = [sample(row=row) for row in range(len(outcomes))]
            try:
                watch.check("judge", outcomes, samples, calls or [[row] for row in range(len(outcomes))])
            except RewardError as error:
                return f"{error.what}; {error.remedy}"
            return ""

        return check

    return make


def test_a_first_batch_may_fail_for_half(checking: Callable[..., Check]) -> None:
    assert checking()([BAD] * 5 + [GOOD] * 5) == ""
    said = checking()([BAD] * 6 + [GOOD] * 4)
    rows = ", ".join(f"rows.jsonl:{row}" for row in range(5))
    assert said.startswith(
        f"reward `judge` failed on 6 of its last 10 calls (rows {rows}): KeyError: x; fix the reward"
    )
    assert "raise `max_error_rate` or its timeout (in `reward_policy`)" in said
    assert checking(0.6)([BAD] * 6 + [GOOD] * 4) == "", "the limit of the user, if it is higher"
    check = checking()
    assert [check([GOOD] * 10), check([BAD] * 9)] == ["", ""], "19 calls say nothing of the rate"


def test_the_rate_counts_from_50_calls_on_and_may_be_reached(checking: Callable[..., Check]) -> None:
    check = checking()
    assert check([GOOD] * 40) == ""
    assert check([BAD] * 9) == ""
    assert "failed on 9 of its last 50 calls" in check([GOOD])
    check = checking()
    assert check([GOOD] * 45) == ""
    assert check([BAD] * 5) == "", "5 of 50 are the tenth that is allowed"
    assert "failed on 6 of its last 51 calls" in check([LATE])


def test_the_rate_is_that_of_the_last_thousand_calls(checking: Callable[..., Check]) -> None:
    check = checking()
    assert check([BAD] * 100 + [GOOD] * 900) == ""
    assert check([BAD] * 100) == "", "the first hundred are forgotten"
    assert "failed on 101 of its last 1000 calls" in check([BAD])


def test_rows_that_failed_before_are_shown_where_none_of_this_batch_has(checking: Callable[..., Check]) -> None:
    check = checking(0.02)
    assert check([GOOD] * 40) == check([LATE, BAD]) == ""
    assert "(rows rows.jsonl:0, rows.jsonl:1): KeyError: x" in check([GOOD] * 8), "an error tells more than a timeout"


def test_a_failure_ends_training_at_once_if_the_policy_says_so(checking: Callable[..., Check]) -> None:
    check = checking(1.0, on_error="raise")
    assert check([GOOD] * 3) == ""
    said = check([GOOD, LATE])
    assert said.startswith("reward `judge` failed on 1 of its last 5 calls (rows rows.jsonl:1): no score; ")
    assert "set `on_error: drop_row`" in said


def test_a_call_for_a_whole_batch_counts_once_and_its_first_failure_is_awaited(checking: Callable[..., Check]) -> None:
    batch = [range(4)]
    check = checking()
    assert check([BAD] * 4, batch) == ""
    assert "failed on 2 of its last 2 calls" in check([BAD] * 4, batch)
    check = checking()
    assert [check([BAD] * 4, batch), check([GOOD] * 4, batch), check([BAD] * 4, batch)] == [""] * 3
    assert "failed on 1 of its last 1 calls" in checking()([BAD], [[0]]), "a batch of one row"
    several = [Outcome("error", note=str(row)) for row in range(4)]
    assert "failed on 1 of its last 1 calls" in checking()(several, batch), "each row failed by itself"


def test_what_has_failed_is_kept_in_few_characters(sample: Callable[..., Sample]) -> None:
    watch = FailureWatch(["one", "two"], RewardPolicy(max_error_rate=1.0))
    samples = [sample(row=row) for row in range(4)]
    watch.check("one", [GOOD, BAD, GOOD, LATE], samples, [[0], [1], [2], [3]])
    watch.check("two", [GOOD, BAD, GOOD, GOOD], samples, [range(4)])
    state = watch.state_dict()
    assert state == {"one": ".x.x", "two": [0.25]}
    other = FailureWatch(["one", "two", "three"], RewardPolicy())
    other.load_state_dict(state)
    assert other.state_dict() == state | {"three": ""}
    other.load_state_dict({})
    assert other.state_dict() == {"one": "", "two": "", "three": ""}
