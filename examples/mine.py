"""An algorithm in a file of one's own: `algorithm: {name: ./examples/mine.py:BestOfGroup}` in a config is all it takes.

It imitates the best samples of each group: rejection sampling, written as a loss.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field

from rung.algorithm import Algorithm, DataKind, State
from rung.batch import Batch, Denominator, Loss, Outputs
from rung.maths.advantages import is_mixed
from rung.maths.tensors import masked_sum


class BestOfGroup(Algorithm):
    """The negative log-likelihood of each prompt's best samples, where its samples differ in reward."""

    name: ClassVar = "best_of_group"

    num_generations: int = Field(default=8, ge=2)
    """Completions sampled for each prompt."""

    def data_kind(self) -> DataKind:
        """Prompts to sample from."""
        return "prompts"

    def terms(self) -> Mapping[str, Denominator]:
        """A mean over trained tokens."""
        return {"nll": "tokens"}

    def samples_per_prompt(self) -> int:
        """`num_generations`."""
        return self.num_generations

    def credit(self, rollout: Batch, state: State) -> tuple[Batch, State]:
        """1 for the best rows of a mixed group, 0 for all others."""
        assert rollout.rewards is not None
        best = torch.full((rollout.num_groups,), -torch.inf)
        best = best.scatter_reduce(0, rollout.group_of, rollout.rewards, "amax")[rollout.group_of]
        mixed = is_mixed(rollout.rewards, rollout.group_of)[rollout.group_of]
        winners = (rollout.rewards == best) & mixed
        return replace(rollout, advantages=winners[:, None] * rollout.loss_mask.float()), state

    def active_rows(self, batch: Batch) -> torch.Tensor:
        """The best rows: only they are computed."""
        assert batch.advantages is not None
        return (batch.advantages > 0).any(1)

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The summed negative log-likelihood of the best rows."""
        return Loss({"nll": -masked_sum(outputs.logps, batch.loss_mask).sum()})
