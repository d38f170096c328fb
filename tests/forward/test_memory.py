"""Memory that runs out: the same step in smaller parts, with the same result, down to one row a part."""

import random
import weakref
from typing import Any

import pytest
import torch

import rung
from helpers.batches import random_batch
from helpers.edges import TEXTS, weights
from helpers.policies import gradient, relative_error, tiny_policy
from rung.algorithms.sft import SFT
from rung.batch import Batch, Loss, Outputs
from rung.distributed.ranks import Ranks
from rung.errors import MemoryLimitError
from rung.forward.memory import attempt, fits_all_ranks, is_out_of_memory, smaller_budget, sufficient_memory
from rung.forward.passes import PartRunner
from rung.training.early_stopping import validation_loss
from rung.training.run_state import flatten, unflatten
from rung.training.stage import Stage

CPU = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
PAIRS = [{"prompt": f"number {i}", "chosen": f" it is {i}", "rejected": " no" * (i % 3 + 1)} for i in range(12)]


def opened(**settings: Any) -> Stage:
    return rung.train("sft", model="tiny:llama", data=TEXTS, **{"max_steps": 3, "batch_size": 6, **settings})


def limit_rows(monkeypatch: pytest.MonkeyPatch, rows: int, error: Exception | None = None) -> None:
    """From now on, a part of more rows does not fit into memory."""
    pick = PartRunner._pick

    def picked(self: PartRunner, batch: Batch, planned: Any) -> Any:
        if len(planned.rows) > rows:
            raise error or RuntimeError(CPU)
        return pick(self, batch, planned)

    monkeypatch.setattr(PartRunner, "_pick", picked)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError(CPU), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("The size of tensor a (2) must match the size of tensor b (3)"), False),
        (ValueError("out of memory"), False),
        (OSError("Cannot allocate memory"), False),
    ],
)
def test_which_errors_mean_that_memory_ran_out(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_other_errors_are_raised() -> None:
    with pytest.raises(RuntimeError, match="size"):
        attempt(lambda: torch.zeros(2) @ torch.zeros(3))


def test_what_an_attempt_had_allocated_is_freed() -> None:
    """The tensors in the frames of the error are released before the next attempt."""
    refs = []

    def allocate() -> None:
        held = torch.zeros(4)
        refs.append(weakref.ref(held))
        raise MemoryError

    assert attempt(allocate) is None
    assert refs[0]() is None


@pytest.mark.parametrize("error", [None, MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_step_is_done_again_in_smaller_parts(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = opened()
    wanted = [step.loss for step in whole]
    short = opened()
    steps = iter(short)
    losses = [next(steps).loss]
    limit_rows(monkeypatch, 2, error)
    losses += [step.loss for step in steps]
    assert losses == pytest.approx(wanted, abs=1e-6)
    pairs = zip(whole.policy.parameters, short.policy.parameters, strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) <= 1e-5
    told = capsys.readouterr().out.splitlines()
    assert (
        told[-1]
        == f"out of memory: `token_budget` is lowered to {short.policy.budget}, and the same work is done again"
    )
    assert short.policy.budget < short.policy.token_budget


def test_the_result_is_that_of_the_lower_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit: the same parts in the same order, and nothing of the failed attempt is left."""
    short = opened()
    limit_rows(monkeypatch, 2)
    list(short)
    monkeypatch.undo()
    low = opened(token_budget=short.policy.budget)
    list(low)
    assert all(map(torch.equal, weights(low.policy).values(), weights(short.policy).values()))


def test_the_random_state_of_a_step_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that draws random numbers draws those of the first attempt."""
    real, drawn = SFT.loss, []

    def loss(self: SFT, batch: Batch, outputs: Outputs) -> Loss:
        drawn.append((random.random(), float(torch.rand(()))))
        if len(drawn) == 1:
            raise MemoryError
        return real(self, batch, outputs)

    monkeypatch.setattr(SFT, "loss", loss)
    next(iter(opened()))
    assert drawn[0] == drawn[1]


def test_the_lower_budget_is_kept_over_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the config then has another budget."""
    stage = opened()
    limit_rows(monkeypatch, 2)
    next(iter(stage))
    state = unflatten(*flatten(stage.state()))
    again, other = opened(), opened(token_budget=999)
    again.load(state)
    other.load(state)
    assert again.policy.budget == stage.policy.budget < again.policy.token_budget
    assert other.policy.budget == 999


def test_without_memory_for_one_row_the_stage_ends_in_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = opened()
    limit_rows(monkeypatch, 0)
    with pytest.raises(MemoryLimitError) as caught:
        next(iter(stage))
    assert caught.value.what.startswith("out of memory with the smallest `token_budget`: one row or pair (of up to ")
    assert "`max_prompt_length`" in caught.value.remedy
    assert "`rollout.max_completion_length`" in caught.value.remedy


def test_too_little_memory_for_the_optimizer_ends_in_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = opened(optimizer="sgd")

    def step() -> None:
        raise RuntimeError(CPU)

    monkeypatch.setattr(stage.optimizer, "step", step)
    with pytest.raises(MemoryLimitError, match="the gradients and the state of the optimizer"):
        next(iter(stage))


def test_only_errors_of_memory_are_told_as_such() -> None:
    with pytest.raises(RuntimeError, match="shapes"), sufficient_memory("this"):
        raise RuntimeError("shapes")


def test_reference_and_validation_passes_are_done_again_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference log-probs of `prepare`, and the loss on held-out rows; pairs stay together in the latter."""
    settings = {"model": "tiny:llama", "data": PAIRS, "batch_size": 6, "max_steps": 2}
    stage = rung.train("dpo", early_stopping={"patience": 3}, **settings)
    batch = next(iter(stage.source))
    assert batch.ref_logps is not None
    expected = validation_loss(stage.policy, stage.algorithm, stage.held_out, Ranks())
    short = rung.train("dpo", early_stopping={"patience": 3}, **settings)
    limit_rows(monkeypatch, 2)
    again = next(iter(short.source))
    torch.testing.assert_close(again.ref_logps, batch.ref_logps)
    assert validation_loss(short.policy, short.algorithm, short.held_out, Ranks()) == pytest.approx(expected, abs=1e-6)
    assert short.policy.lowered_budget


def test_values_are_computed_again_too(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy("llama", heads=True)
    batch = random_batch(torch.Generator().manual_seed(0))
    values = policy.values(batch)
    limit_rows(monkeypatch, 1)
    for again, first in zip(policy.values(batch), values, strict=True):
        torch.testing.assert_close(again, first)


def test_sharded_weights_end_in_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is a collective there, which one rank alone cannot repeat."""
    stage = opened()
    batch = next(iter(stage.source))
    monkeypatch.setattr(stage.policy, "shards", object())
    with pytest.raises(MemoryLimitError, match="sharded weights"):
        stage.policy.lower_budget(batch, "row")


class Neighbour(Ranks):
    """A rank beside one whose memory has run out, with this budget left."""

    budget = 40

    def max(self, amounts: Any) -> Any:
        neighbour = {"failed": 1.0, "budget": -float(self.budget)}
        return {name: torch.tensor(max(float(amount), neighbour[name])) for name, amount in amounts.items()}


def test_ranks_that_had_enough_memory_take_the_lowest_budget() -> None:
    stage = opened()
    batch = next(iter(stage.source))
    assert not fits_all_ranks(stage.policy, batch, "row", Neighbour(1, 2), fits=True)
    assert stage.policy.budget == 40


def test_if_a_row_does_not_fit_on_one_rank_all_ranks_stop() -> None:
    class Full(Neighbour):
        budget = 0

    stage = opened()
    with pytest.raises(MemoryLimitError):
        fits_all_ranks(stage.policy, next(iter(stage.source)), "row", Full(1, 2), fits=True)


def test_the_gradient_of_every_budget_is_the_same() -> None:
    stage = opened()
    batch = next(iter(stage.source))
    found = []
    for _ in range(4):
        stage.optimizer.zero_grad()
        for part, outputs in stage.policy.parts(batch, stage.algorithm):
            stage.algorithm.loss(part, outputs).over({"nll": batch.loss_mask.sum()}).backward()
        found.append(gradient(stage.policy))
        stage.policy.lower_budget(batch, "row")
    assert max(relative_error(each, found[0]) for each in found) < 1e-5


def test_a_lower_budget_is_half_of_it_or_the_first_below_that_changes_the_plan() -> None:
    assert smaller_budget(lambda budget: budget, 8000) == 4000
    assert smaller_budget(lambda budget: budget, 3) == 1
    assert smaller_budget(lambda budget: min(budget, 100), 8000) == 62
    assert smaller_budget(lambda budget: budget, 1) == 0
    assert smaller_budget(lambda budget: "one row a part", 8000) == 0
