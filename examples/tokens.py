"""Token-level credit: `algorithm: {name: ./examples/tokens.py:Discounted}` gives each token an advantage of its own.

GRPO gives every token of a completion the same advantage. Here the last token gets all of it and each token before it
a little less, which suits answers whose result stands at the end. Any source of (N, T) advantages works the same way: a
verifier of single steps, a score for each sentence, a critic.
"""

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field

from rung.algorithm import State
from rung.algorithms.gspo import GSPOToken
from rung.batch import Batch


class Discounted(GSPOToken):
    """GSPO-token with advantages that fade with the distance from the end."""

    name: ClassVar = "discounted"

    discount: float = Field(default=0.9, gt=0, le=1)
    """The factor of an advantage for each token towards the beginning; 1 is GSPO-token itself."""

    def credit(self, rollout: Batch, state: State) -> tuple[Batch, State]:
        """GRPO's advantages times `discount` for each trained token that still follows."""
        rollout, state = super().credit(rollout, state)
        assert rollout.advantages is not None
        trained = rollout.loss_mask
        following = trained.sum(1, keepdim=True) - trained.cumsum(1)
        fading = torch.where(trained, self.discount**following, 0)
        return replace(rollout, advantages=rollout.advantages * fading), state
