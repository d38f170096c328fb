"""Early stopping: computes the validation loss on held-out rows, and keeps the weights with the lowest loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rung.algorithm import Algorithm
from rung.batch import Batch, count_denominators
from rung.distributed.fsdp import full_tensor, shard_like
from rung.distributed.ranks import Ranks
from rung.errors import DataError
from rung.forward.memory import within_memory
from rung.forward.policy import Policy
from rung.training.loop import step_denominators


@torch.no_grad()
def validation_loss(policy: Policy, algorithm: Algorithm, batches: Sequence[Batch], ranks: Ranks) -> float:
    """The loss over all held-out batches, computed as if they were one optimizer step, but without a gradient."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    for batch in batches:
        if empty := step_denominators(algorithm, batch, Ranks())[1]:
            raise DataError(f"a held-out batch has nothing to train: {empty}", "remove them, and start with `--new`")
        batch = algorithm.prepare(batch, policy)
        for name, amount in count_denominators(algorithm.terms(), batch).items():
            counts[name] = counts.get(name, torch.tensor(0.0)) + amount
        unit, add = algorithm.keep_together, partial(_add_terms, sums, policy, algorithm, batch)
        sums = within_memory(policy, batch, unit, add)
    sums, counts = ranks.sum(sums), ranks.sum(counts)
    return sum(float(sums[name] / counts[name]) for name in sums)


def _add_terms(sums: Mapping[str, Tensor], policy: Policy, algorithm: Algorithm, batch: Batch) -> dict[str, Tensor]:
    """The sums with the loss terms of a batch added, in float64."""
    added = dict(sums)
    for part, outputs in policy.parts(batch, algorithm):
        for name, term in algorithm.loss(part, outputs).terms.items():
            added[name] = added.get(name, torch.tensor(0.0)) + term.double().cpu()
    return added


@dataclass(slots=True)
class BestWeights:
    """The lowest validation loss so far, and the weights with this loss.

    A loss is an improvement if it is finite, and lower than the best one by more than `threshold`. `misses` is the
    number of evaluations since the last improvement; when it reaches `patience`, `exhausted` is true.
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
        """Records the loss of an evaluation, and copies the weights of the policy if the loss is an improvement."""
        if math.isfinite(loss) and loss < self.loss - self.threshold:
            self.loss, self.misses = loss, 0
            self.weights = {name: parameter.detach().clone() for name, parameter in policy.named_parameters().items()}
        else:
            self.misses += 1

    @torch.no_grad()
    def restore(self, policy: Policy) -> None:
        """Sets the policy to the best weights; does nothing if no evaluation was recorded."""
        parameters = policy.named_parameters()
        for name, weight in self.weights.items():
            parameters[name].copy_(shard_like(parameters[name], weight))

    def state_dict(self) -> dict[str, Any]:
        """The state, as a nested dict of tensors and JSON values; a collective operation, called by all ranks."""
        loss = None if self.loss == float("inf") else self.loss
        weights = {name: full_tensor(weight) for name, weight in self.weights.items()}
        return {"loss": loss, "misses": self.misses, "weights": weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""
        self.loss = float("inf") if state["loss"] is None else state["loss"]
        self.misses, self.weights = state["misses"], dict(state["weights"])
