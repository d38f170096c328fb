"""A long run in which five of a hundred steps meet a fault: a reward, a gradient or a save fails."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from statistics import median

import yaml
from benchmarks.chaos import points, trials
from benchmarks.chaos.baselines import RUN
from benchmarks.chaos.frame import FAILED, IDENTICAL, Plan, Result, Trial, prepared, problem

KIND = "a long run with faults"
STEPS, QUICK_STEPS = 1000, 60
GROWTH = 0.02
BAD_GRADIENTS, FAILED_SAVES = 0.005, 0.1
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
REWARD = '''
import random, time

def small_letters(completion: str) -> float:
    """Two in a hundred calls fail: they raise, return NaN, or hang."""
    draw = random.random()
    if draw < 0.008:
        raise ValueError("an error of the reward")
    if draw < 0.016:
        return float("nan")
    if draw < 0.018:
        time.sleep(60)
    return sum("a" <= letter <= "m" for letter in completion) / max(len(completion), 1)
'''


def plan(plan: Plan) -> list[Trial]:
    """One long run."""
    return [partial(long_run, plan.seed, QUICK_STEPS if plan.quick else STEPS)]


def long_run(seed: int, steps: int, folder: Path) -> Iterator[Result]:
    """Runs GRPO for many steps with faults, and watches its memory, its file handles and its processes."""
    prepared("grpo", folder)
    (folder / "judge.py").write_text(REWARD)
    config = yaml.safe_load((folder / "run.yaml").read_text())
    config["reward_policy"] = {"timeout_s": 1.0, "max_error_rate": 0.2}
    config["stages"][0] |= {"max_steps": steps, "save_steps": 10, "learning_rate": 1e-4}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    seen: list[tuple[int, int, int]] = []
    started = trials.start(
        trials.rung(*RUN, before=faulty(folder, seed)), folder, str(folder / "stdout"), str(folder / "stderr")
    )
    watching = threading.Event()
    watcher = threading.Thread(target=watch, args=(started.child, folder, seen, watching))
    watcher.start()
    ended = trials.finish(started, limit_s=60 + 2.0 * steps)
    watching.set()
    watcher.join()
    logged = steps_logged(folder)
    verdict, detail = problem(ended) or (IDENTICAL, "")
    if ended.code not in (None, 0) and logged == steps and not ended.traceback:
        verdict, detail = IDENTICAL, f"exit code {ended.code}: {ended.told}"  # the last save had failed
    early = [one for one in seen if 0.2 * steps <= one[0] < 0.3 * steps]
    late = [one for one in seen if one[0] >= 0.9 * steps]
    numbers = {"steps": float(logged)}
    if early and late:
        memory, handles = ([median(one[at] for one in some) for some in (early, late)] for at in (1, 2))
        growth = memory[1] / memory[0] - 1
        numbers |= {"memory growth, %": round(100 * growth, 2), "more file handles": handles[1] - handles[0]}
        if growth > GROWTH and verdict == IDENTICAL and steps == STEPS:
            verdict, detail = FAILED, f"its memory grew by {growth:.1%}"
        if handles[1] > handles[0] and verdict == IDENTICAL and steps == STEPS:
            verdict, detail = FAILED, f"{handles[1] - handles[0]:.0f} more file handles"
    yield Result(
        KIND,
        f"{steps} steps",
        ", ".join(f"{key} {value:g}" for key, value in numbers.items()),
        verdict,
        detail,
        numbers,
    )


def faulty(folder: Path, seed: int) -> Callable[[], None]:
    """A function that makes gradients and saves fail now and then in the process that calls it."""

    def before() -> None:
        import torch

        random, backward = Random(seed), torch.Tensor.backward

        def bad_backward(loss: torch.Tensor, *arguments: object, **named: object) -> None:
            backward(loss * float("nan") if random.random() < BAD_GRADIENTS else loss, *arguments, **named)  # type: ignore[arg-type]

        def act(label: str, half: Callable[[], None]) -> None:
            if label.startswith("save_file") and "/checkpoints/" in label and random.random() < FAILED_SAVES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), label)

        torch.Tensor.backward = bad_backward  # type: ignore[method-assign]
        points.install(folder / "runs", act)

    return before


def watch(child: int, folder: Path, seen: list[tuple[int, int, int]], stop: threading.Event) -> None:
    """Adds the step, the bytes of memory and the number of file handles of a process to `seen`, until it ends."""
    while not stop.wait(0.1):
        try:
            pages = int(Path(f"/proc/{child}/statm").read_text().split()[1])
            handles = len(os.listdir(f"/proc/{child}/fd"))
        except OSError:
            time.sleep(0.1)
            continue
        seen.append((steps_logged(folder), pages * PAGE_BYTES, handles))


def steps_logged(folder: Path) -> int:
    """The number of steps in the log of the run."""
    log = folder / "runs/run/grpo/metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0
