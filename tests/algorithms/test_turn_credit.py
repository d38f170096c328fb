"""Credit of turns, derived by hand."""

from dataclasses import replace

import pytest
import torch

from helpers.batches import random_batch
from rung.algorithms.dapo import DAPO
from rung.algorithms.grpo import GRPO
from rung.batch import Batch
from rung.config.algorithms import make_algorithm
from rung.errors import ConfigError


def trajectories() -> Batch:
    """Three rows of one prompt with the masks 110100, 110111 and 100000: two turns, two turns and one turn."""
    batch = random_batch(torch.Generator().manual_seed(0), prompts=1, length=(6, 6))
    batch = batch.select(torch.arange(3))
    trained = torch.tensor([[1, 1, 0, 1, 0, 0], [1, 1, 0, 1, 1, 1], [1, 0, 0, 0, 0, 0]]).bool()
    earned = torch.zeros(3, 6)
    earned[0, 1], earned[0, 3], earned[1, 1], earned[1, 5], earned[2, 0] = 1.0, 0.5, 0.0, 0.5, 0.25
    return replace(
        batch,
        group_of=torch.zeros(3, dtype=torch.long),
        prompt_of=torch.zeros(3, dtype=torch.long),
        completion_mask=torch.ones(3, 6).bool(),
        loss_mask=trained,
        rewards=torch.tensor([1.5, 1.5, 0.0]),
        old_logps=torch.zeros(3, 6),
        extras={"turn_rewards": earned},
    )


def test_a_turn_is_compared_with_the_same_turn_of_other_rows() -> None:
    """Turn 0: returns 1.5, 1.5, 0 with mean 1. Turn 1: 1.5 - 1 = 0.5 and 1.5 - 0 = 1.5 with mean 1."""
    algorithm = GRPO(num_generations=3, scale_rewards="none", credit_assignment="turn")
    credited, _ = algorithm.credit(trajectories(), {})
    assert credited.advantages is not None
    expected = [[0.5, 0.5, 0, -0.5, 0, 0], [0.5, 0.5, 0, 0.5, 0.5, 0.5], [-1, 0, 0, 0, 0, 0]]
    torch.testing.assert_close(credited.advantages, torch.tensor(expected))


def test_the_std_is_that_of_the_turn() -> None:
    """Turn 1: values 0.5 and 1.5 with std sqrt(0.5), so the advantages are -+ 0.5 / (0.7071 + 1e-4)."""
    credited, _ = GRPO(num_generations=3, credit_assignment="turn").credit(trajectories(), {})
    assert credited.advantages is not None
    assert credited.advantages[0, 3].item() == pytest.approx(-0.5 / (0.5**0.5 + 1e-4))
    assert credited.advantages[1, 5].item() == pytest.approx(0.5 / (0.5**0.5 + 1e-4))


def test_a_turn_that_one_row_alone_has_is_not_compared() -> None:
    batch = trajectories()
    alone = replace(batch, loss_mask=batch.loss_mask & torch.tensor([[True], [False], [True]]))
    credited, _ = DAPO(num_generations=3, credit_assignment="turn", overlong_buffer=0).credit(
        replace(alone, max_completion_length=6), {}
    )
    assert credited.advantages is not None
    assert credited.advantages[0, 3] == 0


def test_the_whole_trajectory_is_credited_by_default() -> None:
    credited, _ = GRPO(num_generations=3, scale_rewards="none").credit(trajectories(), {})
    assert credited.advantages is not None
    torch.testing.assert_close(credited.advantages[0], torch.tensor([0.5, 0.5, 0, 0.5, 0, 0]))


def test_rows_without_a_reward_are_no_baseline() -> None:
    batch = replace(trajectories(), rewards=torch.tensor([1.5, float("nan"), 0.0]))
    credited, _ = GRPO(num_generations=3, scale_rewards="none", credit_assignment="turn").credit(batch, {})
    assert credited.advantages is not None
    assert credited.advantages[:, 0].tolist() == pytest.approx([0.75, 0.0, -0.75])


def test_separate_normalisation_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a summed reward"):
        make_algorithm(
            {"name": "grpo", "credit_assignment": "turn", "multi_objective_aggregation": "normalize_then_sum"}, None
        )
