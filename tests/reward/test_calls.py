"""How rewards are called: on one event loop, several at once, and without harm to the process of training."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import threading
import time

import pytest
import torch

from rung.errors import RewardError
from rung.reward import RewardPolicy, RewardSet, reward
from rung.reward.event_loop import EventLoop, event_loop

LENIENT = RewardPolicy(max_error_rate=1.0)

gate = asyncio.Semaphore(2)  # of a module, as a client is
running: list[int] = []


async def limited(completion: str) -> float:
    async with gate:
        running.append(1)
        await asyncio.sleep(0.001)
        most = len(running)
        running.pop()
    return float(most)


def test_a_semaphore_of_a_module_works_in_every_batch_and_set(sample) -> None:
    samples = [sample(row=row) for row in range(8)]
    for _ in range(2):
        with RewardSet([limited]) as rewards:
            for _ in range(2):
                totals = rewards.score(samples).totals
                assert all(total is not None and total <= 2 for total in totals)


def test_the_loop_survives_exceptions_exits_cancellations_and_timeouts(sample) -> None:
    async def rude(completion: str) -> float:
        if completion == "raise":
            raise OSError("no")
        if completion == "exit":
            sys.exit(3)
        if completion == "os exit":
            os._exit(7)
        if completion == "cancel":
            raise asyncio.CancelledError
        if completion == "hang":
            await asyncio.sleep(60)
        return 1.0

    loop = event_loop()
    policy = RewardPolicy(timeout_s=0.3, max_error_rate=1.0)
    texts = ["ok", "raise", "exit", "os exit", "cancel", "hang", "ok"]
    with RewardSet([rude], policy) as rewards:
        several = [rewards.score([sample(text) for text in texts]).by_reward["rude"] for _ in range(2)]
    for outcomes in several:
        assert [outcome.kind for outcome in outcomes] == ["scored", *["error"] * 4, "timeout", "scored"]
    assert several[0][3].note.startswith(f"SystemExit: os._exit(7) ({__file__}:")
    assert event_loop() is loop


@pytest.mark.parametrize("blocks", ["in a sleep", "against cancellation"])
def test_an_async_function_that_blocks_the_loop_times_out_and_the_next_batch_works(sample, monkeypatch, blocks) -> None:
    monkeypatch.setattr("rung.reward.call.LOOP_GRACE_S", 0.3)
    end = threading.Event()

    async def hangs(completion: str) -> float:
        while completion == "hang" and not end.is_set():
            if blocks == "in a sleep":
                time.sleep(0.01)
            else:
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    continue
        return 1.0

    with RewardSet([hangs], RewardPolicy(timeout_s=0.2, max_error_rate=1.0)) as rewards:
        (outcome,) = rewards.score([sample("hang")]).by_reward["hangs"]
        assert (outcome.kind, outcome.note) == ("timeout", "no score within 0.2 s")
        assert rewards.score([sample("ok")]).totals == [1.0]
    end.set()


@pytest.mark.process
def test_a_forked_child_has_a_loop_of_its_own(sample) -> None:
    rewards = RewardSet([limited])
    rewards.score([sample()])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = int(event_loop().run(asyncio.sleep(0, result=7), 5) != 7)
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert rewards.score([sample()]).totals == [1.0]


def test_a_closed_loop_cancels_what_runs_and_ends_its_thread() -> None:
    cancelled = threading.Event()

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    loop = EventLoop()
    with pytest.raises(TimeoutError):
        loop.run(asyncio.wait_for(asyncio.sleep(60), 0.01))
    background = []

    async def starts() -> None:
        background.append(asyncio.create_task(waits()))
        await asyncio.sleep(0)

    loop.run(starts())
    loop.close()
    assert cancelled.is_set()
    assert not loop.is_running


def test_a_judge_that_says_so_is_called_several_times_at_once_and_results_keep_their_order(sample) -> None:
    together = threading.Barrier(4)

    @reward(concurrency=4)
    def judge(completion: str) -> float:
        together.wait(timeout=5)
        if completion == "b":
            raise OSError("no")
        time.sleep(0.02 if completion == "a" else 0)
        return float(ord(completion))

    scores = RewardSet([judge], LENIENT).score([sample(text, row=row) for row, text in enumerate("abcd")])
    assert scores.totals == [97.0, None, 99.0, 100.0]


def test_concurrency_limits_async_calls_and_is_refused_where_it_has_no_effect(sample) -> None:
    now, most = [0], [0]

    async def counts(completion: str) -> float:
        now[0] += 1
        most[0] = max(most)
        most.append(now[0])
        await asyncio.sleep(0.001)
        now[0] -= 1
        return 1.0

    RewardSet([{"name": counts, "concurrency": 3}]).score([sample(row=row) for row in range(9)])
    assert max(most) == 3
    with pytest.raises(RewardError, match="its `concurrency` has no effect"):
        RewardSet([{"name": lambda completions, **columns: [], "concurrency": 2}])
    with pytest.raises(ValueError, match="concurrency=0"):
        reward(concurrency=0)


@pytest.mark.process
def test_a_concurrent_judge_with_a_deadline_has_as_many_workers(tmp_path, sample) -> None:
    (tmp_path / "mine.py").write_text(
        "import os, time\n"
        "def judge(completion: str) -> float:\n"
        "    time.sleep(30 if completion == 'hang' else 0.3)\n"
        "    return float(os.getpid())\n"
    )
    entry = {"name": "./mine.py:judge", "concurrency": 3}
    with RewardSet([entry], RewardPolicy(timeout_s=1.0, max_error_rate=1.0), base=tmp_path) as rewards:
        outcomes = rewards.score([sample(text, row=i) for i, text in enumerate(["a", "hang", "b"])]).by_reward["judge"]
    assert [outcome.kind for outcome in outcomes] == ["scored", "timeout", "scored"]
    assert outcomes[0].value != outcomes[2].value


def rude(completion: str) -> float:
    os.chdir(tempfile.mkdtemp())
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    if completion == "raise":
        raise OSError("no")
    return 1.0


@pytest.mark.parametrize("concurrency", [1, 3])
def test_working_folder_dtype_and_grad_mode_are_restored(sample, concurrency) -> None:
    folder = os.getcwd()
    rewards = RewardSet([{"name": rude, "concurrency": concurrency}], LENIENT)
    assert rewards.score([sample("a"), sample("raise"), sample("c")]).totals == [1.0, None, 1.0]
    assert (os.getcwd(), torch.get_default_dtype(), torch.is_grad_enabled()) == (folder, torch.float32, True)


def test_an_exit_of_the_process_is_an_error_of_its_reward_and_children_exit_as_they_like(sample) -> None:
    def leaves(completion: str) -> float:
        child = os.fork()
        if child == 0:
            os._exit(5)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 5:
            return 0.0
        if completion == "leave":
            os._exit(7)
        return 1.0

    with pytest.raises(RewardError) as caught:
        RewardSet([leaves]).score([sample("leave"), sample("leave", row=1)])
    assert caught.value.what.startswith(
        "reward `leaves` failed on 2 of its last 2 calls (rows rows.jsonl:0, rows.jsonl:1): SystemExit: os._exit(7) ("
    )
    assert RewardSet([leaves]).score([sample("stay")]).totals == [1.0]


def test_async_calls_may_take_their_whole_deadline_each_also_one_after_another(sample, monkeypatch) -> None:
    monkeypatch.setattr("rung.reward.call.LOOP_GRACE_S", 0.05)

    async def slow(completion: str) -> float:
        await asyncio.sleep(0.2)
        return 1.0

    policy = RewardPolicy(timeout_s=0.3, max_error_rate=1.0)
    samples = [sample(row=row) for row in range(3)]
    with RewardSet([{"name": slow, "concurrency": 1}], policy) as rewards:
        assert rewards.score(samples).totals == [1.0] * 3
    with RewardSet([slow], policy) as rewards:
        begun = time.monotonic()
        assert rewards.score(samples[:1]).totals == [1.0]
        assert rewards.score(samples).totals == [1.0] * 3
        assert time.monotonic() - begun < 1


def test_after_a_call_has_timed_out_the_remaining_async_ones_do_not_wait_for_a_turn(sample) -> None:
    async def hangs(completion: str) -> float:
        await asyncio.sleep(60 if completion == "hang" else 0)
        return 1.0

    entry = {"name": hangs, "concurrency": 1}
    texts = ["ok", *["hang"] * 6]
    with RewardSet([entry], RewardPolicy(timeout_s=0.2, max_error_rate=1.0)) as rewards:
        begun = time.monotonic()
        outcomes = rewards.score([sample(text, row=row) for row, text in enumerate(texts)]).by_reward["hangs"]
    assert [outcome.kind for outcome in outcomes] == ["scored", *["timeout"] * 6]
    assert outcomes[1].note == "no score within 0.2 s"
    assert time.monotonic() - begun < 0.9, "6 x 0.2 s one after another"


def test_a_decorated_coroutine_is_awaited(sample) -> None:
    async def inner(completion: str) -> float:
        return 0.5

    def hides(completion: str):
        return inner(completion)

    class Judge:
        async def __call__(self, completion: str) -> float:
            await asyncio.sleep(0)
            return 0.25

    assert RewardSet([hides, {"name": Judge(), "label": "judge"}]).score([sample()]).totals == [0.75]


def test_an_interrupt_of_the_user_passes_through_a_reward(sample) -> None:
    def interrupted(completion: str) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RewardSet([interrupted], LENIENT).score([sample()])


def test_what_hooks_log_comes_with_the_call_also_from_a_coroutine(sample) -> None:
    def plain(completions, log_extra, log_metric, **columns):
        log_extra("length", [len(text) for text in completions])
        log_metric("seen", len(completions))
        log_metric("seen", 7)
        return [1.0] * len(completions)

    async def awaited(completions, log_metric, trainer_state, **columns):
        log_metric("step", trainer_state.global_step)
        return [1.0] * len(completions)

    scores = RewardSet([plain, awaited]).score([sample("ab"), sample("c", row=1)], step=5)
    assert scores.columns == {"length": [2, 1]}
    assert {name: list(values) for name, values in scores.logged.items()} == {"seen": [2.0, 7.0], "logged/step": [5.0]}


def test_a_deadline_holds_in_another_thread_where_nothing_can_be_interrupted(sample) -> None:
    end, found = threading.Event(), []

    def judge(completion: str) -> float:
        end.wait(60 if completion == "hang" else 0)
        return 1.0

    def scores() -> None:
        policy = RewardPolicy(timeout_s=0.2, max_error_rate=1.0)
        outcomes = RewardSet([judge], policy).score([sample("ok"), sample("hang", row=1), sample("ok", row=2)])
        found.extend(outcome.kind for outcome in outcomes.by_reward["judge"])

    thread = threading.Thread(target=scores)
    thread.start()
    thread.join(10)
    end.set()
    assert found == ["scored", "timeout", "scored"]
