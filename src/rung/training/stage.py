"""A stage that is ready to train, with its policy, data, optimizer and schedule; it can be saved and resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedTokenizerBase

from rung.algorithm import Algorithm
from rung.batch import Batch
from rung.data.report import DataReport
from rung.distributed.fsdp import all_finite, full_tensor, shard_like
from rung.distributed.ranks import Ranks
from rung.errors import EmptyStepsError
from rung.forward.policy import Policy
from rung.training import rng_state as rng
from rung.training.batch_source import BatchSource
from rung.training.loop import Step, steps
from rung.training.optimizers import load_state_by_name, restore_rates, state_by_name
from rung.training.run_state import flatten, unflatten
from rung.training.skipped_steps import SkippedSteps, non_finite_error

NAMED_REASONS = 3  # rows whose reason an error gives


@dataclass
class Stage:
    """A stage that trains while you iterate over it; `state` and `load` save and restore its state.

    `held_out` has the validation batches for early stopping, which are never trained on.
    """

    name: str
    policy: Policy
    algorithm: Algorithm
    tokenizer: PreTrainedTokenizerBase
    source: BatchSource
    optimizer: Optimizer
    schedule: LRScheduler
    ranks: Ranks
    total_steps: int
    max_grad_norm: float
    steps_per_epoch: float
    report: DataReport
    held_out: list[Batch]
    max_empty_steps: int = 20
    step: int = 0
    num_tokens: int = 0
    empty_steps: int = 0
    skipped: SkippedSteps = field(default_factory=SkippedSteps)

    def __iter__(self) -> Iterator[Step]:
        """Trains the remaining steps and yields the result of each.

        A step whose loss or gradient is not finite is skipped. Raises NonFiniteError after three such steps in a row,
        or when they are more than 1 % of the steps (and at least three), after which `roll_back` and another iteration
        go on; also if the weights are not finite after the last step. Raises EmptyStepsError after `max_empty_steps`
        consecutive steps without anything to train, and MemoryLimitError if a single row does not fit into memory.
        """
        trained = steps(
            self.policy,
            self.algorithm,
            self.source,
            self.optimizer,
            self.schedule,
            ranks=self.ranks,
            max_grad_norm=self.max_grad_norm,
        )
        while self.step < self.total_steps:
            self.skipped.check(self._place)  # here, so that a stage that was saved with too many is not trained on
            step = next(trained)
            self.step += 1
            self.num_tokens += step.num_tokens
            self.policy.update_reference(self.step)
            self.empty_steps = self.empty_steps + 1 if step.empty else 0
            if not step.empty:
                self.skipped.count(self.step, step.stepped)
            yield step
            if self.empty_steps >= self.max_empty_steps:
                raise self._nothing_to_train(step.empty)
        self.skipped.check(self._place)
        if not self.ranks.agree(all_finite(self.policy.parameters)):
            raise non_finite_error(f"{self._place}: the weights are not finite")

    @property
    def _place(self) -> str:
        return f"stage `{self.name}`, step {self.step}"

    def _nothing_to_train(self, last: str) -> EmptyStepsError:
        """The error for too many empty steps in a row; a collective over all ranks."""
        reasons = [reason for share in self.ranks.gather(self.source.unscored()) for reason in share][:NAMED_REASONS]
        what = f"{self._place}: nothing to train in {self.empty_steps} consecutive steps; {last}"
        remedy = "mend these rows or the reward, or raise `max_empty_steps` to go on with other rows"
        return EmptyStepsError("; ".join([what, *reasons]), f"{remedy}; a larger length limit needs `--new`")

    def state(self) -> dict[str, Any]:
        """The state from which training can be resumed, as a nested dict; called by all ranks, complete on rank 0."""
        parameters = self.policy.named_parameters()
        tensors, values = flatten({"source": self.source.state_dict(), "rng": rng.capture()})
        sources = zip(self.ranks.gather_tensors(tensors), self.ranks.gather(values), strict=True)
        return {
            "step": self.step,
            "num_tokens": self.num_tokens,
            "empty_steps": self.empty_steps,
            "skipped": self.skipped.state_dict(),
            "token_budget": {"set": self.policy.token_budget, "lowered": self.policy.lowered_budget},
            "weights": self._gathered(parameters),
            "reference": self._gathered(self.policy.moving_reference()),
            "optimizer": {n: self._gathered(own) for n, own in state_by_name(self.optimizer, parameters).items()},
            "schedule": self.schedule.state_dict(),
            "ranks": [unflatten(*source) for source in sources],
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """Restores a state that `state` returned; the number of ranks may be another one than at that time."""
        self.step, self.num_tokens = state["step"], state["num_tokens"]
        # these are absent in checkpoints of earlier versions
        self.empty_steps = state.get("empty_steps", 0)
        self.skipped.load_state_dict(state.get("skipped", {}))
        budget = state.get("token_budget", {"set": None})
        self.policy.lowered_budget = budget["lowered"] if budget["set"] == self.policy.token_budget else None
        self._load_trained(state)
        self.schedule.load_state_dict(dict(state["schedule"]))
        restore_rates(self.optimizer, self.schedule)
        sources = [saved["source"] for saved in state["ranks"]]
        same = len(sources) == self.ranks.world
        self.source.load_state_dict(sources[self.ranks.rank] if same else self.source.share(sources, self.ranks))
        if self.ranks.rank < len(sources):
            rng.restore(state["ranks"][self.ranks.rank]["rng"])

    @torch.no_grad()
    def roll_back(self, state: Mapping[str, Any]) -> None:
        """Restores what training has changed (weights, moving reference, optimizer and the algorithm's state).

        The number of steps, the position in the data, the learning rate and the random states go on, so that no data is
        seen twice; a rollout that is under way is given up. `state` is one that `state` returned.
        """
        self._load_trained(state)
        self.source.roll_back(state["ranks"][0]["source"])
        self.skipped.rolled_back()

    def _load_trained(self, state: Mapping[str, Any]) -> None:
        """Restores the weights, those of a moving reference, and the state of the optimizer."""
        parameters = self.policy.named_parameters()
        for mine, saved in ((parameters, state["weights"]), (self.policy.moving_reference(), state["reference"])):
            for name, weight in saved.items():
                mine[name].copy_(shard_like(mine[name], weight))
        load_state_by_name(self.optimizer, parameters, state["optimizer"])
        self.policy.reference_is_start = False

    def _gathered(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors by name, unsharded, and other values unchanged; an empty dict on ranks other than 0."""
        gathered = (
            (name, full_tensor(value) if isinstance(value, Tensor) else value) for name, value in tensors.items()
        )
        return {name: value for name, value in gathered if self.ranks.rank == 0}
