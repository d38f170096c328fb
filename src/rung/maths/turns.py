"""Turns of a trajectory as columns: runs of trained tokens, and the rewards that follow from each of them."""

from __future__ import annotations

import torch
from torch import Tensor


def turns_of(mask: Tensor) -> Tensor:
    """The number of the turn of each token, from 0; -1 where `mask` is false. A turn is a run of true columns.

    Shapes: (N, T) bool -> (N, T) int64. Raises nothing.

    >>> turns_of(torch.tensor([[True, True, False, True]])).tolist()
    [[0, 0, -1, 1]]
    """
    before = torch.nn.functional.pad(mask, (1, 0))[:, :-1]
    return torch.where(mask, (mask & ~before).cumsum(1) - 1, -1)


def at_turn_ends(rewards: list[list[float]], mask: Tensor) -> Tensor:
    """Places the rewards of each row's turns at the last tokens of the turns; turns without a reward have 0.

    Shapes: N lists, (N, T) bool -> (N, T) float32. Rewards beyond the turns of a row are added to its last turn.

    >>> at_turn_ends([[1.0, 2.0]], torch.tensor([[True, True, False, True]])).tolist()
    [[0.0, 1.0, 0.0, 2.0]]
    """
    after = torch.nn.functional.pad(mask, (0, 1))[:, 1:]
    ends = mask & ~after
    placed = torch.zeros(mask.shape)
    for row, given in enumerate(rewards):
        columns = ends[row].nonzero()[:, 0]
        for number, reward in enumerate(given if len(columns) else ()):
            placed[row, columns[min(number, len(columns) - 1)]] += reward
    return placed


def turn_returns(rewards: Tensor, turn_rewards: Tensor) -> Tensor:
    """The return-to-go of each token: the reward of the row without the rewards of the turns before.

    `rewards` include the rewards of all turns; `turn_rewards` has these at the last tokens of the turns. Shapes: (N,),
    (N, T) -> (N, T). Raises nothing.

    >>> turn_returns(torch.tensor([3.0]), torch.tensor([[0.0, 1.0, 0.0, 2.0]])).tolist()
    [[3.0, 3.0, 2.0, 2.0]]
    """
    earned = turn_rewards.cumsum(1) - turn_rewards
    return rewards[:, None] - earned
