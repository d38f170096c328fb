"""Early stopping: the validation loss on held-out rows, and the weights with the lowest one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rung.algorithm import Algorithm
from rung.batch import Batch, count_denominators
from rung.distributed.fsdp import full_tensor, shard_like
from rung.distributed.ranks import Ranks
from rung.forward.policy import Policy
from rung.training.loop import step_denominators


@torch.no_grad()
def validation_loss(policy: Policy, algorithm: Algorithm, batches: Sequence[Batch], ranks: Ranks) -> float:
    """The loss over held-out batches, computed like one step without a gradient; dropout is off as in training."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    for batch in batches:
        step_denominators(algorithm, batch, Ranks())  # raises for a batch without trained tokens
        batch = algorithm.prepare(batch, policy)
        for name, amount in count_denominators(algorithm.terms(), batch).items():
            counts[name] = counts.get(name, torch.tensor(0.0)) + amount
        for part, outputs in policy.parts(batch, algorithm):
            for name, term in algorithm.loss(part, outputs).terms.items():
                sums[name] = sums.get(name, torch.tensor(0.0)) + term.double().cpu()
    sums, counts = ranks.sum(sums), ranks.sum(counts)
    return sum(float(sums[name] / counts[name]) for name in sums)


@dataclass(slots=True)
class BestWeights:
    """The lowest validation loss, its weights, and the number of evaluations since without an improvement.

    A loss is an improvement if it is below the best one by more than `threshold`; after `patience` consecutive
    evaluations without an improvement, `exhausted` is true.
    """

    threshold: float
    patience: int
    loss: float = float("inf")
    misses: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def exhausted(self) -> bool:
        """Whether training should stop."""
        return self.misses >= self.patience

    def record(self, loss: float, policy: Policy) -> None:
        """Records an evaluation; the weights are copied if its loss is an improvement."""
        if loss < self.loss - self.threshold:
            self.loss, self.misses = loss, 0
            self.weights = {name: parameter.detach().clone() for name, parameter in policy.named_parameters().items()}
        else:
            self.misses += 1

    @torch.no_grad()
    def restore(self, policy: Policy) -> None:
        """Restores the best weights; does nothing before the first evaluation."""
        parameters = policy.named_parameters()
        for name, weight in self.weights.items():
            parameters[name].copy_(shard_like(parameters[name], weight))

    def state_dict(self) -> dict[str, Any]:
        """A tree of tensors and JSON values; a collective."""
        loss = None if self.loss == float("inf") else self.loss
        weights = {name: full_tensor(weight) for name, weight in self.weights.items()}
        return {"loss": loss, "misses": self.misses, "weights": weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.loss = float("inf") if state["loss"] is None else state["loss"]
        self.misses, self.weights = state["misses"], dict(state["weights"])
