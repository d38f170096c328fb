"""Sources of a stage's batches: a data set, or samples of the policy itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from rung.algorithm import Algorithm
from rung.batch import Batch
from rung.data.batches import Dataset
from rung.distributed.ranks import Ranks
from rung.forward.policy import Policy
from rung.metrics import Metric


class BatchSource(Protocol):
    """Yields batches that are ready for the training loop, and has a state for resuming."""

    def __iter__(self) -> Iterator[Batch]:
        """One batch per optimizer step, endlessly, after the algorithm's `prepare` and `credit`."""
        ...

    def pop_report(self) -> tuple[dict[str, Metric], list[dict[str, Any]]]:
        """Metrics over all ranks and completions to show, since the last call."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """A tree of tensors and JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state."""
        ...

    def share(self, states: Sequence[Mapping[str, Any]], ranks: Ranks) -> Mapping[str, Any]:
        """This rank's state when a run resumes with another number of ranks; `states` are those of all former ranks."""
        ...


class DatasetSource:
    """A data set whose batches also carry the no-grad outputs that the algorithm needs."""

    def __init__(self, dataset: Dataset, algorithm: Algorithm, policy: Policy):
        self.dataset, self.algorithm, self.policy = dataset, algorithm, policy

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.dataset:
            with torch.no_grad():
                prepared = self.algorithm.prepare(batch, self.policy)
            yield prepared

    def pop_report(self) -> tuple[dict[str, Metric], list[dict[str, Any]]]:
        """Nothing: a data set has no metrics or completions to report."""
        return {}, []

    def state_dict(self) -> dict[str, Any]:
        """The position in the data set."""
        return dict(self.dataset.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the position in the data set."""
        self.dataset.load_state_dict(state)

    def share(self, states: Sequence[Mapping[str, Any]], ranks: Ranks) -> Mapping[str, Any]:
        """The first state: all ranks are at the same position."""
        return states[0]
