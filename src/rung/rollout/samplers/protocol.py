"""The interface of a sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from rung.batch import Completion
from rung.rollout.philox import Key
from rung.sampling import Sampling

Prompt = tuple[int, ...]


class Sampler(Protocol):
    """Samples completions of prompts, from the policy itself or from a server with a copy of it.

    A class that a config names also has a `name`, and takes the model that is trained, its tokenizer, and the dtype in
    which training computes log-probs: `MySampler(model, tokenizer, training_dtype=torch.float32)`.
    """

    def sample(
        self, prompts: Sequence[Prompt], k: int, *, visits: Sequence[int], key: Key, sampling: Sampling
    ) -> list[list[Completion]]:
        """`k` completions of each prompt, in order; `visits` (one per prompt) and `key` key the random draws."""
        ...

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Loads the policy's current weights before it samples again.

        `weights` are the trained parameters by their names in the constructor's model; `version` is the number of
        optimizer steps taken. The same version may be loaded several times.
        """
        ...

    def exact(self, sampling: Sampling) -> bool:
        """Whether the returned log-probs can be used as old log-probs in training."""
        ...
