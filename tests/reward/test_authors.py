"""Rewards as their authors write them, for TRL, verl, OpenRLHF and verifiers, are called as they expect."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from rung.errors import RewardError
from rung.reward import RewardPolicy, RewardSet, Verdict, reward

if TYPE_CHECKING:
    from trl.trainer.grpo_trainer import GRPOTrainer

LENIENT = RewardPolicy(max_error_rate=1.0)


def notes(function: Any, samples: list[Any]) -> list[str]:
    (outcomes,) = RewardSet([function], LENIENT).score(samples).by_reward.values()
    return [outcome.note for outcome in outcomes]


# results


@pytest.mark.parametrize(
    "make",
    [
        np.array,
        torch.tensor,
        lambda values: np.array(values, dtype=np.float32),
        lambda values: torch.tensor(values, dtype=torch.bfloat16, requires_grad=True),
        lambda values: (value for value in values),
        lambda values: dict(enumerate(values)).values(),
        lambda values: map(float, values),
        lambda values: [torch.tensor(value) for value in values],
        lambda values: [np.float32(value) for value in values],
        lambda values: {"rewards": torch.tensor(values), "scores": values, "extra_logs": {}},
    ],
)
def test_arrays_tensors_and_iterators_are_lists_of_scores(sample, make) -> None:
    def scores(completions, **columns):
        return make([0.5, 2.0])

    assert RewardSet([scores]).score([sample(), sample(row=1)]).totals == [0.5, 2.0]


@pytest.mark.parametrize(
    ("returned", "note"),
    [
        (np.array([0.5]), "returned 1 scores for 2 completions"),
        ((value for value in (1.0, 2.0, 3.0)), "returned 3 scores for 2 completions"),
        (torch.zeros(2, 1), "returned the list [0.0]; a score is a number"),
        (np.array([True, False]), "returned the bool True; a score is a number"),
        (np.array([np.nan, np.inf]), "returned nan; to abstain, return None"),
        ({1.0, 2.0}, "returned a set, not a list of 2 scores"),
        ({"a": 1.0, "b": 2.0}, "returned a dict, not a list of 2 scores"),
    ],
)
def test_what_is_no_list_of_scores_is_an_error(sample, returned, note) -> None:
    def scores(completions, **columns):
        return returned

    assert notes(scores, [sample(), sample(row=1)])[0] == note


def test_an_iterator_that_raises_is_an_error_of_its_reward(sample) -> None:
    def scores(completions, **columns):
        return (1 / 0 for _ in completions)

    assert "ZeroDivisionError" in notes(scores, [sample()])[0]


def test_a_single_score_may_be_a_scalar_of_numpy_or_torch_or_a_mapping_with_a_score(sample) -> None:
    results = [np.float32(0.5), torch.tensor(0.5), np.array(0.5), {"score": 0.5, "acc": 1}]
    rewards = RewardSet([lambda completion: results.pop(0)])
    outcomes = [rewards.score([sample()]).by_reward["<lambda>"][0] for _ in range(4)]
    assert [outcome.value for outcome in outcomes] == [0.5] * 4
    assert outcomes[-1].parts == {"acc": 1}


def test_what_a_factory_returns_says_so(sample) -> None:
    def make(completions, **columns):
        def judge(completions): ...

        return [judge for _ in completions]

    assert notes(make, [sample()]) == ["returned the function judge: name its result as the reward instead"]


# copies


def takes_out(completion: str, tests: list[str], info: dict[str, Any], *, left: list[int]) -> float:
    info["seen"] = info.get("seen", 0) + 1
    left.append(1)
    tests.pop()
    return float(len(tests) + 10 * info["seen"] + 100 * len(left))


def test_every_sample_has_its_own_copy_of_its_columns_and_settings(sample) -> None:
    row = {"tests": ["1", "2", "3"], "info": {}}
    rewards = RewardSet([{"name": takes_out, "args": {"left": []}}])
    samples = [sample(row=i, **row) for i in range(3)]
    for _ in range(2):
        assert rewards.score(samples).totals == [112.0, 112.0, 112.0]
    assert row == {"tests": ["1", "2", "3"], "info": {}}


def test_a_batch_and_the_messages_of_a_prompt_are_copies_too(sample) -> None:
    prompt = ({"role": "user", "content": "Why?"},)

    def greedy(prompts, completions, tests, **columns):
        return [float(len(own.pop() + messages.pop()["content"])) for own, messages in zip(tests, prompts, strict=True)]

    samples = [sample(({"role": "assistant", "content": "a"},), row=i, prompt=prompt, tests=["x"]) for i in range(2)]
    assert [RewardSet([greedy]).score(samples).totals for _ in range(2)] == [[5.0, 5.0]] * 2
    assert samples[0].columns == {"tests": ["x"]}


def test_a_column_that_cannot_be_copied_is_shared(sample) -> None:
    lock = {"stream": sys.stdout}
    assert RewardSet([lambda completion, lock: float(lock["stream"] is sys.stdout)]).score(
        [sample(lock=lock)]
    ).totals == [1.0]


# trainer_state


def test_trainer_state_has_steps_and_epochs_and_names_them(sample) -> None:
    seen = []

    def curriculum(completions, trainer_state: Any = None, **columns):
        seen.append(trainer_state)
        return [trainer_state.best_metric for _ in completions]

    rewards = RewardSet([curriculum], LENIENT)
    (outcome,) = rewards.score([sample()], step=5, max_steps=25, steps_per_epoch=10).by_reward["curriculum"]
    state = seen[0]
    assert (state.global_step, state.max_steps, state.epoch, state.num_train_epochs) == (5, 25, 0.5, 3)
    assert "no `best_metric`; it has global_step, max_steps, epoch, num_train_epochs" in outcome.note
    rewards.score([sample()])
    state = seen[1]
    assert (state.global_step, state.max_steps, state.epoch, state.num_train_epochs) == (0, 0, 0, 0)


def test_a_function_of_one_sample_can_read_trainer_state(sample) -> None:
    def late(completion: str, trainer_state) -> float:
        return trainer_state.global_step

    rewards = RewardSet([late])
    rewards.check([])
    assert rewards.score([sample()], step=3).totals == [3.0]


# signatures


class Graded:
    def __call__(self, completions, **columns):
        return [1.0 for _ in completions]


def make_graded(scale: float = 1.0, floor: float = 0.0):
    return lambda completions, **columns: [scale for _ in completions]


def make_annotated(**columns) -> Callable[..., list[float]]:
    return lambda completions, **columns: [1.0 for _ in completions]


@pytest.mark.parametrize("maker", [Graded, make_graded, make_annotated])
def test_a_class_or_a_factory_is_refused_before_anything_is_called(maker) -> None:
    with pytest.raises(RewardError) as caught:
        RewardSet([maker]).check(["answer"])
    assert caught.value.remedy.endswith(f"pass `{maker.__name__}(...)`")


def test_a_class_in_a_file_is_refused_with_the_line_to_write(tmp_path) -> None:
    (tmp_path / "r.py").write_text("class MathORM:\n    def __call__(self, completions, **columns): return []\n")
    with pytest.raises(RewardError) as caught:
        RewardSet(["./r.py:MathORM"], base=tmp_path)
    assert caught.value.what == "reward `MathORM` is a class and cannot judge"
    remedy = "name what it makes: write `my_reward = MathORM(...)` in its file, and name `my_reward`"
    assert caught.value.remedy == remedy


def test_an_import_for_type_checkers_only_does_not_matter(sample) -> None:
    def typed(completions: list[str], trainer: GRPOTrainer | None = None, *, scale: float = 1.0, **kw: Any):
        return [scale for _ in completions]

    assert RewardSet([{"name": typed, "args": {"scale": 2.0}}]).score([sample()]).totals == [2.0]
    with pytest.raises(RewardError, match="`scale` is 'big'"):
        RewardSet([{"name": typed, "args": {"scale": "big"}}])
    with pytest.raises(RewardError) as caught:
        RewardSet([{"name": typed, "args": {"trainer": 1}}])
    assert caught.value.remedy.startswith("import `GRPOTrainer | None`, its type, at run time")


def test_a_decorator_without_wraps_hides_nothing(sample) -> None:
    def logged(function):
        def inner(*args, **kwargs):
            return function(*args, **kwargs)

        return inner

    @logged
    def length(completions, **columns):
        return [float(len(text)) for text in completions]

    @logged
    async def waits(completions, **columns):
        return [float(len(text)) for text in completions]

    named = [{"name": length, "label": "a"}, {"name": waits, "label": "b"}]
    assert RewardSet(named).score([sample("abc")]).totals == [6.0]


def test_verifiers_reads_one_sample_and_all_columns(sample) -> None:
    seen = []

    def correct(completion, answer, **kwargs) -> float:
        seen.append(kwargs)
        return float(answer in completion)

    rewards = RewardSet([correct])
    rewards.check(["answer", "info", "row_id"])
    assert rewards.score([sample("4", answer="4", info={"a": 1}, row_id="own"), sample("5", answer="4")]).totals == [
        1,
        0,
    ]
    assert (seen[0]["info"], seen[0]["row_id"], seen[0]["prompt"]) == ({"a": 1}, "own", "Why?")
    assert seen[1]["row_id"] == "rows.jsonl:0"
    with pytest.raises(RewardError, match="no column `answer`"):
        rewards.check(["info"])


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return float(ground_truth in solution_str)


def reward_func(queries, prompts, labels, **kwargs):
    return {"rewards": torch.tensor([float(label in query) for query, label in zip(queries, labels, strict=True)])}


def test_columns_can_name_a_standard_field(sample) -> None:
    verl = {"name": compute_score, "columns": {"solution_str": "completion", "data_source": "row_id"}}
    open_rlhf = {"name": reward_func, "columns": {"queries": "completion", "labels": "ground_truth"}}
    chat = ({"role": "assistant", "content": "is 4"},)
    samples = [sample("is 4", ground_truth="4"), sample(chat, ground_truth="5", row=1)]
    for entry in (verl, open_rlhf):
        rewards = RewardSet([entry])
        rewards.check(["ground_truth"])
        assert rewards.score(samples).totals == [1.0, 0.0]
        with pytest.raises(RewardError, match="reads the field `completion`, but the data have a column"):
            rewards.check(["ground_truth", "completion"])


def test_a_field_can_be_read_from_a_column(sample) -> None:
    rewards = RewardSet([{"name": lambda completion, prompt: float(prompt == "q"), "columns": {"prompt": "question"}}])
    rewards.check(["question"])
    assert rewards.score([sample(question="q")]).totals == [1.0]


def test_an_unknown_column_lists_what_is_offered() -> None:
    def judge(completions, goldd):
        return []

    with pytest.raises(RewardError) as caught:
        RewardSet([judge]).check(["gold"])
    assert caught.value.remedy == (
        "write `columns: {goldd: ...}`; did you mean `gold`? known: completion_ids, completions, gold, log_extra, "
        "log_metric, prompt_ids, prompts, trainer_state"
    )


# Python entries


def test_an_entry_may_name_a_function(sample) -> None:
    def near(completion: str, target: str, *, scale: float = 1.0) -> float:
        return scale * (target in completion)

    entry = {"name": near, "weight": 0.5, "label": "x", "args": {"scale": 4.0}, "columns": {"target": "answer"}}
    rewards = RewardSet([entry, {"name": functools.partial(near, scale=1.0), "role": "metric", "label": "y"}])
    scores = rewards.score([sample("4", answer="4", target="5")])
    assert (scores.totals, scores.by_reward["x"][0].value, scores.by_reward["y"][0].value) == ([2.0], 4.0, 0.0)
    with pytest.raises(RewardError) as caught:
        RewardSet([(near, 0.5)])  # type: ignore[list-item]
    assert '{"name": function, "weight": 0.5}' in caught.value.remedy


# what a reward tells


def test_parts_note_and_cost_are_told_by_row_and_as_metrics(sample) -> None:
    def judge(completion: str) -> Verdict:
        return Verdict(0.5, parts={"tone": np.float32(len(completion)), "word": "dry"}, note="ok", cost=0.25)

    scores = RewardSet([judge]).score([sample("a"), sample("bcd", row=1)])
    assert scores.details(1) == {"judge": {"parts": {"tone": 3.0, "word": "dry"}, "note": "ok", "cost": 0.25}}
    metrics = {name: metric.value() for name, metric in scores.metrics().items()}
    assert metrics["rewards/judge/parts/tone"] == 2.0
    assert metrics["rewards/judge/cost"] == 0.5
    assert "rewards/judge/parts/word" not in metrics


def test_the_reason_of_a_failure_is_told_once_and_with_its_row(sample, capsys) -> None:
    def judge(completion: str) -> float:
        if completion == "bad":
            raise ConnectionError("judge: 503\nService Unavailable")
        return float("nan") if completion == "nan" else 1.0

    rewards = RewardSet([judge], LENIENT)
    samples = [sample("ok"), sample("bad", row=1), sample("bad", row=2), sample("nan", row=3)]
    scores, _ = rewards.score(samples), rewards.score(samples)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    first = "warning: reward `judge` failed on row rows.jsonl:1: ConnectionError: judge: 503 Service Unavailable ("
    assert lines[0].startswith(first)
    assert "failed on row rows.jsonl:3: returned nan" in lines[1]
    assert "ConnectionError: judge: 503\nService" in scores.details(1)["judge"]["error"]
    assert scores.details(0) == {}


def test_an_end_for_too_many_failures_names_rows_of_earlier_batches(table) -> None:
    @reward(range=(0, 1))
    def given(value: float) -> float:
        return value

    rewards = RewardSet([given])
    rewards.score(table([0] * 49, value=[0.5] * 47 + [2.0] * 2))
    with pytest.raises(RewardError, match=r"\(rows rows\.jsonl:47, rows\.jsonl:48\): returned 2\.0"):
        rewards.score(table([0], value=[0.5]))
