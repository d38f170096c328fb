"""Two processes that torchrun starts make the step of one."""

import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from helpers.certificate import Certify
from helpers.policies import relative_error
from helpers.steps import ALGORITHMS, after_one_step, step_batch


@pytest.mark.process
def test_two_ranks_make_the_step_of_one(tmp_path: Path, certify: Certify) -> None:
    """Every rank takes its prompts of the same batch; the summed gradient and the weights are those of one process.

    Whether ranks hold replicas of the weights or shards.
    """
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "helpers.torchrun_step"]
    command = [sys.executable, "-m", *launch, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, algorithm in ALGORITHMS.items():
        wanted, weights = after_one_step(algorithm, step_batch(algorithm))
        for kind, rank in product(("replicas", "shards"), range(2)):
            result = torch.load(tmp_path / f"{name}-{kind}-{rank}.pt", weights_only=True)
            assert relative_error(result["gradient"], wanted) < 1e-6, (name, kind)
            assert relative_error(result["weights"], weights) < 1e-6, (name, kind)
            apart = max(relative_error(result["gradient"], wanted), relative_error(result["weights"], weights))
            certify(algorithm.name, "invariance", apart, of="ranks")
    for name, rank in product(("sft", "dpo", "grpo", "ppo"), range(2)):
        spoilt = torch.load(tmp_path / f"{name}-spoilt-{rank}.pt", weights_only=True)
        assert torch.equal(spoilt["before"], spoilt["after"]), f"{name}: a loss of NaN on one rank changed rank {rank}"
