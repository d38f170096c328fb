"""A stage made ready: what it trains with, step by step, and the state that carries it over a restart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedTokenizerBase

from rung import rng
from rung.algorithm import Algorithm
from rung.batch import Batch
from rung.data.report import Report
from rung.errors import ConfigError, UserError
from rung.loop import Step, steps
from rung.optimizers import load_state_by_name, state_by_name
from rung.policy import Policy
from rung.ranks import Ranks
from rung.sources import Source
from rung.state import flatten, unflatten

MAX_BAD_STEPS = 3  # steps in a row with a gradient that is not finite


@dataclass
class Stage:
    """Iterate to train; `state` and `load` carry the stage over a restart.

    `held_out` are the batches that early stopping reads; they never meet the optimizer.
    """

    name: str
    policy: Policy
    algorithm: Algorithm
    tokenizer: PreTrainedTokenizerBase
    source: Source
    optimizer: Optimizer
    schedule: LRScheduler
    ranks: Ranks
    total_steps: int
    max_grad_norm: float
    steps_per_epoch: float
    report: Report
    held_out: list[Batch]
    step: int = 0
    num_tokens: int = 0
    bad_steps: int = 0

    def __iter__(self) -> Iterator[Step]:
        """Steps that are still to do. Raises UserError after three gradients in a row that are not finite."""
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
            step = next(trained)
            self.step += 1
            self.num_tokens += step.num_tokens
            self.bad_steps = 0 if step.stepped else self.bad_steps + 1
            yield step
            if self.bad_steps >= MAX_BAD_STEPS:
                what = f"stage `{self.name}`, step {self.step}: no finite gradient in {MAX_BAD_STEPS} steps running"
                raise UserError(what, "lower `learning_rate` or `max_grad_norm`; the weights are those of before")

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs, as a tree; a collective of all ranks."""
        parameters = self.policy.named_parameters()
        tensors, values = flatten({"source": self.source.state_dict(), "rng": rng.capture()})
        sources = zip(self.ranks.gather_tensors(tensors), self.ranks.gather(values), strict=True)
        return {
            "step": self.step,
            "num_tokens": self.num_tokens,
            "bad_steps": self.bad_steps,
            "weights": dict(parameters),
            "optimizer": state_by_name(self.optimizer, parameters),
            "schedule": self.schedule.state_dict(),
            "learning_rates": [group["lr"] for group in self.optimizer.param_groups],
            "ranks": [unflatten(*source) for source in sources],
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken. Raises ConfigError where the number of ranks has changed."""
        if len(state["ranks"]) != self.ranks.world:
            what = f"stage `{self.name}` was saved by {len(state['ranks'])} ranks, not {self.ranks.world}"
            raise ConfigError(what, "resume with the same number of processes, or start afresh with `rung run --new`")
        self.step, self.num_tokens, self.bad_steps = state["step"], state["num_tokens"], state["bad_steps"]
        parameters = self.policy.named_parameters()
        for name, weight in state["weights"].items():
            parameters[name].copy_(weight)
        load_state_by_name(self.optimizer, parameters, state["optimizer"])
        self.schedule.load_state_dict(dict(state["schedule"]))
        for group, rate in zip(self.optimizer.param_groups, state["learning_rates"], strict=True):
            group["lr"] = rate
        self.policy.reference_is_start = False
        own = state["ranks"][self.ranks.rank]
        self.source.load_state_dict(own["source"])
        rng.restore(own["rng"])
