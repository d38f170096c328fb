"""Reward functions written for TRL work unchanged."""

from __future__ import annotations

import asyncio

import pytest

from rung.errors import RewardError
from rung.reward import RewardPolicy, RewardSet


def test_values_arrive_by_keyword_as_lists_with_every_column(sample) -> None:
    seen = {}

    def batched(prompts, completions, completion_ids, **columns):
        seen.update(columns, prompts=prompts, completions=completions, completion_ids=completion_ids)
        return [1.0, None]

    rewards = RewardSet([batched])
    rewards.check(["answer"])
    scores = rewards.score([sample("a", answer="x"), sample("bb", row=1)], step=5)
    assert scores.totals == [1.0, None]
    assert seen["prompts"] == ["Why?", "Why?"]
    assert seen["completions"] == ["a", "bb"]
    assert seen["completion_ids"] == [[7], [7, 7]]
    assert seen["answer"] == ["x", None]
    assert seen["trainer_state"].global_step == 5


def test_named_columns_are_required_and_may_be_renamed(sample) -> None:
    def correct(completions, answer):
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    with pytest.raises(RewardError, match="no column `answer`"):
        RewardSet([correct]).check(["truth"])
    assert RewardSet([correct]).score([sample("a", answer="a")]).totals == [1.0]


def test_extra_columns_and_metrics_are_kept(sample) -> None:
    def logs(completions, log_extra, log_metric):
        log_extra("first_letter", [text[0] for text in completions])
        log_metric("letters", sum(map(len, completions)))
        return [0.0] * len(completions)

    scores = RewardSet([logs]).score([sample("ab"), sample("c", row=1)])
    assert scores.columns == {"first_letter": ["a", "c"]}
    assert scores.metrics()["letters"].value() == 3.0


def test_an_object_is_named_after_its_class(sample) -> None:
    class Polite:
        def __call__(self, completions, **columns):
            return [float("please" in text) for text in completions]

    assert RewardSet([Polite()]).score([sample("please")]).by_reward["Polite"][0].value == 1.0


def test_async_functions_wait_together(sample) -> None:
    started = []

    async def judge(completion: str) -> float:
        started.append(completion)
        while len(started) < 3:  # ends only where all three are under way
            await asyncio.sleep(0)
        return float(len(completion))

    assert RewardSet([judge]).score([sample("a"), sample("bb"), sample("ccc")]).totals == [1.0, 2.0, 3.0]


def test_an_async_function_past_its_deadline_times_out_alone(sample) -> None:
    async def judge(completion: str) -> float:
        if completion == "hang":
            await asyncio.Event().wait()
        return 1.0

    policy = RewardPolicy(timeout_s=0.2, max_error_rate=1.0)
    scores = RewardSet([judge], policy).score([sample("ok"), sample("hang")])
    assert [outcome.kind for outcome in scores.by_reward["judge"]] == ["scored", "timeout"]
    assert scores.totals == [1.0, None]


@pytest.mark.oracle
def test_the_rewards_of_trl_run_by_name_and_as_objects_and_agree_with_ours(sample) -> None:
    from trl.rewards import get_soft_overlong_punishment  # pyright: ignore[reportPrivateImportUsage]

    ours = {"name": "soft_overlong", "args": {"max_length": 20, "buffer": 4}}
    samples = [sample("x" * n, row=n) for n in (10, 16, 17, 18, 20, 21)]
    by_reward = RewardSet([ours, get_soft_overlong_punishment(20, 4)]).score(samples).by_reward
    first, second = ([outcome.value for outcome in outcomes] for outcomes in by_reward.values())
    assert first == second

    texts = ["<think>\nwhy\n</think>\nso", "<think>why"]
    chats = [
        sample([{"role": "assistant", "content": text}], prompt=[{"role": "user", "content": "?"}]) for text in texts
    ]
    assert RewardSet(["trl.rewards:think_format_reward"]).score(chats).totals == [1.0, 0.0]
