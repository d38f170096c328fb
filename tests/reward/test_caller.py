"""Where a reward is called: in a worker that it shares with its file, or here if a worker would get other values."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rung.reward import RewardSet

pytestmark = pytest.mark.process

FILE = """
import os

calls = []

def pid(completion: str, answer: object = None) -> float:
    return float(os.getpid())

def counts(completion: str) -> float:
    calls.append(completion)
    return float(len(calls))

def counts_too(completion: str) -> float:
    calls.append(completion)
    return float(len(calls))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rewards")
    (path / "mine.py").write_text(FILE)
    (path / "yours.py").write_text(FILE)
    return path


class Text(str):
    __slots__ = ()


def test_what_json_would_change_is_judged_here(folder, sample) -> None:
    same = [None, True, 1, 1.5, "a", [1, ["b", None]], {"a": {"b": [2]}}]
    other = [(1, 2), {1: "a"}, {"a": [(1,)]}, [{"b": {3: 4}}], b"a", {5}, Text("a")]
    with RewardSet(["./mine.py:pid"], base=folder) as rewards:
        assert os.getpid() not in [rewards.score([sample(answer=value)]).totals[0] for value in same]
        assert [rewards.score([sample(answer=value)]).totals[0] for value in other] == [os.getpid()] * len(other)
        mixed = rewards.score([sample(answer=1), sample(row=1, answer=(1,))]).totals
    assert mixed == [os.getpid()] * 2, "all calls of a batch are made in one place"


def test_rewards_of_one_file_share_its_state_and_others_do_not(folder, sample) -> None:
    names = ["./mine.py:counts", "./mine.py:counts_too", "./yours.py:counts_too"]
    entries = [{"name": name, "label": str(number)} for number, name in enumerate(names)]
    with RewardSet([*entries, {"name": names[0], "label": "3", "env": ["PATH"]}], base=folder) as rewards:
        scores = rewards.score([sample()]).by_reward
    assert [scores[label][0].value for label in "0123"] == [1.0, 2.0, 1.0, 1.0]
