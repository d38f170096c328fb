"""A worker whose rewards write to the standard output of their process, and whose replies are longer than a pipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from rung.reward import RewardPolicy, RewardSet

pytestmark = pytest.mark.process

FILE = """
import os, subprocess

def noisy(completion: str) -> float:
    print("printed")
    os.write(1, b"written below Python\\n")
    return float(subprocess.run(["echo", "said by a child"]).returncode == 0)

def lying(completion: str) -> float:
    for descriptor in range(3, 16):
        try:
            os.write(descriptor, bytes([255] * 4))
        except OSError:
            continue
    return 1.0

def wordy(completions, log_extra, **columns):
    log_extra("essay", [f"{text} " * 100_000 for text in completions])
    return [float(len(text)) for text in completions]
"""


def test_noise_reaches_standard_error_and_long_replies_arrive_whole(tmp_path: Path, sample, capfd) -> None:
    """A pipe holds 64 KiB, so that a longer reply arrives in pieces; the next one is not mixed with it."""
    (tmp_path / "mine.py").write_text(FILE)
    names = ["./mine.py:noisy", "./mine.py:wordy"]
    with RewardSet(names, RewardPolicy(timeout_s=60), base=tmp_path) as rewards:
        for _ in range(2):
            scores = rewards.score([sample("yes"), sample("no", row=1)])
            found = {name: [outcome.value for outcome in many] for name, many in scores.by_reward.items()}
            assert found == {"noisy": [1.0, 1.0], "wordy": [3.0, 2.0]}
            assert [len(essay) for essay in scores.columns["essay"]] == [400_000, 300_000]
    out, err = capfd.readouterr()
    assert out == ""
    assert [err.count(line) for line in ("printed", "written below Python", "said by a child")] == [4, 4, 4]


def test_code_of_a_completion_that_announces_an_endless_reply_is_not_waited_for(tmp_path: Path, sample) -> None:
    """Four bytes of ones are a length of 2^32 - 1."""
    (tmp_path / "mine.py").write_text(FILE)
    policy = RewardPolicy(timeout_s=20, max_error_rate=1.0)
    with RewardSet(["./mine.py:lying"], policy, base=tmp_path) as rewards:
        (outcome,) = rewards.score([sample("yes")]).by_reward["lying"]
    assert (outcome.kind, outcome.note) == ("error", "the worker died: it sent a reply of 4294967295 bytes")
