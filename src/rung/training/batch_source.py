"""The sources from which a stage gets its batches: the interface, and the source for a data set."""

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
    """Yields batches that are ready for the training loop, and can save and restore its position."""

    def __iter__(self) -> Iterator[Batch]:
        """Yields batches without end, one per optimizer step, after the algorithm's `prepare` and, online, `credit`."""
        ...

    def pop_report(self) -> tuple[dict[str, Metric], list[dict[str, Any]]]:
        """The metrics (over all ranks) and the completions to be logged, both since the last call."""
        ...

    def unscored(self) -> list[str]:
        """Why rows of this rank were left out of training last, one short text a row."""
        ...

    def close(self) -> None:
        """Ends what runs beside training, such as worker processes; nothing is yielded afterwards."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state, as a nested dict of tensors and JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""
        ...

    def roll_back(self, state: Mapping[str, Any]) -> None:
        """Restores the algorithm's state from one that `state_dict` returned, and keeps the position in the data."""
        ...

    def share(self, states: Sequence[Mapping[str, Any]], ranks: Ranks) -> Mapping[str, Any]:
        """This rank's state if a run is resumed with another number of ranks; `states` has those of all old ranks."""
        ...


class DatasetSource:
    """Yields the batches of a data set, with the model outputs that the algorithm's `prepare` adds."""

    def __init__(self, dataset: Dataset, algorithm: Algorithm, policy: Policy):
        self.dataset, self.algorithm, self.policy = dataset, algorithm, policy

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.dataset:
            with torch.no_grad():
                prepared = self.algorithm.prepare(batch, self.policy)
            yield prepared

    def pop_report(self) -> tuple[dict[str, Metric], list[dict[str, Any]]]:
        """Returns nothing to report, since a data set has no metrics or completions of its own."""
        return {}, []

    def unscored(self) -> list[str]:
        """Nothing, since every row of a data set is trained."""
        return []

    def close(self) -> None:
        """Nothing runs beside training on a data set."""

    def state_dict(self) -> dict[str, Any]:
        """The position in the data set."""
        return dict(self.dataset.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the position in the data set."""
        self.dataset.load_state_dict(state)

    def roll_back(self, state: Mapping[str, Any]) -> None:
        """Does nothing, since training changes nothing of a data set."""

    def share(self, states: Sequence[Mapping[str, Any]], ranks: Ranks) -> Mapping[str, Any]:
        """The first of the states, since all ranks have the same position in the data set."""
        return states[0]
