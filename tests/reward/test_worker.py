"""A reward with a deadline runs in a process of its own, which is killed; one file of rewards serves all tests here."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rung.reward import RewardPolicy, RewardSet

pytestmark = pytest.mark.process

FILE = """
import os, signal, subprocess, sys, time
from rung.reward import Verdict, reward

@reward(range=(0, 1), timeout=2.0)
def judge(completion: str, answer: str, *, labels: tuple[str, ...] = ()) -> float | None:
    assert isinstance(labels, tuple)
    print("noise on standard output")
    if completion == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open(answer, "w").write(f"{os.getpid()} {child.pid}")
        while True: pass
    if completion == "die":
        os._exit(3)
    if completion == "raise":
        raise OSError("no grader")
    if completion == "input":
        return float(sys.stdin.read() == "")
    return {"yes": 1.0, "abstain": None, "nan": float("nan"), "bool": True, "object": object(),
            "verdict": Verdict(0.5, {"tone": 1}, "dry")}[completion]

def batched(completions, log_extra, trainer_state, **columns):
    log_extra("letters", [len(text) for text in completions])
    return [float(trainer_state.global_step)] * len(completions)

def pid(completion: str, answer: object = None) -> float:
    return float(os.getpid())

def lasts(completion: str, answer: str) -> float:
    held = "import time; time.sleep(600)"
    if completion == "daemon":
        held = (f"import os, time; os.fork() and os._exit(0); os.setsid(); "
                f"open({answer!r}, 'w').write('{os.getpid()} ' + str(os.getpid())); time.sleep(600)")
    child = subprocess.Popen([sys.executable, "-c", held], start_new_session=True)
    if completion != "daemon":
        open(answer, "w").write(f"{os.getpid()} {child.pid}")
    if completion == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    while True: pass

def torch_is_loaded(completion: str) -> float:
    return float("torch" in sys.modules)
"""
LENIENT = RewardPolicy(max_error_rate=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rewards")
    (path / "mine.py").write_text(FILE)
    return path


def kinds(outcomes) -> list[str]:
    return [outcome.kind for outcome in outcomes]


def is_running(pid: int) -> bool:
    """Whether a process runs; a zombie that waits for its reaper does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ended(pid: int) -> bool:
    for _ in range(200):
        if not is_running(pid):
            return True
        time.sleep(0.05)
    return False


def test_a_hung_reward_times_out_its_process_group_is_killed_and_the_next_call_scores(folder, sample, tmp_path) -> None:
    note = tmp_path / "pids"
    with RewardSet(["./mine.py:judge"], LENIENT, base=folder) as rewards:
        rewards.check(["answer"])
        texts = ["yes", "hang", "yes"]
        scores = rewards.score([sample(text, row=i, answer=str(note)) for i, text in enumerate(texts)])
        assert scores.totals == [1.0, None, 1.0]
        assert kinds(scores.by_reward["judge"]) == ["scored", "timeout", "scored"]
        assert all(ended(int(pid)) for pid in note.read_text().split())


def test_what_comes_back_is_judged_again_and_a_dead_process_is_an_error(folder, sample) -> None:
    texts = ["verdict", "abstain", "nan", "bool", "object", "raise", "input", "die", "yes"]
    with RewardSet([{"name": "./mine.py:judge", "args": {"labels": ["a"]}}], LENIENT, base=folder) as rewards:
        outcomes = rewards.score([sample(text, row=i, answer="") for i, text in enumerate(texts)]).by_reward["judge"]
    assert kinds(outcomes) == ["scored", "abstained", "error", "error", "error", "error", "scored", "error", "scored"]
    assert (outcomes[0].value, outcomes[0].parts, outcomes[0].note) == (0.5, {"tone": 1}, "dry")
    assert "OSError: no grader" in outcomes[5].note
    assert "mine.py" in outcomes[5].detail
    assert outcomes[6].value == 1.0, "standard input is empty"
    assert "worker died: it exited with 3" in outcomes[7].note


def test_a_named_reward_runs_in_a_worker_which_never_loads_torch(folder, sample) -> None:
    names = ["./mine.py:torch_is_loaded", "./mine.py:batched", "final_number", "rung.rewards.exact_match:exact_match"]
    with RewardSet(names, base=folder) as rewards:
        scores = rewards.score([sample("18", answer="18"), sample("7", row=1, answer="18")], step=4)
    found = {label: [outcome.value for outcome in outcomes] for label, outcomes in scores.by_reward.items()}
    assert found == {
        "torch_is_loaded": [0.0, 0.0],
        "batched": [4.0, 4.0],
        "final_number": [1.0, 0.0],
        "exact_match": [1.0, 0.0],
    }
    assert scores.columns == {"letters": [2, 1]}


def pid_of(rewards: RewardSet, sample) -> int:
    """The process in which the calls are made."""
    (outcome,) = rewards.score([sample("pid", answer="")]).by_reward["judge"]
    assert outcome.value is not None
    return int(outcome.value)


def test_closing_ends_the_process_and_so_does_forgetting_to(folder, sample) -> None:
    rewards = RewardSet([{"name": "./mine.py:pid", "label": "judge"}], base=folder)
    first = pid_of(rewards, sample)
    assert pid_of(rewards, sample) == first
    rewards.close()
    rewards.close()
    assert ended(first)
    second = pid_of(rewards, sample)
    del rewards
    gc.collect()
    assert ended(second)


@pytest.mark.parametrize("how", ["hang", "stop", "daemon"])
def test_a_killed_trainer_leaves_no_process_behind(folder, tmp_path, how) -> None:
    note = tmp_path / "pids"
    program = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent)]}
from pathlib import Path
from conftest import make_sample
from rung.reward import RewardPolicy, RewardSet
rewards = RewardSet(["./mine.py:lasts"], RewardPolicy(timeout_s=600), base=Path({str(folder)!r}))
rewards.score([make_sample({how!r}, answer={str(note)!r})])
"""
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", program], env=path) as trainer:
        for _ in range(600):
            if note.exists() and len(note.read_text().split()) == 2:
                break
            time.sleep(0.05)
        trainer.kill()
    assert all(ended(int(pid)) for pid in note.read_text().split())


def test_a_column_that_json_cannot_hold_is_scored_in_the_process_of_training_and_told_once(
    folder, sample, capsys
) -> None:
    row = sample("pid", answer={1: "one"})
    with RewardSet([{"name": "./mine.py:pid", "label": "judge"}], base=folder) as rewards:
        values = [rewards.score([row]).totals for _ in range(2)]
    assert values == [[float(os.getpid())]] * 2
    said = "warning: reward `judge` runs in the training process, since `answer` has values that JSON cannot represent"
    assert capsys.readouterr().err == f"{said} (told once)\n"


def test_a_shipped_reward_stays_in_the_process_and_a_passed_function_too(sample) -> None:
    rewards = RewardSet(["exact_match", lambda completion: 1.0])
    assert [each.address for each in rewards.rewards] == [None, None]
    assert [each.timeout for each in rewards.rewards] == [None, 60.0]


def test_no_deadline_means_no_worker(folder, sample) -> None:
    with RewardSet([{"name": "./mine.py:pid", "label": "judge"}], RewardPolicy(timeout_s=None), base=folder) as rewards:
        assert pid_of(rewards, sample) == os.getpid()
