"""Where a stage's batches come from: data read from disk, or the policy itself."""

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
    """Batches that are ready for the loop, and what it takes to go on with them."""

    def __iter__(self) -> Iterator[Batch]:
        """One batch an optimizer step, prepared and credited, without end."""
        ...

    def pop_report(self) -> tuple[dict[str, Metric], list[dict[str, Any]]]:
        """Metrics over all ranks and completions to show, since the last call."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """A tree of tensors and JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the state was taken."""
        ...

    def share(self, states: Sequence[Mapping[str, Any]], ranks: Ranks) -> Mapping[str, Any]:
        """The state of this rank, where `states` are those of all ranks of a run that had more or fewer."""
        ...


class DatasetSource:
    """A data set whose batches carry the no-grad outputs that the algorithm asks for."""

    def __init__(self, dataset: Dataset, algorithm: Algorithm, policy: Policy):
        self.dataset, self.algorithm, self.policy = dataset, algorithm, policy

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.dataset:
            with torch.no_grad():
                prepared = self.algorithm.prepare(batch, self.policy)
            yield prepared

    def pop_report(self) -> tuple[dict[str, Metric], list[dict[str, Any]]]:
        """Nothing: a data set does not change."""
        return {}, []

    def state_dict(self) -> dict[str, Any]:
        """Where the data set stands."""
        return dict(self.dataset.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on there."""
        self.dataset.load_state_dict(state)

    def share(self, states: Sequence[Mapping[str, Any]], ranks: Ranks) -> Mapping[str, Any]:
        """Any of them: the place is that of all ranks."""
        return states[0]
