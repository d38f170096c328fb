"""The interface of samplers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from rung.batch import Completion
from rung.rollout.philox import Key
from rung.sampling import Sampling

Prompt = tuple[int, ...]


class Sampler(Protocol):
    """Samples completions of prompts, from the policy itself or from a server that has a copy of the policy.

    A sampler class that a config refers to must have an attribute `name`, and is constructed with the model that is
    trained, its tokenizer, and the dtype in which training computes log-probs:
    `MySampler(model, tokenizer, training_dtype=torch.float32)`.
    """

    def sample(
        self, prompts: Sequence[Prompt], k: int, *, visits: Sequence[int], key: Key, sampling: Sampling
    ) -> list[list[Completion]]:
        """`k` completions of each prompt, in the order of the prompts.

        The random draws should depend only on `key`, the prompt's number in `visits`, and the number of the sample.
        """
        ...

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Loads the current weights of the policy; called each time before completions are sampled.

        `weights` are the trained parameters, by their names in the model that the constructor received; `version` is
        the number of optimizer steps so far. The same version may be loaded several times.
        """
        ...

    def exact(self, sampling: Sampling) -> bool:
        """Whether the returned log-probs can be used as old log-probs in training."""
        ...
