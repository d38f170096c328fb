"""Run by torchrun from `test_invariance.py`: each rank trains one step on its share of the prompts."""

import sys
from pathlib import Path

import torch
from support import gradient
from test_invariance import ALGORITHMS, policy_of, step_batch

from rung.loop import steps
from rung.ranks import launched

with launched() as ranks:
    for name, algorithm in ALGORITHMS.items():
        batch = step_batch(algorithm)
        mine = torch.isin(batch.prompt_of, torch.tensor(ranks.share(range(batch.num_prompts))))
        policy = policy_of(algorithm)
        policy.ranks = ranks
        share = algorithm.prepare(batch.select(mine), policy)
        optimizer = torch.optim.SGD(policy.parameters, lr=0.1)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
        step = next(steps(policy, algorithm, [share], optimizer, schedule, ranks=ranks, max_grad_norm=1e9))
        weights = torch.cat([p.detach().flatten().double() for p in policy.parameters])
        torch.save({"gradient": gradient(policy), "weights": weights}, Path(sys.argv[1]) / f"{name}-{ranks.rank}.pt")
