"""Trajectories: what the model samples after an answer is what it would sample after the whole row so far."""

from typing import Any

import pytest
import torch

from helpers.sampling import KEY, ending_often, lora, plain_logps, prompts_of
from helpers.worlds import Numbers
from rung.agents.protocol import Answer, RowName, Turn
from rung.batch import Completion
from rung.rollout.draw import draw
from rung.rollout.philox import uniforms
from rung.rollout.samplers import LocalSampler
from rung.sampling import Sampling
from rung.tiny.models import FAMILIES, build

LIMIT = 120


def sampler_of(name: str, adapter: bool = False) -> LocalSampler:
    model, tokenizer = build(name)
    ending_often(model)
    return LocalSampler(lora(model) if adapter else model, tokenizer)


def sample(
    sampler: LocalSampler, world: Any, k: int = 3, lengths: tuple[int, ...] = (3, 21, 1, 13), **changes: Any
) -> list[list[Completion]]:
    prompts = prompts_of(lengths)
    visits = changes.pop("visits", range(len(prompts)))
    settings: dict[str, Any] = {"max_completion_length": LIMIT} | changes
    sampling = Sampling(**settings)
    return sampler.sample_trajectories(prompts, k, visits=visits, key=KEY, sampling=sampling, world=world)


def flat(groups: list[list[Completion]]) -> list[Completion]:
    return [one for group in groups for one in group]


@pytest.mark.oracle
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", FAMILIES)
def test_log_probs_of_the_models_tokens_equal_a_plain_forward(name: str, adapter: bool) -> None:
    sampler = sampler_of(name, adapter)
    groups = sample(sampler, Numbers())
    turns = 0
    for prompt, group in zip(prompts_of((3, 21, 1, 13)), groups, strict=True):
        for row in group:
            own = torch.tensor(row.trained)
            found = torch.tensor(row.logps)
            plain = plain_logps(sampler.model, prompt, row.ids, 1.0)
            torch.testing.assert_close(found[own], plain[own], atol=1e-5, rtol=0)
            assert found[~own].eq(0).all()
            turns += int((own[1:] & ~own[:-1]).sum()) + 1
    assert turns > 3 * len(flat(groups)), "most rows have several turns"


@pytest.mark.oracle
@pytest.mark.parametrize("name", FAMILIES)
def test_every_token_is_drawn_with_the_number_of_its_column(name: str) -> None:
    sampler = sampler_of(name)
    sampling = Sampling(max_completion_length=LIMIT)
    for i, (prompt, group) in enumerate(zip(prompts_of((3, 21, 1, 13)), sample(sampler, Numbers()), strict=True)):
        for j, row in enumerate(group):
            with torch.no_grad():
                logits = sampler.model(torch.tensor([prompt + row.ids])).logits[0, len(prompt) - 1 : -1]
            numbers = uniforms(KEY, torch.tensor([i]), torch.tensor([j]), 0, len(row.ids))[0]
            own = torch.tensor(row.trained)
            assert draw(logits.float(), numbers, sampling)[0][own].tolist() == torch.tensor(row.ids)[own].tolist()


def test_the_world_is_given_each_turn_and_its_answer_follows_it() -> None:
    world = Numbers(turns=2, longest=3)
    groups = sample(sampler_of("llama"), world, k=1)
    for i, (row,) in enumerate(groups):
        turns = [turn for name, turn in world.submitted if name == (i, 0)]
        parts = [list(turn.ids) for turn in turns]
        rest = list(row.ids)
        for number, (part, turn) in enumerate(zip(parts, turns, strict=True)):
            assert rest[: len(part)] == part
            rest = rest[len(part) :]
            assert turn.room == LIMIT - (len(row.ids) - len(rest))
            if number + 1 < len(parts):
                generator = torch.Generator().manual_seed(sum(part))
                rest = rest[int(torch.randint(1, 4, (1,), generator=generator)) :]
        assert not rest
        assert row.finish_reason == "eos"


def test_a_row_that_is_never_answered_is_a_plain_completion() -> None:
    sampler = sampler_of("qwen3")
    prompts = prompts_of((3, 21, 1, 13))
    sampling = Sampling(max_completion_length=LIMIT)
    plain = sampler.sample(prompts, 3, visits=range(4), key=KEY, sampling=sampling)
    found = sample(sampler, Numbers(turns=0))
    assert [(one.ids, one.logps, one.finish_reason) for one in flat(found)] == [
        (one.ids, one.logps, one.finish_reason) for one in flat(plain)
    ]
    assert all(all(one.trained) for one in flat(found))


def test_rows_do_not_depend_on_the_others() -> None:
    sampler = sampler_of("gemma3")
    together = sample(sampler, Numbers(), k=2, lengths=(3, 21, 1, 13))
    sampler.max_rows = 3
    fewer = sample(sampler, Numbers(), k=2, lengths=(3, 21, 1, 13))
    assert [one.ids for one in flat(together)] == [one.ids for one in flat(fewer)]


def test_a_slow_answer_changes_no_bit() -> None:
    sampler = sampler_of("llama")
    slow = {(1, 0): 0.3, (3, 2): 0.1}
    assert sample(sampler, Numbers(delays=slow)) == sample(sampler, Numbers())


def test_the_others_do_not_wait_long_for_a_slow_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rung.rollout.trajectories.PATIENCE_S", 0.05)

    class Ordered(Numbers):
        def __init__(self, **settings: Any):
            super().__init__(**settings)
            self.log: list[RowName] = []

        def submit(self, row: RowName, turn: Turn) -> bool:
            self.log.append(row)
            return super().submit(row, turn)

    world = Ordered(turns=3, delays={(0, 0): 0.5})
    found = sample(sampler_of("llama"), world)
    first, second = [number for number, row in enumerate(world.log) if row == (0, 0)][:2]
    between = world.log[first + 1 : second]
    assert max(between.count(row) for row in between) > 1, "others took several turns while the row waited"
    assert [one.ids for one in flat(found)] == [one.ids for one in flat(sample(sampler_of("llama"), Numbers(turns=3)))]


def test_nothing_is_computed_twice() -> None:
    sampler = sampler_of("llama")
    prompts = prompts_of((3, 21, 1, 13))
    rows = flat(sample(sampler, Numbers(turns=6), k=16))
    needed = sum(map(len, prompts)) + sum(len(row.ids) for row in rows)
    padding = sum(max(map(len, prompts)) - len(prompt) for prompt in prompts)
    assert sampler.positions - padding <= 1.1 * needed


def test_a_world_may_end_a_row_with_a_reason_of_its_own() -> None:
    class Failing(Numbers):
        def submit(self, row: RowName, turn: Turn) -> bool:
            self.due.append((0.0, row, Answer(end="tool_failed")))
            return True

    rows = flat(sample(sampler_of("llama"), Failing()))
    assert {row.finish_reason for row in rows} == {"tool_failed"}
    assert all(all(row.trained) for row in rows)


def test_no_row_has_more_tokens_than_the_limit() -> None:
    rows = flat(sample(sampler_of("llama"), Numbers(turns=50), max_completion_length=40))
    assert {row.finish_reason for row in rows} <= {"length", "answer_length"}
    assert max(len(row.ids) for row in rows) <= 40
    assert all(len(row.ids) == 40 for row in rows if row.finish_reason == "length")


def test_a_stop_text_is_looked_for_in_the_models_own_turn() -> None:
    class Stops(Numbers):
        def submit(self, row: RowName, turn: Turn) -> bool:
            self.asked[row] += 1
            self.submitted.append((row, turn))
            if self.asked[row] > 1:
                return False
            self.due.append((0.0, row, Answer(tuple(sampler.tokenizer.encode("ab#")))))
            return True

    sampler = sampler_of("llama")
    world = Stops()
    stops = ("a", "b", "c", "#")
    rows = flat(sample(sampler, world, stop=stops))
    stopped = [turn for _, turn in world.submitted if turn.finish_reason == "stop"]
    assert stopped
    ends = [str(sampler.tokenizer.decode(turn.ids[-1])) for turn in stopped]
    assert all(any(stop in end for stop in stops) for end in ends)
    assert all(len(row.ids) > 4 for row in rows if row.finish_reason == "stop" and not all(row.trained))


def test_less_memory_starts_rows_again_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = sampler_of("llama")
    expected = sample(sampler, Numbers())
    step, calls = sampler._decode, iter(range(1000))

    def failing(ids: torch.Tensor, *more: Any) -> torch.Tensor:
        if len(ids) > 6 and next(calls) > 20:
            raise torch.OutOfMemoryError("no memory")
        return step(ids, *more)

    monkeypatch.setattr(sampler, "_decode", failing)
    assert [one.ids for one in flat(sample(sampler, Numbers()))] == [one.ids for one in flat(expected)]
    assert sampler.max_rows == 6
