"""A function that a Python program passes runs in its process, and cannot hang it for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rung.errors import ConfigError
from rung.reward import RewardPolicy, RewardSet, deadline, reward
from rung.reward.keeper import INTERRUPT

pytestmark = pytest.mark.process

LENIENT = RewardPolicy(max_error_rate=1.0, timeout_s=0.5)
lock = threading.Lock()


def wait_in_c() -> None:
    time.sleep(60)


def spin() -> None:
    while True:
        pass


def wait_for_a_lock() -> None:
    with lock, lock:
        pass


@pytest.mark.parametrize("hang", [wait_in_c, spin, wait_for_a_lock])
def test_a_call_is_interrupted_at_its_deadline_and_the_others_are_scored(sample, hang) -> None:
    def judge(completion: str) -> float:
        if completion == "hang":
            hang()
        return float(threading.current_thread() is threading.main_thread())

    rewards = RewardSet([judge], LENIENT)
    begun = time.monotonic()
    scores = rewards.score([sample("ok"), sample("hang", row=1), sample("ok", row=2)])
    assert time.monotonic() - begun < 2.5
    assert [outcome.kind for outcome in scores.by_reward["judge"]] == ["scored", "timeout", "scored"]
    assert rewards.score([sample("ok")]).totals == [1.0]


def test_many_hung_calls_wait_together_and_a_concurrent_one_is_left_to_its_thread(sample) -> None:
    end = threading.Event()

    @reward(concurrency=2)
    def judge(completion: str) -> float:
        if completion == "hang":
            end.wait(60)
        return 1.0

    begun = time.monotonic()
    samples = [sample("ok"), *[sample("hang", row=row) for row in range(1, 12)]]
    outcomes = RewardSet([judge], LENIENT).score(samples).by_reward["judge"]
    end.set()
    assert time.monotonic() - begun < 3
    assert [outcome.kind for outcome in outcomes] == ["scored", *["timeout"] * 11]
    assert outcomes[1].note == "no score within 0.5 s; its thread goes on"


def test_a_function_may_declare_a_deadline_and_need_not_be_importable(sample) -> None:
    @reward(timeout=0.3)
    def local(completion: str) -> float:
        time.sleep(60 if completion == "hang" else 0)
        return 1.0

    with RewardSet([local], RewardPolicy(max_error_rate=1.0, timeout_s=None)) as rewards:
        outcomes = rewards.score([sample("hang"), sample("ok", row=1)]).by_reward["local"]
    assert [outcome.kind for outcome in outcomes] == ["timeout", "scored"]


def test_a_function_with_its_own_alarm_works(sample) -> None:
    import signal

    def judge(completion: str) -> float:
        def ring(number: int, frame: object) -> None:
            raise TimeoutError

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            time.sleep(30)
        except TimeoutError:
            return 0.5
        finally:
            signal.signal(signal.SIGALRM, before)
        return 1.0

    assert RewardSet([judge]).score([sample()]).totals == [0.5]


PROGRAM = """
import sys, time
sys.path[:0] = [{tests!r}]
from conftest import make_sample
from rung.reward import RewardPolicy, RewardSet

def swallows(completion):
    while True:
        try: time.sleep(1)
        except BaseException: pass

def holds_the_lock(completion):
    return sum(iter(int, 1))

def threaded(completion):
    return sum(iter(int, 1))

async def coroutine(completion):
    return sum(iter(int, 1))

entry = {{"name": {name}, **({{"concurrency": 2}} if {name!r} == "threaded" else {{}})}}
RewardSet([entry], RewardPolicy(timeout_s=0.5)).score([make_sample(), make_sample(row=1)])
"""


@pytest.mark.parametrize(
    "name",
    [
        "holds_the_lock",
        pytest.param("swallows", marks=pytest.mark.slow),
        pytest.param("threaded", marks=pytest.mark.slow),
        pytest.param("coroutine", marks=pytest.mark.slow),
    ],
)
def test_a_call_that_cannot_be_left_ends_the_process_with_two_lines(name) -> None:
    program = PROGRAM.format(tests=str(Path(__file__).parent), name=name)
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", program], env=path, capture_output=True, text=True, timeout=30)
    what, remedy = ended.stderr.splitlines()
    assert ended.returncode == -9
    assert what.startswith(f"reward `{name}` did not end within ")
    assert what.endswith("and cannot be interrupted: the process is ended")
    assert "./my_rewards.py:score" in remedy


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the keeper, which then does nothing, is told."""
    messages: list[dict[str, Any]] = []
    connection = SimpleNamespace(send=messages.append)
    monkeypatch.setattr(deadline, "_keeper", SimpleNamespace(get=lambda: SimpleNamespace(connection=connection)))
    deadline._armed.clear()
    return messages


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`clock.now` is the time."""
    made = SimpleNamespace(now=100.0)
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_calls_in_a_row_share_a_message_and_later_ones_renew_it(told, clock) -> None:
    for _ in range(3):
        clock.now += 0.02
        assert deadline.call_within(5.0, "a reward", lambda: 7) == 7
    (message,) = told
    assert (message["op"], message["interrupt_s"], message["end_s"]) == ("guard", 5.0, 5.0 + deadline.GRACE_S)
    assert message["text"].startswith("a reward did not end within 7 s and cannot be interrupted")
    for clock.now in (100.3, 200.6):  # which is twice as late
        deadline.call_within(5.0, "a reward", lambda: 7)
    assert [each["op"] for each in told] == ["guard"] * 3
    deadline.free()
    deadline.call_within(5.0, "a reward", lambda: 7)
    assert [each["op"] for each in told[3:]] == ["free", "guard"]
    deadline.free()


def test_a_call_inside_a_call_has_the_deadline_of_the_outer_one(told) -> None:
    assert deadline.call_within(5.0, "outer", lambda: deadline.call_within(1.0, "inner", lambda: 7)) == 7
    assert [each["interrupt_s"] for each in told] == [5.0]
    deadline.free()


def test_a_signal_before_the_deadline_or_after_the_call_interrupts_nothing(told) -> None:
    def signalled() -> int:
        os.kill(os.getpid(), INTERRUPT)
        time.sleep(0.01)
        return 7

    assert deadline.call_within(5.0, "a reward", signalled) == 7
    assert signalled() == 7
    with pytest.raises(deadline.Expired):
        deadline.call_within(0.0, "a reward", signalled)
    assert deadline.call_within(5.0, "a reward", signalled) == 7
    deadline.free()


def test_a_deadline_without_an_interruption(told) -> None:
    deadline.ended_after(3.0, "reward `judge`")
    deadline.free()
    assert [(each["op"], each.get("end_s"), each.get("interrupt_s")) for each in told] == [
        ("guard", 3.0, None),
        ("free", None, None),
    ]


def test_an_import_that_exits_or_takes_too_long_is_refused(monkeypatch) -> None:
    assert deadline.imported("mine", lambda: 7) == 7
    with pytest.raises(ConfigError, match="`mine` exits on import: 3"):
        deadline.imported("mine", lambda: sys.exit(3))
    with pytest.raises(ZeroDivisionError):
        deadline.imported("mine", lambda: 1 // 0)
    monkeypatch.setattr(deadline, "START_TIMEOUT_S", 0.1)
    with pytest.raises(ConfigError, match=r"`mine` was not imported within 0\.1 s"):
        deadline.imported("mine", wait_in_c)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(deadline.imported("mine", lambda: 7)))
    thread.start()
    thread.join()
    assert found == [7]


def test_the_deadline_is_taken_back_after_the_last_call_wherever_it_was_made(told, sample) -> None:
    def plain(completion: str) -> float:
        return 1.0

    @reward(concurrency=2)
    def threaded(completion: str) -> float:
        return 1.0

    async def awaited(completion: str) -> float:
        return 1.0

    for judge, seconds in ((plain, 0.5 + deadline.GRACE_S), (threaded, 0.5 + deadline.GRACE_S), (awaited, None)):
        told.clear()
        RewardSet([judge], LENIENT).score([sample(), sample(row=1)])
        assert {each["op"] for each in told[:-1]} == {"guard"}
        assert told[-1]["op"] == "free"
        assert seconds in (None, told[0]["end_s"])
    told.clear()
    RewardSet([plain, awaited], RewardPolicy(timeout_s=None)).score([sample()])
    RewardSet([threaded], RewardPolicy(timeout_s=None)).score([sample(), sample(row=1)])
    assert told == [], "without a deadline there is nothing to guard"


def test_a_call_is_interrupted_from_its_deadline_on_and_a_child_of_it_is_not(told, clock) -> None:
    reached: list[float] = []

    def signalled(*, in_child: bool) -> None:
        for clock.now in (104.9, 105.0):
            child = os.fork() if in_child else 0
            if child:
                reached.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
                continue
            try:
                os.kill(os.getpid(), INTERRUPT)
                time.sleep(0.01)
                reached.append(clock.now)
            finally:
                if in_child:
                    os._exit(int(clock.now not in reached))

    deadline.call_within(5.0, "a reward", lambda: signalled(in_child=True))
    assert reached == [0, 0]
    reached.clear()
    clock.now = 100.0
    with pytest.raises(deadline.Expired):
        deadline.call_within(5.0, "a reward", lambda: signalled(in_child=False))
    assert reached == [104.9]
    deadline.free()
