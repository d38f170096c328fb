"""Makes optimizers and learning-rate schedules, and converts optimizer state to and from parameter names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import get_scheduler

from rung.distributed.fsdp import shard_like
from rung.errors import ConfigError
from rung.registry import load_object
from rung.training.muon import Muon
from rung.utils.messages import did_you_mean

NAMED: dict[str, Callable[..., Optimizer]] = {
    "adamw": lambda groups, lr: torch.optim.AdamW(groups, lr=lr, fused=True),
    "adam": lambda groups, lr: torch.optim.Adam(groups, lr=lr, fused=True),
    "muon": Muon,
    "sgd": lambda groups, lr: torch.optim.SGD(groups, lr=lr),
}


def find_optimizer(name: str, base: Path | None = None) -> Callable[..., Optimizer]:
    """The function that makes the optimizer called `name`, from parameter groups and a learning rate.

    `name` is `adamw`, `adam`, `muon`, `sgd`, `pkg.module:fn`, or `./file.py:fn` relative to `base`. Raises ConfigError
    for an unknown name or an object that is not callable.
    """
    if name in NAMED:
        return NAMED[name]
    if ":" not in name:
        raise ConfigError(
            f"there is no optimizer `{name}`", f"{did_you_mean(name, NAMED)}, `pkg.module:fn`, `./file.py:fn`"
        )
    found = load_object(name, base)
    if not callable(found):
        raise ConfigError(
            f"optimizer `{name}` is not a function", "name a function of parameter groups and a learning rate"
        )
    return cast(Callable[..., Optimizer], found)


def make_optimizer(
    make: Callable[..., Optimizer],
    parameters: Mapping[str, Parameter],
    *,
    hidden: Collection[str] = (),
    learning_rate: float,
    weight_decay: float,
) -> Optimizer:
    """An optimizer with up to three parameter groups: hidden matrices, other matrices, and vectors (norms, biases).

    Weight decay applies to matrices only. `make` is called with the groups and the learning rate. `hidden` has the
    names of the matrices between embeddings and head; their group is marked `"hidden": True`, for optimizers such as
    Muon.
    """
    inside = [parameter for name, parameter in parameters.items() if name in hidden]
    outside = {name: parameter for name, parameter in parameters.items() if name not in hidden}
    matrices = [parameter for parameter in outside.values() if parameter.dim() > 1]
    vectors = [parameter for parameter in outside.values() if parameter.dim() <= 1]
    groups = [
        {"params": inside, "weight_decay": weight_decay, "hidden": True},
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return make([group for group in groups if group["params"]], learning_rate)


def make_schedule(name: str, optimizer: Optimizer, *, warmup_steps: int, total_steps: int) -> LRScheduler:
    """The learning-rate schedule of transformers with this name: `linear`, `cosine`, `constant` and so on.

    Raises ConfigError if the schedule does not support the learning rate (`polynomial` ends at 1e-7).
    """
    try:
        return get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=total_steps)
    except ValueError as error:
        raise ConfigError(
            f"`lr_scheduler_type: {name}`: {error}", "raise `learning_rate`, or take another schedule"
        ) from None


def restore_rates(optimizer: Optimizer, schedule: LRScheduler) -> None:
    """Sets the learning rates to those of the schedule at its current step, after its state was restored.

    They are the rates that were saved, unless the number of steps of the schedule has changed since.
    """
    assert isinstance(schedule, LambdaLR), "`make_schedule` makes no other schedules"
    for group, base, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = base * factor(schedule.last_epoch)


def check_schedule(name: str, learning_rate: float) -> None:
    """Raises ConfigError if `make_schedule` would raise it for this learning rate."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=learning_rate)
    make_schedule(name, optimizer, warmup_steps=0, total_steps=1)


def state_by_name(optimizer: Optimizer, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """The optimizer's state as {parameter name: {entry: tensor or number}}."""
    return {name: dict(optimizer.state[p]) for name, p in parameters.items() if p in optimizer.state}


def load_state_by_name(optimizer: Optimizer, parameters: Mapping[str, Parameter], state: Mapping[str, Any]) -> None:
    """Restores the optimizer state that `state_by_name` returned; parameters that it lacks have no state then."""
    for parameter in parameters.values():
        optimizer.state.pop(parameter, None)
    for name, entries in state.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {key: _shard_entry(value, parameter) for key, value in entries.items()}


def _shard_entry(value: Any, parameter: Parameter) -> Any:
    """An entry of the optimizer state; if it has the shape of the parameter, it is sharded like the parameter."""
    return shard_like(parameter, value) if isinstance(value, Tensor) and value.shape == parameter.shape else value
