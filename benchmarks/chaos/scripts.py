"""The attacks that are programs of their own: rude rewards, bad numbers, and hostile files with canaries."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.chaos.frame import FAILED, HUNG, IMPOSSIBLE, PASSES, Plan, Result, Trial

HERE = Path(__file__).parent
KIND = "programs"
SCRIPTS = {
    "rude rewards": "rewards.py",
    "numbers that are not finite, and memory": "bad_numbers.py",
    "hostile files, and secrets": "hostile.py",
}
LIMIT_S, QUICK_LIMIT_S = 1500, 200


def plan(plan: Plan) -> list[Trial]:
    """One trial for each program."""
    return [partial(program, group, name, plan.quick) for group, name in SCRIPTS.items()]


def program(group: str, name: str, quick: bool, folder: Path) -> Iterator[Result]:
    """Runs one program, which prints a table and exits with another code than 0 where anything failed."""
    file = HERE / name
    if not file.exists():
        yield Result(KIND, group, name, IMPOSSIBLE, "the program is not there")
        return
    options = ["--quick"] if quick and "--quick" in file.read_text() else []
    command = [sys.executable, "-P", str(file), *options]  # -P: this folder must not shadow modules of Python
    begun = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=QUICK_LIMIT_S if quick else LIMIT_S,
            env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        )
    except subprocess.TimeoutExpired:
        yield Result(KIND, group, name, HUNG, "it reached the time limit")
        return
    last = " / ".join((done.stdout.strip().splitlines() or [""])[-3:])
    told = last if done.returncode == 0 else f"{last} {done.stderr.strip()[-300:]}"
    numbers = {"seconds": time.monotonic() - begun}
    yield Result(KIND, group, told, PASSES if done.returncode == 0 else FAILED, told, numbers)
