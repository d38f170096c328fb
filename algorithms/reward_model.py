"""Reward model: learns a scalar score of an answer from preferences between answers to the same prompt.

    loss = mean over groups of mean over its pairs [ - log sigma(s_i - s_j - margin) + c (s_i + s_j)^2 ]

s is the output of a linear head without bias at the last attended token, in float32. Rows of a group are answers to one
prompt, ordered by preference; i is before j in every pair. A preference pair is a group of two rows.

Source: Ouyang et al. 2022 (arXiv 2203.02155), eq. 1: all C(K,2) pairs of a prompt in one batch, weight 1/C(K,2) each.
`margin`: Touvron et al. 2023 (arXiv 2307.09288), eq. 2. Centering (c = `center_rewards_coefficient`): Eisenstein et al.
2023 (arXiv 2312.09244).

How we differ from TRL: K answers to a prompt may be ranked, not only two; the score is read at the last attended token,
regardless of its id; with LoRA the head is always trained.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from rung.algorithm import Algorithm, DataKind, Need
from rung.batch import Batch, Denominator, Loss, Outputs
from rung.metrics import Metric, mean_of, std_of


class RewardModel(Algorithm):
    """Bradley-Terry reward model on preference pairs or ranked groups of any size."""

    name: ClassVar = "reward_model"
    keep_together: ClassVar = "group"
    reads_logps: ClassVar = False

    center_rewards_coefficient: NonNegativeFloat = 0.0
    """Coefficient of the squared sum of a pair's scores in the loss; 0.01 is usual for a reward model used in RL."""

    def data_kind(self) -> DataKind:
        """Preference pairs, or rankings of any size."""
        return "pairs"

    def needs(self) -> frozenset[Need]:
        """A score head on the last token."""
        return frozenset({"score_head"})

    def terms(self) -> Mapping[str, Denominator]:
        """The Bradley-Terry loss, a mean over groups."""
        return {"pairs": "groups"}

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The summed loss over the groups of a part; the loss of a group is the mean over its pairs."""
        assert outputs.scores is not None
        better, worse, weight = ordered_pairs(batch.group_of)
        chosen, rejected = outputs.scores.index_select(0, better), outputs.scores.index_select(0, worse)
        margin = batch.extras["margin"][better] if "margin" in batch.extras else torch.zeros_like(chosen)
        pulled = self.center_rewards_coefficient * (chosen + rejected) ** 2
        losses = bradley_terry(chosen, rejected, margin) + pulled
        return Loss({"pairs": (weight * losses).sum()}, preferences(chosen, rejected))


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
    """- log sigma(chosen - rejected - margin) of each pair; all (pairs,).

    >>> bradley_terry(torch.tensor([1.5, 1.5]), torch.tensor([0.5, 0.5]), torch.tensor([0.0, 0.5]))
    tensor([0.3133, 0.4741])
    """
    return -logsigmoid(chosen - rejected - margin)


def ordered_pairs(group_of: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of rows in the same group: the better row, the worse row, and the weight 1/C(K,2) of the pair.

    (N,) int64 -> three (pairs,); rows of a group are adjacent and ordered by preference.

    >>> better, worse, weight = ordered_pairs(torch.tensor([0, 0, 1, 1, 1]))
    >>> list(zip(better.tolist(), worse.tolist()))
    [(0, 1), (2, 3), (2, 4), (3, 4)]
    >>> weight
    tensor([1.0000, 0.3333, 0.3333, 0.3333])
    """
    same = group_of[:, None] == group_of
    better, worse = same.triu(1).nonzero(as_tuple=True)
    size = same.sum(1)[better]
    return better, worse, 2.0 / (size * (size - 1))


def preferences(chosen: Tensor, rejected: Tensor) -> dict[str, Metric]:
    """Metrics of the scores of pairs: means and standard deviations; `accuracy` and `margin` are named as in TRL."""
    return {
        "accuracy": mean_of((chosen > rejected).float()),
        "margin": mean_of(chosen - rejected),
        "rewards/chosen": mean_of(chosen),
        "rewards/rejected": mean_of(rejected),
        "rewards/chosen_std": std_of(chosen),
        "rewards/rejected_std": std_of(rejected),
    }
