"""Preference pairs in a batch: splitting the two sides, and metrics. Rows alternate chosen, rejected."""

from __future__ import annotations

import torch
from torch import Tensor

from rung.batch import Batch, Outputs
from rung.maths.tensors import masked_sum
from rung.metrics import Metric, mean_of


def sides(values: Tensor) -> tuple[Tensor, Tensor]:
    """Splits alternating rows: (2 x pairs,) -> chosen (pairs,), rejected (pairs,).

    >>> sides(torch.tensor([1, 2, 3, 4]))
    (tensor([1, 3]), tensor([2, 4]))
    """
    chosen, rejected = values.view(-1, 2).unbind(1)
    return chosen, rejected


def chosen_tokens(batch: Batch) -> Tensor:
    """Number of trained tokens in chosen rows, the denominator of their negative log-likelihood."""
    return batch.loss_mask[::2].sum()


def chosen_nll(batch: Batch, outputs: Outputs) -> Tensor:
    """(pairs,) negative log-likelihood of each chosen row, summed over its trained tokens."""
    return -masked_sum(outputs.logps, batch.loss_mask)[::2]


def damped_tails(values: Tensor, mask: Tensor, alpha: float) -> Tensor:
    """Multiplies the values of trained tokens beyond the length of the pair's shorter side by `alpha`.

    Shapes: (2 x pairs, T), (2 x pairs, T) bool -> (2 x pairs, T). Source: LD-DPO, arXiv 2409.06411.

    >>> damped_tails(torch.ones(2, 3), torch.tensor([[True, True, True], [True, True, False]]), 0.5)
    tensor([[1.0000, 1.0000, 0.5000],
            [1.0000, 1.0000, 1.0000]])
    """
    shorter = torch.minimum(*sides(mask.sum(1))).repeat_interleave(2)
    return torch.where(mask.cumsum(1) > shorter[:, None], alpha * values, values)


def margins(chosen: Tensor, rejected: Tensor) -> dict[str, Metric]:
    """The metrics `rewards/...` of TRL for the implicit rewards (pairs,) of both sides, each a mean over pairs."""
    return {
        "rewards/chosen": mean_of(chosen),
        "rewards/rejected": mean_of(rejected),
        "rewards/accuracies": mean_of((chosen > rejected).float()),
        "rewards/margins": mean_of(chosen - rejected),
    }


def observed(batch: Batch, outputs: Outputs) -> dict[str, Metric]:
    """Log-probs of both sides (means over pairs), entropy and token accuracy (means over trained tokens)."""
    chosen, rejected = sides(masked_sum(outputs.logps, batch.loss_mask))
    return {
        "logps/chosen": mean_of(chosen),
        "logps/rejected": mean_of(rejected),
        "entropy": mean_of(outputs.readouts["entropy"], batch.loss_mask),
        "mean_token_accuracy": mean_of((outputs.logps >= outputs.readouts["top_logp"]).float(), batch.loss_mask),
    }
