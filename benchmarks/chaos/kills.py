"""SIGKILL at random instants and at every file operation; then the same command again, unattended."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.chaos import points, trials
from benchmarks.chaos.baselines import RUN, Baseline
from benchmarks.chaos.cases import ALGORITHMS
from benchmarks.chaos.frame import FAILED, IDENTICAL, REFUSED, Plan, Result, Trial, goes_on, prepared

INSTANTS, OPERATIONS = "kills at random instants", "kills at file operations"
CASES = (*ALGORITHMS, "path", "grpo, reward in a worker")
SECOND_STAGE = r"^mkdir run/dpo/\.tmp-model"  # an operation of the path at which dpo is trained and not saved
ATTEMPTS = 5
KILLS, LOST = "kills", "lost steps"
_step = re.compile(r"step-(\d+)$")


def plan(plan: Plan) -> list[Trial]:
    """The trials of both kinds of kills."""
    made: list[Trial] = []
    for name in CASES:
        baseline = plan.baselines[name]
        for number in range(4 if plan.quick else 50 if name == "path" else 32):
            made.append(partial(at_instants, plan, baseline, number))
        count = len(baseline.points)
        quick, full = (16, count) if name == "path" else (4, 50)
        chosen = plan.choice(quick if plan.quick else full, count, OPERATIONS, name)
        made += [partial(at_operation, plan, baseline, number) for number in chosen]
    return made


def at_instants(plan: Plan, baseline: Baseline, number: int, folder: Path) -> Iterator[Result]:
    """Kills a run at one instant or at several in a row, uniform in its time."""
    random = plan.random(INSTANTS, baseline.case, number)
    prepared(baseline.case, folder)
    wanted, killed, lost, seconds = random.choice((1, 1, 1, 2, 3)), [], 0, baseline.seconds
    for _ in range(ATTEMPTS):
        after = random.uniform(0, seconds)
        ended = trials.run(trials.rung(*RUN), folder, signals=[(after, signal.SIGKILL)])
        if ended.signal == signal.SIGKILL:
            killed.append(f"{after:.3f} s")
            lost = max(lost, lost_steps(folder))
        elif not killed:  # it ended before the signal: once more from its beginning
            shutil.rmtree(folder / "runs")
            seconds = ended.seconds
        if len(killed) == wanted or (killed and ended.code == 0):
            break
    yield _went_on(INSTANTS, baseline, f"killed after {', '.join(killed)}", len(killed), lost, folder)


def at_operation(plan: Plan, baseline: Baseline, number: int, folder: Path) -> Iterator[Result]:
    """Kills a run at one of its points; in one of five trials, also at a point of the resumed run."""
    random = plan.random(OPERATIONS, baseline.case, number)
    prepared(baseline.case, folder)
    at, killed, lost = [number], 0, 0
    if random.random() < 0.2:
        at.append(random.randrange(len(baseline.points)))
    for which in at:
        ended = trials.run(trials.rung(*RUN, before=killing(folder, which)), folder)
        killed += ended.signal == signal.SIGKILL
        lost = max(lost, lost_steps(folder))
    second = f", then at {baseline.points[at[1]]}" if len(at) > 1 else ""
    trial = f"point {number}: before {baseline.points[number]}{second}"
    yield _went_on(OPERATIONS, baseline, trial, killed, lost, folder)


def _went_on(kind: str, baseline: Baseline, trial: str, killed: int, lost: int, folder: Path) -> Result:
    verdict, detail = goes_on(folder, baseline)
    if verdict == REFUSED:
        verdict = FAILED  # a killed run has to go on without help
    if verdict == IDENTICAL and not killed:
        verdict, detail = FAILED, "the run was never killed"
    return Result(kind, baseline.case, trial, verdict, detail, {KILLS: killed, LOST: lost})


def killing(folder: Path, at: int, below: str = "runs") -> Callable[[], None]:
    """A function that makes the process that calls it kill itself at point `at` of its operations in a folder."""

    def before() -> None:
        seen = -1

        def act(label: str, half: Callable[[], None]) -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                half()
                os.kill(os.getpid(), signal.SIGKILL)

        points.install(folder / below, act)

    return before


def lost_steps(folder: Path) -> int:
    """How many logged steps of a killed run come after its newest checkpoint, at most over its unfinished stages."""
    most = 0
    for log in folder.glob("runs/*/*/metrics.jsonl"):
        if not (log.parent / "DONE").exists() and not (log.parent / "model").exists():
            steps = [
                int(found[1]) for path in log.parent.glob("checkpoints/step-*") if (found := _step.search(path.name))
            ]
            most = max(most, log.read_bytes().count(b"\n") - max(steps, default=0))
    return most
