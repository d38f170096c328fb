"""Run by torchrun from `test_invariance.py`: each rank trains one step on its share of the prompts.

With replicas of the weights, and with shards; there in many parts, of which one rank has more than the other.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from test_invariance import ALGORITHMS, policy_of, step_batch

from rung.loop import steps
from rung.ranks import Ranks, launched
from rung.shards import whole


def stepped(name: str, ranks: Ranks, token_budget: int) -> dict[str, torch.Tensor]:
    algorithm = ALGORITHMS[name]
    batch = step_batch(algorithm)
    mine = torch.isin(batch.prompt_of, torch.tensor(ranks.share(range(batch.num_prompts))))
    policy = policy_of(algorithm)
    policy.ranks, policy.token_budget = ranks, token_budget
    if ranks.sharded:
        policy.shard()
    share = algorithm.prepare(batch.select(mine), policy)
    optimizer = torch.optim.SGD(policy.parameters, lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    next(steps(policy, algorithm, [share], optimizer, schedule, ranks=ranks, max_grad_norm=1e9))
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.parameters]
    return {
        "gradient": torch.cat([whole(grad).flatten().double() for grad in grads]),
        "weights": torch.cat([whole(p.detach()).flatten().double() for p in policy.parameters]),
    }


with launched() as ranks:
    for name in ALGORITHMS:
        for kind, budget in (("replicas", 8192), ("shards", 40)):
            made = stepped(name, replace(ranks, sharded=kind == "shards"), budget)
            torch.save(made, Path(sys.argv[1]) / f"{name}-{kind}-{ranks.rank}.pt")
