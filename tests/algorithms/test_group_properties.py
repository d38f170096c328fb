"""What holds for every member of the group-relative family and any rollout, and that its members learn."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rung
from helpers.batches import random_batch
from helpers.group_relative import FAMILY, MEMBERS
from helpers.losses import batch_and_logps, ours
from rung.algorithm import Algorithm
from rung.batch import Batch, Outputs, count_denominators
from rung.config import load_config, resolve
from rung.config.algorithms import make_algorithm
from rung.maths.tensors import k3
from rung.metrics import values

NAN = float("nan")
FEW = settings(max_examples=12, deadline=None)  # of each member


def credited(algorithm: Algorithm, batch: Batch) -> Batch:
    return algorithm.credit(batch, {})[0]


@MEMBERS
@FEW
@given(seed=st.integers(0, 2**31))
def test_equal_rewards_give_no_advantage_and_no_gradient(name: str, seed: int) -> None:
    algorithm = FAMILY[name].model_copy(update={"beta": 0.0})
    batch, logps = batch_and_logps(seed, None, torch.float64)
    batch = credited(algorithm, replace(batch, rewards=torch.full((batch.num_rows,), 0.3, dtype=torch.float64)))
    assert batch.advantages is not None
    assert not batch.advantages.any()
    assert not algorithm.active_rows(batch).any()
    assert not ours(algorithm, batch, logps)[1].any()


@MEMBERS
@FEW
@given(seed=st.integers(0, 2**31))
def test_at_ratio_1_the_gradient_is_that_of_reinforce(name: str, seed: int) -> None:
    """d loss / d log pi_t = - A / (what the reduction divides by); VESPO, CISPO and GMPO included."""
    algorithm = FAMILY[name].model_copy(update={"beta": 0.0})
    batch, logps = batch_and_logps(seed, None, torch.float64)
    batch = credited(algorithm, replace(batch, old_logps=logps))
    assert batch.advantages is not None
    rows, lengths = batch.num_rows, batch.loss_mask.sum(1)[:, None]
    divisors: dict[str, torch.Tensor | float] = {
        "row_mean": rows * lengths,
        "row_sum": rows,
        "token_mean": batch.loss_mask.sum(),
        "constant": rows * batch.max_completion_length,
    }
    # A row's gradient by a product of ratios is A for each token; by their geometric mean A / length.
    divisor = divisors[algorithm.reduction] if name != "rloo" else rows
    divisor = divisor if name != "luspo" else rows
    _, gradient = ours(algorithm, batch, logps)
    torch.testing.assert_close(gradient, -batch.advantages / divisor)


@MEMBERS
@FEW
@given(seed=st.integers(0, 2**31))
def test_what_is_not_trained_changes_nothing(name: str, seed: int) -> None:
    """Any number in a column that is not trained, NaN included, leaves loss and gradient as they were."""
    algorithm = FAMILY[name].model_copy(update={"beta": 0.1})
    batch, logps = batch_and_logps(seed, None, torch.float64)
    trained = random_batch(torch.Generator().manual_seed(seed), rows=(2, 4), length=(1, 9)).loss_mask
    batch = replace(batch, loss_mask=trained)
    spoilt = replace(
        batch,
        old_logps=batch.old_logps.masked_fill(~trained, NAN),  # type: ignore[union-attr]
        ref_logps=batch.ref_logps.masked_fill(~trained, NAN),  # type: ignore[union-attr]
    )
    batch, spoilt = credited(algorithm, batch), credited(algorithm, spoilt)
    torch.testing.assert_close(spoilt.advantages, batch.advantages, atol=0, rtol=0)
    loss, gradient = ours(algorithm, batch, logps)
    other, found = ours(algorithm, spoilt, logps)
    assert other == loss
    torch.testing.assert_close(found[trained], gradient[trained], atol=0, rtol=0)


@MEMBERS
@FEW
@given(seed=st.integers(0, 2**31))
def test_a_step_against_the_gradient_makes_the_better_answer_likelier(name: str, seed: int) -> None:
    """On the weights that sampled, every token of a row with A > 0 is pushed up, and of one with A < 0 down."""
    algorithm = FAMILY[name].model_copy(update={"beta": 0.0})
    batch, logps = batch_and_logps(seed, None, torch.float64)
    batch = credited(algorithm, replace(batch, old_logps=logps))
    assert batch.advantages is not None
    _, gradient = ours(algorithm, batch, logps)
    assert torch.equal(gradient.sign(), -batch.advantages.sign())


@MEMBERS
@FEW
@given(seed=st.integers(0, 2**31), data=st.data())
def test_the_order_of_groups_and_of_their_rows_changes_no_advantage(name: str, seed: int, data: st.DataObject) -> None:
    algorithm = FAMILY[name]
    batch, _ = batch_and_logps(seed, None, torch.float64)
    groups = data.draw(st.permutations(range(batch.num_groups)))
    order = torch.cat([torch.tensor(data.draw(st.permutations(range(batch.num_rows))))])
    order = torch.cat([order[batch.group_of[order] == group] for group in groups])
    shuffled = replace(
        batch,
        group_of=torch.repeat_interleave(torch.arange(len(groups)), batch.group_of.bincount()[list(groups)]),
        rewards=batch.rewards[order],  # type: ignore[index]
        loss_mask=batch.loss_mask[order],
        old_logps=batch.old_logps[order],  # type: ignore[index]
        ref_logps=batch.ref_logps[order],  # type: ignore[index]
    )
    before, after = credited(algorithm, batch).advantages, credited(algorithm, shuffled).advantages
    assert before is not None
    torch.testing.assert_close(after, before[order], atol=1e-12, rtol=0)


@MEMBERS
def test_a_row_whose_tokens_are_all_masked_counts_and_costs_nothing(name: str) -> None:
    algorithm = FAMILY[name].model_copy(update={"mask_truncated_completions": True, "beta": 0.1})
    batch, logps = batch_and_logps(0, None, torch.float64)
    cut = torch.arange(batch.num_rows) == 1
    batch = credited(algorithm, replace(batch, truncated=cut))
    assert not algorithm.active_rows(batch)[1]
    assert float(count_denominators(algorithm.terms(), batch)["policy"]) == (
        float(batch.loss_mask.sum()) if algorithm.reduction == "token_mean" else batch.num_rows
    )
    _, gradient = ours(algorithm, batch, logps)
    assert not gradient[1].any()
    assert gradient[~cut].any()


@MEMBERS
def test_metrics_of_the_kl_are_there_where_a_reference_is_kept(name: str) -> None:
    batch, logps = batch_and_logps(0, None, torch.float64)
    for beta in (0.0, 0.1):
        algorithm = FAMILY[name].model_copy(update={"beta": beta})
        assert ("reference" in algorithm.needs()) == bool(beta)
        shown = values(
            algorithm.loss(
                credited(algorithm, batch), Outputs(logps=logps, readouts={"entropy": torch.zeros_like(logps)})
            ).metrics
        )
        assert batch.ref_logps is not None
        exact = float(k3(logps, batch.ref_logps)[batch.loss_mask].mean())
        assert shown.get("kl") == (pytest.approx(exact) if beta else None)


def lower(completions: list[str], **columns: Any) -> list[float]:
    """The share of lower-case letters."""
    return [sum("a" <= letter <= "z" for letter in text) / max(len(text), 1) for text in completions]


@pytest.mark.parametrize("name", ["rloo", "cispo", "sapo", "vespo", "gmpo", "reinforce_pp", "reinforce_pp_baseline"])
def test_a_tiny_model_learns(name: str) -> None:
    stage = rung.train(
        make_algorithm({"name": name, "num_generations": 8}),
        model="tiny:llama",
        data=[{"prompt": f"number {i}"} for i in range(4)],
        rewards=lower,
        rollout={"batch_size": 4, "max_completion_length": 4},
        updates={"minibatches": 1},
        learning_rate=2e-2,
        max_steps=8,
    )
    rewards = [float(stage.source.pop_report()[0]["reward"].value() or 0) for _ in stage]
    assert sum(rewards[-2:]) > 1.5 * sum(rewards[:2])


def test_what_tells_objectives_apart_is_trained_off_policy() -> None:
    for name in ("cispo", "sapo", "vespo", "gmpo", "luspo"):
        for size in ("tiny", "small", "large"):
            assert resolve(load_config(name), size).stages[0].updates.minibatches == 4
        assert any("one update per rollout" in note for note in FAMILY[name].notes(1))
        assert not FAMILY[name].notes(4)
