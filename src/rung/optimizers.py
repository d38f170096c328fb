"""Optimizers by name or `pkg:fn`, learning-rate schedules of transformers, and optimizer state by parameter name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from rung.errors import ConfigError
from rung.registry import load_object

NAMED: dict[str, Callable[..., Optimizer]] = {
    "adamw": lambda groups, lr: torch.optim.AdamW(groups, lr=lr, fused=True),
    "adam": lambda groups, lr: torch.optim.Adam(groups, lr=lr, fused=True),
    "sgd": lambda groups, lr: torch.optim.SGD(groups, lr=lr),
}


def make_optimizer(
    name: str, parameters: Mapping[str, Parameter], *, learning_rate: float, weight_decay: float
) -> Optimizer:
    """An optimizer over two groups: matrices decay, vectors (norms, biases) do not.

    `name` is `adamw`, `adam`, `sgd`, or `pkg.module:fn` with fn(groups, lr) -> Optimizer. Raises ConfigError.
    """
    if name not in NAMED and ":" not in name:
        raise ConfigError(
            f"there is no optimizer `{name}`", f"choose one of {', '.join(NAMED)}, or give `pkg.module:fn`"
        )
    make: Any = NAMED[name] if name in NAMED else load_object(name, None)
    matrices = [parameter for parameter in parameters.values() if parameter.dim() > 1]
    vectors = [parameter for parameter in parameters.values() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return make([group for group in groups if group["params"]], learning_rate)


def make_schedule(name: str, optimizer: Optimizer, *, warmup_steps: int, total_steps: int) -> LRScheduler:
    """A schedule of transformers by its name there: `linear`, `cosine`, `constant` and so on."""
    return get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=total_steps)


def state_by_name(optimizer: Optimizer, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """The optimizer's state as {parameter name: {entry: tensor or number}}."""
    return {name: dict(optimizer.state[p]) for name, p in parameters.items() if p in optimizer.state}


def load_state_by_name(optimizer: Optimizer, parameters: Mapping[str, Parameter], state: Mapping[str, Any]) -> None:
    """The inverse of `state_by_name`."""
    for name, entries in state.items():
        optimizer.state[parameters[name]] = dict(entries)
