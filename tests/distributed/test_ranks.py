"""Two processes, with replicas or with shards, make the run of one; a run goes on with more or fewer of them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from helpers.ranked_run import run_rank, write_path
from helpers.rows import read_rows

pytestmark = pytest.mark.process
STAGES = ("sft", "rm", "ppo", "dapo")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    write_path(folder)
    return folder


@pytest.fixture(scope="module")
def alone(work: Path, processes: ForkServerContext) -> Path:
    """The run of one process."""
    assert codes(start(processes, work, "alone", 1, False)) == [0]
    return work / "runs" / "alone"


def start(
    processes: ForkServerContext, work: Path, name: str, world: int, fully_shard: bool, *overrides: str
) -> Sequence[BaseProcess]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [
        processes.Process(target=run_rank, args=(work, name, rank, world, port, fully_shard, *overrides))
        for rank in range(world)
    ]
    for rank in ranks:
        rank.start()
    return ranks


def codes(ranks: Sequence[BaseProcess]) -> list[int | None]:
    for rank in ranks:
        rank.join(120)
    return [rank.exitcode for rank in ranks]


def assert_same_run(found: Path, wanted: Path, stages: tuple[str, ...] = STAGES) -> None:
    """The same draws, metrics to 1e-4 of their size (sums in another order, over several steps), the same weights."""
    for stage in stages:
        for ours, theirs in zip(*(read_rows(run / stage / "metrics.jsonl") for run in (found, wanted)), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5), stage
        ours, theirs = (load_file(run / stage / "model" / "model.safetensors") for run in (found, wanted))
        for name, weight in theirs.items():
            assert float((ours[name] - weight).norm() / weight.norm()) < 1e-4, f"{stage}: {name}"


@pytest.mark.parametrize("fully_shard", [False, True], ids=["replicas", "shards"])
def test_two_ranks_make_the_run_of_one(
    fully_shard: bool, work: Path, alone: Path, processes: ForkServerContext
) -> None:
    """SFT with early stopping, a reward model, PPO with it as critic, DAPO with PiSSA, a reference and Muon."""
    name = f"two-{fully_shard}"
    assert codes(start(processes, work, name, 2, fully_shard)) == [0, 0]
    assert_same_run(work / "runs" / name, alone)


def test_a_run_goes_on_with_another_number_of_ranks(work: Path, alone: Path, processes: ForkServerContext) -> None:
    """Two shards, stopped within a rollout; one process, stopped; two replicas to the end."""
    log = work / "runs" / "elastic" / "dapo" / "metrics.jsonl"
    for world, fully_shard, at in ((2, True, 2), (1, False, 5)):
        ranks = start(processes, work, "elastic", world, fully_shard)
        while not log.exists() or log.read_bytes().count(b"\n") < at:
            assert all(rank.is_alive() for rank in ranks)
            time.sleep(0.005)
        for rank in ranks:
            assert rank.pid
            os.kill(rank.pid, signal.SIGTERM)
        assert codes(ranks) == [75] * world
    assert codes(start(processes, work, "elastic", 2, False)) == [0, 0]
    assert_same_run(work / "runs" / "elastic", alone)


FAILS = """
name: fails
model: tiny:llama
algorithm: {name: grpo, num_generations: 2}
data: prompts.jsonl
rewards: ["./late.py:fails_on_one"]
rollout: {batch_size: 2, max_completion_length: 4}
max_steps: 2
"""
LATE = '''
import os, time

def fails_on_one(completion: str) -> float:
    """Rank 1 fails at once; rank 0 has work for an hour."""
    if os.environ["RANK"] == "1":
        {failure}
    time.sleep(3600)
    return 0.0
'''
SAYS, KILLS = "raise ValueError('no judge')", "os.kill(os.getpid(), 9)"


@pytest.mark.parametrize(
    ("launcher", "failure"), [("rung", SAYS), ("rung", KILLS), ("torchrun", KILLS)], ids=["says", "killed", "torchrun"]
)
def test_a_failure_on_one_rank_ends_all_and_names_it(launcher: str, failure: str, tmp_path: Path) -> None:
    write_path(tmp_path)
    (tmp_path / "fails.yaml").write_text(FAILS)
    (tmp_path / "late.py").write_text(LATE.format(failure=failure))
    own = ["-m", "rung", "run", "fails.yaml"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*own, "--nproc", "2"] if launcher == "rung" else [*torchrun, *own]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,  # not the 4,000 s of the deadline of a reward, nor the hour that rank 0 has work for
    )
    assert done.returncode not in (0, 75)
    assert "rank 1" in done.stderr
    if failure == SAYS:
        assert done.returncode == 2
        assert "rank 1 of 2: " in done.stderr
        assert len(done.stderr.strip().splitlines()) == 2


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    write_path(tmp_path)
    command = [sys.executable, "-m", "rung", "run", "path.yaml", "name=x", "sft.data=nothing", "--nproc", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    what, _remedy = done.stderr.strip().splitlines()
    assert "`nothing` is neither a name in `data` nor a file" in what
