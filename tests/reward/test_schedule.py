"""Which process calls which row and when: in order, in few lanes, and in more only while a call is stuck."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rung.reward import RewardPolicy, RewardSet

pytestmark = pytest.mark.process

FILE = """
import asyncio, os, time

calls = []

def counts(completion: str) -> float:
    calls.append(completion)
    time.sleep(float(completion))
    return float(len(calls))

def nice(completion: str) -> float:
    time.sleep(float(completion))
    return float(os.nice(0))

def pid(completion: str) -> float:
    time.sleep(float(completion))
    return float(os.getpid())

def began(completion: str) -> float:
    now = time.monotonic()
    time.sleep(float(completion))
    return now

async def awaits(completion: str) -> float:
    calls.append(completion)
    number = len(calls)
    await asyncio.sleep(float(completion))
    return float(number)
"""
HANGS = "60"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rewards")
    (path / "mine.py").write_text(FILE)
    return path


def policy(seconds: float) -> RewardPolicy:
    return RewardPolicy(timeout_s=seconds, max_error_rate=1.0)


def test_what_others_began_while_a_call_was_slow_is_called_again_in_order(folder, sample) -> None:
    """The first call takes longer than half a second, so that the others begin elsewhere; but it ends."""
    with RewardSet(["./mine.py:counts"], policy(1.4), base=folder) as rewards:
        assert rewards.score([sample("0")]).totals == [1.0]
        samples = [sample(text, row=row) for row, text in enumerate(["0.6", "0.3", "0.3"])]
        assert rewards.score(samples).totals == [2.0, 3.0, 4.0]


def test_a_call_in_order_keeps_those_behind_it_waiting_for_half_its_deadline_at_most(folder, sample) -> None:
    """A lane beyond the usual one has a low priority."""
    with RewardSet(["./mine.py:nice"], policy(0.6), base=folder) as rewards:
        rewards.score([sample("0")])
        assert rewards.score([sample("0.2"), sample("0", row=1)]).totals == [0.0, 0.0]
        assert rewards.score([sample("0.5"), sample("0", row=1), sample("0", row=2)]).totals == [0.0, 10.0, 10.0]
        assert rewards.score([sample("0"), sample("0", row=1)]).totals == [0.0, 0.0], "those lanes have ended"


def test_a_reward_that_usually_takes_long_is_waited_for_in_its_lane(folder, sample) -> None:
    with RewardSet(["./mine.py:pid"], policy(0.8), base=folder) as rewards:
        rewards.score([sample("0.3")])
        first, second = rewards.score([sample("0.5"), sample("0", row=1)]).totals
    assert first == second


def test_as_many_calls_as_the_user_allows_are_made_at_the_same_time(folder, sample) -> None:
    with RewardSet([{"name": "./mine.py:began", "concurrency": 2}], policy(30), base=folder) as rewards:
        rewards.score([sample("0"), sample("0", row=1)])
        scores = rewards.score([sample("0.2", row=row) for row in range(4)])
    times = sorted(total for total in scores.totals if total is not None)
    assert times[1] - times[0] < 0.15
    assert times[2] - times[0] > 0.19


@pytest.mark.parametrize("texts", [[HANGS] * 5, ["0", *[HANGS] * 4]], ids=["none ended", "one ended"])
def test_after_every_lane_has_hung_the_rest_is_called_only_if_a_call_has_ever_ended(
    folder, sample, monkeypatch, texts
) -> None:
    monkeypatch.setattr("rung.reward.schedule.MAX_LANES", 2)
    with RewardSet(["./mine.py:counts"], policy(0.3), base=folder) as rewards:
        begun = time.monotonic()
        outcomes = rewards.score([sample(text, row=row) for row, text in enumerate(texts)]).by_reward["counts"]
    assert [outcome.kind for outcome in outcomes] == ["timeout" if text == HANGS else "scored" for text in texts]
    assert outcomes[1].note == "no score within 0.3 s"
    wanted = "not called, since all 2 calls before it hung" if texts[0] == HANGS else "no score within 0.3 s"
    assert outcomes[4].note == wanted
    assert time.monotonic() - begun < 5


def test_async_calls_in_a_worker_take_their_turns_and_a_deadline_each(folder, sample, monkeypatch) -> None:
    monkeypatch.setattr("rung.reward.schedule.LOOP_GRACE_S", 0.1)
    samples = [sample("0.15", row=row) for row in range(3)]
    with RewardSet([{"name": "./mine.py:awaits", "concurrency": 1}], policy(0.4), base=folder) as rewards:
        assert rewards.score(samples).totals == [1.0, 2.0, 3.0]
        outcomes = rewards.score([sample("0"), sample(HANGS, row=1), sample("0", row=2)]).by_reward["awaits"]
    assert [outcome.kind for outcome in outcomes] == ["scored", "timeout", "scored"]
