"""The attacks that are programs of their own: rude rewards, bad numbers, and hostile files with canaries."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.chaos.frame import FAILED, HUNG, IMPOSSIBLE, PASSES, Plan, Result, Trial

HERE = Path(__file__).parent
KIND = "programs"
RUDE = ("sleeps", "spins_in_c", "ignores_sigterm", "async_blocks")
SCRIPTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "rude rewards": ("rewards.py", ("--explicit-only", "--only", *RUDE)),
    "numbers that are not finite, and memory": ("bad_numbers.py", ("sft",)),
    "hostile files, and secrets": ("hostile.py", ()),
}
"""The program of each group, and its options in the short plan."""
LIMIT_S, QUICK_LIMIT_S = 1500, 200


def plan(plan: Plan) -> list[Trial]:
    """One trial for each program."""
    return [
        partial(program, group, name, options if plan.quick else (), QUICK_LIMIT_S if plan.quick else LIMIT_S)
        for group, (name, options) in SCRIPTS.items()
    ]


def program(group: str, name: str, options: Sequence[str], limit_s: float, folder: Path) -> Iterator[Result]:
    """Runs one program, which prints a table and exits with another code than 0 where anything failed."""
    file = HERE / name
    if not file.exists():
        yield Result(KIND, group, name, IMPOSSIBLE, "the program is not there")
        return
    command = [sys.executable, "-P", str(file), *options]  # -P: this folder must not shadow modules of Python
    begun = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=limit_s,
            env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        )
    except subprocess.TimeoutExpired:
        yield Result(KIND, group, name, HUNG, "it reached the time limit")
        return
    last = " / ".join((done.stdout.strip().splitlines() or [""])[-3:])
    told = last if done.returncode == 0 else f"{last} {done.stderr.strip()[-300:]}"
    numbers = {"seconds": time.monotonic() - begun}
    yield Result(KIND, group, told, PASSES if done.returncode == 0 else FAILED, told, numbers)
