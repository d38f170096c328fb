"""A step with calls that hang, die or are slow ends in time, and what they return is not trusted."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from rung.errors import RewardError
from rung.reward import RewardPolicy, RewardSet
from rung.reward.pool import START_TIMEOUT_S

pytestmark = pytest.mark.process

FILE = """
import asyncio, ctypes, os, random, signal, sys, threading, time
from rung.reward import Verdict

calls = []

def judge(completion: str, column: object = None):
    if completion == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            try: time.sleep(60)
            except BaseException: pass
    if completion == "spin":
        while True: pass
    if completion == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if completion == "exit":
        os._exit(0)
    if completion == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if completion == "realtime":
        os.kill(os.getpid(), 40)
    if completion == "segfault":
        ctypes.string_at(0)
    if completion == "recurse":
        return judge(completion)
    return {"sysexit": sys.exit, "nan": lambda: float("nan"), "int": lambda: 10**400, "float": lambda: 1e300,
            "parts": lambda: Verdict(1.0, {"a": 10**400, "b": float("nan")}),
            "memory": lambda: float(len(bytes(2**62))), "cost": lambda: Verdict(1.0, cost=10**400),
            "long": lambda: Verdict(1.0, {"a": "x" * 10**6}), "ok": lambda: 1.0}[completion]()

def counts(completion: str) -> float:
    calls.append(completion)
    time.sleep({"slow": 1.3}.get(completion, 0))
    return float(len(calls))

def draws(completion: str) -> float:
    return random.random()

async def waits(completion: str) -> float:
    if completion == "block": time.sleep(60)
    while completion == "swallow":
        try: await asyncio.sleep(0.01)
        except asyncio.CancelledError: pass
    await asyncio.sleep(60 if completion == "hang" else 0)
    return 1.0

def forges(completion: str) -> float:
    for number in range(3, 32):
        try: os.write(number, bytes.fromhex(completion))
        except OSError: pass
    time.sleep(0.05)
    return 1.0

def secrets(completion: str) -> float:
    return float(completion in os.environ)

def prints(completion: str) -> float:
    print("\\x1b[31m" + "x" * 10_000_000)
    return 1.0
"""
THREADED = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n" + FILE
LENIENT = RewardPolicy(max_error_rate=1.0, timeout_s=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rewards")
    (path / "mine.py").write_text(FILE)
    (path / "threaded.py").write_text(THREADED)
    return path


def kinds(rewards: RewardSet, samples) -> list[str]:
    (outcomes,) = rewards.score(samples).by_reward.values()
    return [outcome.kind for outcome in outcomes]


@pytest.mark.parametrize("count", [16, pytest.param(64, marks=pytest.mark.slow)])
def test_a_step_with_hung_rows_ends_two_seconds_after_the_deadline_at_the_latest(folder, sample, count) -> None:
    texts = ["ok", *["hang"] * (count - 1), "ok"]
    with RewardSet(["./mine.py:judge"], LENIENT, base=folder) as rewards:
        rewards.score([sample("ok")])
        begun = time.monotonic()
        found = kinds(rewards, [sample(text, row=row) for row, text in enumerate(texts)])
        took = time.monotonic() - begun
    assert found == ["scored", *["timeout"] * (count - 1), "scored"]
    assert took < 3


@pytest.mark.parametrize("text", ["stop", pytest.param("spin", marks=pytest.mark.slow)])
def test_arguments_larger_than_a_pipe_do_not_block_behind_a_call_that_never_reads(folder, sample, text) -> None:
    with RewardSet(["./mine.py:judge"], LENIENT, base=folder) as rewards:
        samples = [sample(text, row=row, column="x" * 1_000_000) for row in range(3)]
        begun = time.monotonic()
        assert kinds(rewards, samples) == ["timeout"] * 3
        assert kinds(rewards, [sample("ok", column="x" * 1_000_000)]) == ["scored"]
    assert time.monotonic() - begun < 4


def test_a_limit_of_calls_at_the_same_time_holds_until_a_call_has_hung(folder, sample) -> None:
    entry = {"name": "./mine.py:judge", "concurrency": 2}
    with RewardSet([entry], LENIENT, base=folder) as rewards:
        begun = time.monotonic()
        assert kinds(rewards, [sample("hang", row=row) for row in range(12)]) == ["timeout"] * 12
    assert time.monotonic() - begun < 4


def test_every_kind_of_death_and_every_value_that_is_no_score_is_an_error_of_its_row(folder, sample) -> None:
    bad = {
        "exit": "the worker died: it exited with 0",
        "kill": "the worker died: it was ended by SIGKILL",
        "segfault": "the worker died: it was ended by SIGSEGV",
        "realtime": "the worker died: it was ended by signal 40",
        "recurse": "RecursionError",
        "sysexit": "SystemExit",
        "nan": "returned nan",
        "int": "returned a number above 1e+18",
        "float": "returned 1e+300; a score is at most 1e+18",
        "memory": "Error",
        "cost": "returned what cannot be read",
        "long": "parts of more than 100,000 characters",
    }
    texts = [text for each in bad for text in (each, "ok")]
    with RewardSet(["./mine.py:judge"], LENIENT, base=folder) as rewards:
        scores = rewards.score([sample(text, row=row) for row, text in enumerate(texts)])
        parts = rewards.score([sample("parts")]).by_reward["judge"][0].parts
    outcomes = scores.by_reward["judge"]
    assert [outcome.kind for outcome in outcomes] == ["error", "scored"] * len(bad)
    assert [note for note, outcome in zip(bad.values(), outcomes[::2], strict=True) if note not in outcome.note] == []
    assert parts == {"a": "a larger number", "b": "nan"}


def test_calls_are_made_in_order_in_one_process_and_a_slow_one_keeps_its_state(folder, sample) -> None:
    with RewardSet(["./mine.py:counts"], RewardPolicy(timeout_s=30), base=folder) as rewards:
        first = rewards.score([sample(row=row) for row in range(100)]).totals
        second = rewards.score([sample(text, row=row) for row, text in enumerate(["ok", "slow", "ok", "ok"])]).totals
        third = rewards.score([sample()]).totals
    assert first == [float(number) for number in range(1, 101)]
    assert second[:2] == [101.0, 102.0]
    assert third[0] is not None
    assert third[0] >= 103


def test_draws_are_those_of_the_step_and_do_not_depend_on_the_process(folder, sample) -> None:
    def drawn(step: int) -> list[float | None]:
        with RewardSet(["./mine.py:draws"], LENIENT, base=folder) as rewards:
            return rewards.score([sample(row=row) for row in range(4)], step=step).totals

    first = drawn(1)
    assert drawn(1) == first
    assert len({*first, *drawn(2)}) == 8


@pytest.mark.parametrize(
    "text", ["block", pytest.param("swallow", marks=pytest.mark.slow), pytest.param("hang", marks=pytest.mark.slow)]
)
def test_an_async_reward_that_never_ends_is_left_at_its_deadline(folder, sample, text) -> None:
    with RewardSet(["./mine.py:waits"], LENIENT, base=folder) as rewards:
        rewards.score([sample()])
        begun = time.monotonic()
        found = kinds(rewards, [sample("ok"), *[sample(text, row=row) for row in range(1, 16)]])
        assert found[1:] == ["timeout"] * 15
        assert time.monotonic() - begun < 3
        assert kinds(rewards, [sample()]) == ["scored"]


def test_a_file_that_starts_threads_is_not_forked_and_hung_rows_end_as_well(folder, sample) -> None:
    with RewardSet(["./threaded.py:judge"], LENIENT, base=folder) as rewards:
        rewards.score([sample("ok")])
        assert not rewards._caller._pools["judge"].can_fork
        texts = ["hang", "ok", "hang", "ok"]
        found = kinds(rewards, [sample(text, row=row) for row, text in enumerate(texts)])
    assert found == ["timeout", "scored", "timeout", "scored"]


def test_a_file_that_is_not_loaded_in_time_or_dies_while_loading_is_an_error(tmp_path, sample, monkeypatch) -> None:
    monkeypatch.setattr("rung.reward.pool.START_TIMEOUT_S", 1.0)
    assert START_TIMEOUT_S > 60
    here = os.getpid()
    for name, line in (("sleeps", "time.sleep(60)"), ("dies", "os._exit(3)"), ("raises", "1 / 0")):
        text = f"import os, time\nif os.getpid() != {here}:\n    {line}\ndef judge(completion): return 1.0\n"
        (tmp_path / f"{name}.py").write_text(text)
        with RewardSet([f"./{name}.py:judge"], LENIENT, base=tmp_path) as rewards:
            outcomes = rewards.score([sample(), sample(row=1)]).by_reward["judge"]
            again = rewards.score([sample()]).by_reward["judge"]
        assert [outcome.failed for outcome in (*outcomes, *again)] == [True] * 3
        said = {"sleeps": "no score within 1 s", "dies": "it exited with 3", "raises": "ZeroDivisionError"}[name]
        assert said in outcomes[0].note


@pytest.mark.parametrize(
    "sent",
    [
        "ffffffff",
        "00000002" + b"[]".hex(),
        "00000001ff",
        "00000020" + b'{"row": 0, "serial": 1, "x": 1}  '.hex(),
        f"{100_000:08x}" + b"[".hex() * 100_000,
        f"{56:08x}" + b'{"row": 0, "serial": 1, "returned": {"verdict": {"a":1}}}'.hex()[:112],
    ],
)
def test_a_forged_reply_is_an_error_or_ignored_and_never_a_traceback(folder, sample, sent) -> None:
    with RewardSet(["./mine.py:forges"], LENIENT, base=folder) as rewards:
        (outcome,) = rewards.score([sample(sent)]).by_reward["forges"]
    assert outcome.failed
    assert "worker" in outcome.note


def test_a_worker_has_no_secrets_but_those_that_the_entry_names(folder, sample, monkeypatch) -> None:
    for name in ("JUDGE_API_KEY", "HF_TOKEN", "MY_HOME"):
        monkeypatch.setenv(name, "x")
    samples = [sample(name) for name in ("JUDGE_API_KEY", "HF_TOKEN", "MY_HOME")]
    with RewardSet(["./mine.py:secrets"], base=folder) as rewards:
        assert rewards.score(samples).totals == [0.0, 0.0, 1.0]
    with RewardSet([{"name": "./mine.py:secrets", "env": ["JUDGE_API_KEY"]}], base=folder) as rewards:
        assert rewards.score(samples).totals == [1.0, 0.0, 1.0]
    monkeypatch.delenv("JUDGE_API_KEY")
    with pytest.raises(RewardError, match="needs the environment variable `JUDGE_API_KEY`, which is not set"):
        RewardSet([{"name": "./mine.py:secrets", "env": ["JUDGE_API_KEY"]}], base=folder)
    with pytest.raises(RewardError, match="has `env`, but it runs in the training process"):
        RewardSet([{"name": "exact_match", "env": ["HF_TOKEN"]}])


def test_what_workers_print_is_printable_and_bounded(folder, sample, capfd) -> None:
    with RewardSet(["./mine.py:prints"], LENIENT, base=folder) as rewards:
        rewards.score([sample(row=row) for row in range(3)])
    err = capfd.readouterr().err
    assert "\x1b" not in err
    assert err.count("\\x1b[31mxxx") == 3
    assert len(err) < 2_000


def test_processes_that_die_between_batches_are_replaced(folder, sample) -> None:
    with RewardSet(["./mine.py:counts"], LENIENT, base=folder) as rewards:
        assert rewards.score([sample()]).totals == [1.0]
        pool = rewards._caller._pools["counts"]
        for victim in ("lane", "template", "keeper"):
            assert pool._template is not None
            keeper = rewards._caller._keeper.get().process.pid
            os.kill(
                {"lane": pool._free[0].pid, "template": pool._template.pid, "keeper": keeper}[victim], signal.SIGKILL
            )
            time.sleep(0.3)
            assert rewards.score([sample(), sample(row=1)]).totals == [1.0, 2.0]


def test_a_signal_to_all_processes_of_a_job_is_left_to_the_trainer(folder, sample) -> None:
    with RewardSet(["./mine.py:counts"], LENIENT, base=folder) as rewards:
        rewards.score([sample()])
        pool = rewards._caller._pools["counts"]
        assert pool._template is not None
        for pid in (pool._free[0].pid, pool._template.pid, rewards._caller._keeper.get().process.pid):
            os.kill(pid, signal.SIGTERM)
        assert rewards.score([sample()]).totals == [2.0]
