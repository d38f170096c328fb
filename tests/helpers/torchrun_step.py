"""A program for torchrun: each rank trains one step of every algorithm on its share of the prompts.

With replicas of the weights, and with shards; there in many parts, of which one rank has more than the other. It
saves the summed gradient and the weights after the step in the folder that it is given.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from helpers.steps import ALGORITHMS, policy_for, step_batch
from rung.batch import Batch, Loss, Outputs
from rung.distributed.fsdp import full_tensor
from rung.distributed.ranks import Ranks, init_ranks
from rung.training.loop import steps


def one_step(name: str, ranks: Ranks, token_budget: int) -> dict[str, torch.Tensor]:
    algorithm = ALGORITHMS[name]
    batch = step_batch(algorithm)
    mine = torch.isin(batch.prompt_of, torch.tensor(ranks.share(range(batch.num_prompts))))
    policy = policy_for(algorithm)
    policy.ranks, policy.token_budget = ranks, token_budget
    if ranks.sharded:
        policy.shard()
    share = algorithm.prepare(batch.select(mine), policy)
    optimizer = torch.optim.SGD(policy.parameters, lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    next(steps(policy, algorithm, [share], optimizer, schedule, ranks=ranks, max_grad_norm=1e9))
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.parameters]
    return {
        "gradient": torch.cat([full_tensor(grad).flatten().double() for grad in grads]),
        "weights": torch.cat([full_tensor(p.detach()).flatten().double() for p in policy.parameters]),
    }


def spoilt_step(name: str, ranks: Ranks) -> dict[str, torch.Tensor]:
    """A step in which the loss of rank 1 alone is NaN, and its gradient finite: the weights before and after it."""
    real = type(ALGORITHMS[name]).loss

    def loss(self: Any, batch: Batch, outputs: Outputs) -> Loss:
        whole = real(self, batch, outputs)
        return Loss({term: value + (torch.nan if ranks.rank else 0) for term, value in whole.terms.items()})

    start = policy_for(ALGORITHMS[name])
    with mock.patch.object(type(ALGORITHMS[name]), "loss", loss):
        after = one_step(name, ranks, 8192)["weights"]
    return {"before": torch.cat([p.detach().flatten().double() for p in start.parameters]), "after": after}


with init_ranks() as ranks:
    for name in ("sft", "dpo", "grpo", "ppo"):
        torch.save(spoilt_step(name, ranks), Path(sys.argv[1]) / f"{name}-spoilt-{ranks.rank}.pt")
    for name in ALGORITHMS:
        for kind, budget in (("replicas", 8192), ("shards", 40)):
            made = one_step(name, replace(ranks, sharded=kind == "shards"), budget)
            torch.save(made, Path(sys.argv[1]) / f"{name}-{kind}-{ranks.rank}.pt")
