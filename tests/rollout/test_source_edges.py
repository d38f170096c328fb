"""Rollouts with answers from a list: who is asked when, which update a group goes to, and what comes back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from helpers.edges import tiny_policy
from rung.algorithm import Algorithm, DataKind, State
from rung.batch import Batch, Completion, Denominator, Loss, Outputs
from rung.data.batches import order
from rung.data.records import Encoded, make_example
from rung.distributed.ranks import Ranks
from rung.errors import ConfigError, SamplingError
from rung.metrics import Metric, Sum, values
from rung.reward import RewardSet
from rung.reward.outcome import Outcome
from rung.reward.scores import Scores
from rung.rollout.generate import Generator
from rung.rollout.philox import Key
from rung.rollout.source import RolloutSource
from rung.rollout.unscored import unscored_rows
from rung.sampling import Sampling
from rung.tiny.tokenizers import EOS_ID, byte

TOKENIZER = byte()
POLICY = tiny_policy()


class Sampled(Algorithm):
    """Trains nothing and keeps groups by a reward; counts its rollouts in its state."""

    name: ClassVar = "sampled"
    limit: int = 0

    def data_kind(self) -> DataKind:
        return "prompts"

    def terms(self) -> Mapping[str, Denominator]:
        return {"all": "rows"}

    def samples_per_prompt(self) -> int:
        return 2

    def generation_limit(self) -> int:
        return self.limit

    def initial_state(self) -> State:
        return {"seen": 0}

    def keep_groups(self, rollout: Batch) -> Tensor:
        assert rollout.rewards is not None
        return rollout.rewards[::2] > 0

    def credit(self, rollout: Batch, state: State) -> tuple[Batch, State]:
        return rollout, {"seen": int(state["seen"]) + 1}  # type: ignore[arg-type]

    def rollout_metrics(self, rollout: Batch, state: State) -> Mapping[str, Metric]:
        return {"own/rows": Sum(float(rollout.num_rows)), "own/before": Sum(float(state["seen"]))}  # type: ignore[arg-type]

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        return Loss({"all": outputs.logps.sum()})


class Counting:
    """A sampler that answers each prompt with its text, and remembers which visits it was asked for."""

    def __init__(self) -> None:
        self.visits: list[list[int]] = []

    def sample(
        self, prompts: Sequence[tuple[int, ...]], k: int, *, visits: Sequence[int], key: Key, sampling: Sampling
    ) -> list[list[Completion]]:
        self.visits.append(list(visits))
        return [[Completion((*ids, EOS_ID), (-1.0,) * (len(ids) + 1), "eos")] * k for ids in prompts]

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """It has no weights."""

    def exact(self, sampling: Sampling) -> bool:
        return True


def prompts(texts: Sequence[str]) -> list[Encoded]:
    made = []
    for i, text in enumerate(texts):
        ids = tuple(TOKENIZER.encode(text))
        made.append(Encoded(str(i), f"x:{i}", ids, (), make_example("prompt", f"x:{i}", {}, prompt=text)))
    return made


def rollouts(texts: Sequence[str], *, judge: Any = None, limit: int = 0, seed: int = 3, **size: int) -> RolloutSource:
    algorithm = Sampled(limit=limit)
    generator = Generator(
        sampler=Counting(),
        sampling=Sampling(max_completion_length=8),
        key=Key(seed, "s", "rollout"),
        samples=2,
        rewards=RewardSet([judge or (lambda completions, **_: [1.0] * len(completions))]),
        tokenizer=TOKENIZER,
    )
    sizes = {"batch_size": 8, "epochs": 1, "minibatches": 1} | size
    return RolloutSource(
        prompts(texts), algorithm=algorithm, policy=POLICY, generator=generator, seed=seed, ranks=Ranks(), **sizes
    )


def a_or_b(completions: list[str], **columns: Any) -> list[float]:
    return [float(text[0] in "ab") for text in completions]


def asked(source: RolloutSource) -> list[list[int]]:
    sampler = source.generator.sampler
    assert isinstance(sampler, Counting)
    return sampler.visits


def visits(batch: Batch) -> list[int]:
    return batch.extras["visit"].tolist()


LETTERS = list("abcdefgh")


def test_every_rollout_has_a_permutation_of_its_own_in_its_second_epoch() -> None:
    """8 groups into 4 minibatches: as drawn in the first epoch, by order(seed + rollout, epoch) in the second."""
    source = rollouts(LETTERS, epochs=2, minibatches=4)
    given = list(islice(source, 16))
    for number in range(2):
        here = given[8 * number : 8 * number + 8]
        first = [sorted(set(visits(batch))) for batch in here[:4]]
        assert first == [[8 * number + 2 * m, 8 * number + 2 * m + 1] for m in range(4)]
        turn = order(3 + number + 1, 1, 8)
        again = [sorted(set(visits(batch))) for batch in here[4:]]
        assert again == [[8 * number + g for g in range(8) if turn[g] // 2 == m] for m in range(4)]
    assert order(4, 1, 8) != order(5, 1, 8)


def test_prompts_are_visited_in_the_order_of_their_epoch() -> None:
    """3 prompts, 2 a rollout: visits 0 1, 2 3, 4 5 of the orders of epochs 0 and 1."""
    source = rollouts(["a", "b", "c"], batch_size=2)
    seen = [batch.row_ids[::2] for batch in islice(source, 3)]
    whole = [f"x:{i}" for epoch in (0, 1) for i in order(3, epoch, 3)]
    assert [row for rows in seen for row in rows] == whole
    assert asked(source) == [[0, 1], [2, 3], [4, 5]]


def test_groups_that_are_not_kept_are_drawn_anew_and_the_surplus_goes() -> None:
    """Only a and b are kept of a to d, in whatever order: 4 asked, then by the rate of those kept."""
    source = rollouts(list("abcd"), judge=a_or_b, batch_size=3)
    batch = next(iter(source))
    first = sum(i < 2 for i in order(3, 0, 4)[:3])
    rate = max(first / 3, 0.25)
    wanted = math.ceil((3 - first) / rate)
    assert [len(each) for each in asked(source)][:2] == [3, wanted]
    assert asked(source)[1][0] == 3
    kept = [v for v in range(source.drawn) if order(3, v // 4, 4)[v % 4] < 2]
    assert sorted(set(visits(batch))) == kept[:3]
    told = values(source.pop_report()[0])
    assert told["filter/sampled_groups"] == source.drawn
    assert told["filter/discarded_groups"] == len(kept) - 3
    assert told["filter/dropped_groups"] == source.drawn - len(kept)


def test_however_few_were_kept_the_next_asks_for_four_times_what_is_missing() -> None:
    answers = iter([0.0] * 2 + [1.0] * 99)
    source = rollouts(LETTERS, judge=lambda completions, **_: [next(answers) for _ in completions], batch_size=1)
    next(iter(source))
    assert [len(each) for each in asked(source)] == [1, 4]


def test_the_bound_of_generation_batches_is_reached_after_so_many() -> None:
    source = rollouts(LETTERS, judge=lambda completions, **_: [0.0] * len(completions), batch_size=2, limit=3)
    with pytest.raises(SamplingError, match=r"only 0 of 2 groups were kept in 3 generation batches with 18 prompts"):
        next(iter(source))
    assert [len(each) for each in asked(source)] == [2, 8, 8]


def test_rewards_are_told_the_step_that_a_rollout_begins_with() -> None:
    told: list[int] = []

    def judge(completions: list[str], trainer_state: Any, **columns: Any) -> list[float]:
        told.append(trainer_state.global_step)
        return [1.0] * len(completions)

    list(islice(rollouts(LETTERS, judge=judge, epochs=2, minibatches=2), 9))
    assert sorted(set(told)) == [0, 4, 8]


def test_a_report_is_of_the_time_since_the_last_one() -> None:
    source = rollouts(["ab"], batch_size=1)
    steps = iter(source)
    next(steps)
    metrics, table = source.pop_report()
    assert values(metrics)["completions/mean_length"] == 3.0
    assert [row["completion"] for row in table] == ["ab", "ab"]
    assert source.pop_report() == ({}, [])
    next(steps)
    assert values(source.pop_report()[0])["filter/sampled_groups"] == 1.0


def test_what_an_algorithm_tells_of_a_rollout_is_reported_once() -> None:
    source = rollouts(LETTERS, minibatches=2)
    told = []
    for _ in islice(source, 4):
        metrics = values(source.pop_report()[0])
        told.append({name: value for name, value in metrics.items() if name.startswith("own/")})
    assert told == [{"own/rows": 16.0, "own/before": 0.0}, {}, {"own/rows": 16.0, "own/before": 1.0}, {}]


def test_its_state_comes_back_in_the_middle_of_a_rollout() -> None:
    source = rollouts(LETTERS, epochs=2, minibatches=2)
    steps = iter(source)
    list(islice(steps, 3))
    state = source.state_dict()
    assert (state["drawn"], state["rollouts"], state["update"], state["state"]) == (8, 1, 3, {"seen": 1})
    again = rollouts(LETTERS, epochs=2, minibatches=2)
    again.load_state_dict(state)
    assert [visits(batch) for batch in islice(again, 5)] == [visits(batch) for batch in islice(steps, 5)]
    assert again.state == {"seen": 2}
    assert (again.drawn, again.rollouts, again.update) == (16, 2, 4)


def test_two_ranks_that_go_on_share_the_groups_of_the_rollout_at_hand() -> None:
    source = rollouts(LETTERS, minibatches=2)
    next(iter(source))
    state = source.state_dict()
    shares = [source.share([state], Ranks(rank, 2)) for rank in range(2)]
    assert [sorted(set(share["place"].tolist())) for share in shares] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert [sorted(set(share["rollout"]["extras"]["visit"].tolist())) for share in shares] == [
        [0, 2, 4, 6],
        [1, 3, 5, 7],
    ]
    fresh = rollouts(LETTERS).state_dict()
    assert source.share([fresh], Ranks(2, 3))["rewards"] == fresh["rewards"], "more ranks than before"
    assert source.share([fresh], Ranks(0, 2))["rollout"] is None


def test_fewer_prompts_than_ranks_are_refused() -> None:
    settings: dict[str, Any] = {"algorithm": Sampled(), "policy": POLICY, "generator": rollouts(LETTERS).generator}
    settings |= {"epochs": 1, "minibatches": 1, "seed": 0}
    assert RolloutSource(prompts(LETTERS), batch_size=2, ranks=Ranks(0, 2), **settings).batch_size == 2
    with pytest.raises(ConfigError, match=r"`rollout\.batch_size` 1 is too few prompts for 2 ranks"):
        RolloutSource(prompts(LETTERS), batch_size=1, ranks=Ranks(0, 2), **settings)


def test_a_generated_batch_carries_what_the_sampler_said() -> None:
    """`ab` and `c` with EOS: 3 and 2 tokens; equal prompts come out adjacent with their visits."""
    source = rollouts(["ab", "c", "ab"], batch_size=3)
    generated = source.generator(source.prompts, [10, 11, 12], 0)
    batch = generated.batch
    assert visits(batch) == [10, 10, 12, 12, 11, 11]
    assert batch.lengths.tolist() == [3, 3, 3, 3, 2, 2]
    assert batch.old_logps is not None
    assert batch.old_logps.tolist() == [[-1, -1, -1]] * 4 + [[-1, -1, 0]] * 2
    assert batch.prompt_of.tolist() == [0, 0, 0, 0, 1, 1]
    assert batch.group_of.tolist() == [0, 0, 1, 1, 2, 2]
    assert batch.truncated is not None
    assert not batch.truncated.any()
    assert batch.max_completion_length == 8
    torch.testing.assert_close(batch.rewards, torch.ones(6))


def test_groups_of_all_ranks_are_credited_together_and_each_keeps_its_own() -> None:
    """Two ranks that sampled the same: the algorithm sees both, the rank gets its rows back with their ids."""

    class Twice(Ranks):
        """A rank whose neighbour sends what it sends itself."""

        def gather_tensors(self, tensors: Mapping[str, Tensor]) -> list[Mapping[str, Tensor]]:  # type: ignore[override]
            return [tensors, tensors]

        def share(self, items: Any) -> Any:
            return items

        def gather(self, value: Any) -> list[Any]:
            return [value]

        def agree(self, yes: bool) -> bool:
            return yes

    source = rollouts(["a", "b"], batch_size=2)
    seen: list[int] = []
    credit = type(source.algorithm).credit

    class Watched(Sampled):
        def credit(self, rollout: Batch, state: State) -> tuple[Batch, State]:
            seen.append(rollout.num_rows)
            return credit(self, rollout, state)  # type: ignore[arg-type]

    alone = next(iter(rollouts(["a", "b"], batch_size=2)))
    source.algorithm = Watched()
    source.ranks = Twice(world=2)
    (batch,) = islice(source, 1)
    assert seen == [2 * alone.num_rows]
    assert batch.row_ids == alone.row_ids
    assert torch.equal(batch.completion_ids, alone.completion_ids)
    assert visits(batch) == visits(alone)
    assert batch.max_completion_length == alone.max_completion_length


def test_a_row_without_a_score_is_told_with_what_its_rewards_said() -> None:
    def rows(*outcomes: Outcome) -> list[str]:
        scores = Scores(
            totals=[None],
            task_totals=[None],
            by_reward={"judge": [outcomes[0]], "metric": [outcomes[1]]},
            groups=[0],
        )
        return unscored_rows([SimpleNamespace(row_id="rows.jsonl:7")], scores, {"judge"})  # type: ignore[list-item]

    scored = Outcome("scored", 1.0)
    assert rows(Outcome("abstained", note="too short"), scored) == [
        "rows.jsonl:7: reward `judge` abstained (too short)"
    ]
    assert rows(Outcome("error", note="KeyError: x"), scored) == ["rows.jsonl:7: reward `judge` failed (KeyError: x)"]
    assert rows(Outcome("timeout"), Outcome("error")) == ["rows.jsonl:7: reward `judge` failed"]
    assert rows(scored, Outcome("error")) == ["rows.jsonl:7: it has no reward"]
