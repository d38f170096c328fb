"""Credit by token: `algorithm: {name: ./examples/tokens.py:Discounted}` gives each token an advantage of its own.

GRPO hands the advantage of a completion to all of its tokens alike. Here the last token has all of it and each one
before it a little less: where the answer stands at the end, its tokens are blamed or praised before the small talk.
Anything that fills (N, T) will do: a verifier's word on each step, a score of each sentence, a critic.
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
    """What a token's advantage is worth one token earlier; 1 is GSPO-token itself."""

    def credit(self, rollout: Batch, state: State) -> tuple[Batch, State]:
        """GRPO's advantages times `discount` for each trained token that still follows."""
        rollout, state = super().credit(rollout, state)
        assert rollout.advantages is not None
        trained = rollout.loss_mask
        following = trained.sum(1, keepdim=True) - trained.cumsum(1)
        fading = torch.where(trained, self.discount**following, 0)
        return replace(rollout, advantages=rollout.advantages * fading), state
