"""A sampler whose memory runs out, or whose log-probs are not finite: the same completions, and a ratio of 1."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import rung
from helpers.families import family
from rung.algorithm import State
from rung.algorithms.grpo import GRPO
from rung.batch import Batch, Completion
from rung.errors import MemoryLimitError, NonFiniteError
from rung.metrics import values
from rung.rollout.generate_rows import generate_rows
from rung.rollout.philox import Key
from rung.rollout.samplers import LocalSampler, local
from rung.rollout.source import RolloutSource
from rung.sampling import Sampling
from rung.training.stage import Stage

KEY = Key(0, "stage", "purpose")
FREE = Sampling(max_completion_length=12)
PROMPTS = [(5, 6, 7), (9, 8, 7, 6), (5, 6), (11, 12, 13, 14, 15)]
ROWS = [{"prompt": f"number {i}"} for i in range(8)]


def few_letters(completion: str) -> float:
    """Mixed rewards from a random model."""
    return sum("a" <= letter <= "m" for letter in completion) / max(len(completion), 1)


def opened(algorithm: Any = "grpo", **settings: Any) -> Stage:
    rollout = {"batch_size": 4, "max_completion_length": 8}
    settings = {"max_steps": 4, "rollout": rollout, "updates": {"minibatches": 2, "epochs": 1}} | settings
    return rung.train(algorithm, model="tiny:llama", data=ROWS, rewards=few_letters, **settings)


def sampled(sampler: LocalSampler) -> list[list[tuple[int, ...]]]:
    groups = sampler.sample(PROMPTS, 3, visits=range(4), key=KEY, sampling=FREE)
    return [[completion.ids for completion in group] for group in groups]


def limit(monkeypatch: pytest.MonkeyPatch, name: str, size: int) -> None:
    """From now on, a method of the sampler has no memory for more rows."""
    real = getattr(LocalSampler, name)

    def limited(self: LocalSampler, ids: Any, *rest: Any) -> Any:
        if len(ids) > size:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(self, ids, *rest)

    monkeypatch.setattr(LocalSampler, name, limited)


@pytest.mark.parametrize(("name", "limited"), [("_decode", "max_rows"), ("_prefill", "prefill_tokens")])
def test_fewer_rows_at_once_are_the_same_completions(
    name: str, limited: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = family("Llama")
    expected = sampled(LocalSampler(model, tokenizer))
    limit(monkeypatch, name, 1)
    sampler = LocalSampler(model, tokenizer)
    before = getattr(sampler, limited)
    assert sampled(sampler) == expected
    assert getattr(sampler, limited) < before
    assert f"out of memory: `{limited}` is lowered to {getattr(sampler, limited)}" in capsys.readouterr().out


def test_a_model_with_its_own_state_is_sampled_in_fewer_rows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = family("Mamba2")
    expected = sampled(LocalSampler(model, tokenizer))

    def limited(model: Any, prompt: Any, rows: Sequence[Any], **settings: Any) -> list[Completion]:
        if len(rows) > 2:
            raise MemoryError
        return generate_rows(model, prompt, rows, **settings)

    monkeypatch.setattr(local, "generate_rows", limited)
    sampler = LocalSampler(model, tokenizer)
    assert sampled(sampler) == expected
    assert sampler.max_rows == 1


@pytest.mark.parametrize("name", ["_decode", "_prefill"])
def test_without_memory_for_one_row_sampling_ends_in_two_lines(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = family("Llama")
    limit(monkeypatch, name, 0)
    with pytest.raises(MemoryLimitError) as caught:
        sampled(LocalSampler(model, tokenizer))
    assert caught.value.what.startswith("out of memory while sampling one completion of a prompt of ")
    assert "`rollout.max_completion_length`" in caught.value.remedy


class Unsure(LocalSampler):
    """A sampler that gives no finite log-prob to the first token of a completion."""

    trusted: ClassVar = True
    bad: ClassVar = float("-inf")

    def sample(self, *args: Any, **settings: Any) -> list[list[Completion]]:
        groups = super().sample(*args, **settings)
        return [[replace(one, logps=(self.bad, *one.logps[1:])) for one in group] for group in groups]

    def exact(self, sampling: Sampling) -> bool:
        return self.trusted


class Doubted(Unsure):
    trusted: ClassVar = False


def with_sampler(stage: Stage, kind: type[LocalSampler]) -> Stage:
    assert isinstance(stage.source, RolloutSource)
    sampler = kind(stage.policy.model, stage.tokenizer)  # type: ignore[arg-type]
    stage.source.generator = replace(stage.source.generator, sampler=sampler)
    return stage


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_token_without_a_finite_log_prob_has_a_ratio_of_one(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its old log-prob is that of the policy, which sampled it; the metric counts such tokens."""
    monkeypatch.setattr(Unsure, "bad", bad)
    plain, stage = opened(), with_sampler(opened(), Unsure)
    wanted, found = next(iter(plain.source)), next(iter(stage.source))
    assert wanted.old_logps is not None
    assert found.old_logps is not None
    torch.testing.assert_close(found.old_logps, wanted.old_logps, atol=1e-5, rtol=0)
    assert values(stage.source.pop_report()[0])["sampling/non_finite_logps"] == 4 * 8
    assert "sampling/non_finite_logps" not in values(plain.source.pop_report()[0])


@pytest.mark.parametrize("bad", [float("inf"), float("-inf")])
def test_a_correction_of_the_sampler_weighs_such_a_token_with_one(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unsure, "bad", bad)
    stage = with_sampler(opened(GRPO(importance_sampling_correction="token_truncate"), precision="bf16"), Doubted)
    batch = next(iter(stage.source))
    weights = batch.extras["sampler_weights"]
    assert torch.equal(weights[:, 0], torch.ones(len(weights)))
    assert all(step.stepped for step in stage)


def test_a_state_that_is_not_finite_is_not_taken_over() -> None:
    class Adaptive(GRPO):
        """An algorithm whose state becomes NaN in its second rollout."""

        name: ClassVar = "adaptive"

        def initial_state(self) -> State:
            return {"rollouts": 0, "beta": 1.0, "seen": [1.0]}

        def credit(self, rollout: Batch, state: State) -> tuple[Batch, State]:
            credited, _ = super().credit(rollout, state)
            number = int(state["rollouts"]) + 1  # type: ignore[arg-type]
            return credited, {"rollouts": number, "beta": 2.0, "seen": [1.0, float("nan")][:number]}

    stage = opened(Adaptive())
    list(stage)
    assert isinstance(stage.source, RolloutSource)
    assert stage.source.state == {"rollouts": 1, "beta": 2.0, "seen": [1.0]}


def test_a_policy_that_cannot_be_sampled_can_be_rolled_back() -> None:
    """The error leaves the position in the prompts as it was, so that they are sampled from the restored policy."""
    stage = opened()
    steps = iter(stage)
    next(steps)
    state = stage.state()
    saved: dict[str, Tensor] = {name: weight.clone() for name, weight in state["weights"].items()}
    next(steps)
    before = stage.source.state_dict()
    with torch.no_grad():
        stage.policy.parameters[0].fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="non-finite log-probs during sampling"):
        next(steps)
    assert stage.source.state_dict()["drawn"] == before["drawn"]
    kept: Mapping[str, Any] = {**state, "weights": saved}
    stage.roll_back(kept)
    assert [step.stepped for step in stage] == [True, True]
    assert stage.step == 4


def test_a_rollback_gives_up_the_rollout_under_way() -> None:
    stage = opened()
    state = stage.state()
    next(iter(stage))
    source = stage.source
    assert isinstance(source, RolloutSource)
    drawn = source.drawn
    stage.roll_back(state)
    assert source.rollout is None
    next(iter(stage))
    assert source.drawn > drawn
