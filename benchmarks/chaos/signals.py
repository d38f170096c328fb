"""SIGTERM and SIGINT at random instants and at file operations; two in a row; while slow code of the user's runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import yaml
from benchmarks.chaos import points, trials
from benchmarks.chaos.baselines import RUN, Baseline
from benchmarks.chaos.cases import ALGORITHMS
from benchmarks.chaos.frame import FAILED, IDENTICAL, TRACEBACK, Plan, Result, Trial, goes_on, prepared
from benchmarks.chaos.trials import Ended

KIND = "signals"
STOPPED = 75
AT_ONCE_S = 2.0
STEP_S = 10.0  # a step of the slow judge: eight rows of a second each, and the two seconds
SLOW = '''
import time

def small_letters(completion: str) -> float:
    """A slow judge: a whole evaluation takes half a minute."""
    time.sleep(1.0)
    return sum("a" <= letter <= "m" for letter in completion) / max(len(completion), 1)
'''


def plan(plan: Plan) -> list[Trial]:
    """The trials of all groups."""
    made: list[Trial] = []
    for number in range(6 if plan.quick else 64):
        name = (*ALGORITHMS, "path")[number % 8]
        made.append(partial(at_instant, plan, plan.baselines[name], number))
    path = plan.baselines["path"]
    for number in plan.choice(6 if plan.quick else 100, len(path.points), KIND, "points"):
        made.append(partial(at_operation, plan, path, number))
    made += [partial(twice, plan, path, number) for number in range(2 if plan.quick else 20)]
    made += [partial(slow, plan, word, number) for word in SLOW_PLACES for number in range(1 if plan.quick else 4)]
    return made


def at_instant(plan: Plan, baseline: Baseline, number: int, folder: Path) -> Iterator[Result]:
    """One signal at a random instant: exit code 75 within two seconds, and the same command goes on."""
    random = plan.random(KIND, number)
    prepared(baseline.case, folder)
    which = random.choice((signal.SIGTERM, signal.SIGINT))
    after = random.uniform(0.0, baseline.seconds)
    ended = trials.run(trials.rung(*RUN), folder, signals=[(after, which)])
    trial = f"{baseline.case}: {which.name} after {after:.3f} s of {baseline.seconds:.2f} s"
    verdict, detail = ended_well(ended, after, folder) or goes_on(folder, baseline, other_saves=True)
    yield Result(KIND, "at a random instant", trial, verdict, detail, {"seconds": ended.seconds - after})


def stopped(ended: Ended, after: float, within: float = AT_ONCE_S) -> tuple[str, str] | None:
    """What is wrong with the end of a run that got a signal: it ends with 75 in time, or it had finished."""
    if ended.traceback:
        return TRACEBACK, ended.told
    if ended.signal is not None:
        return FAILED, f"it died of signal {ended.signal}, {ended.seconds - after:.2f} s after it"
    if ended.code not in (STOPPED, 0):
        return FAILED, f"exit code {ended.code}: {ended.told}"
    if ended.code == STOPPED and ended.seconds - after > within:
        return FAILED, f"exit code 75 only after {ended.seconds - after:.1f} s"
    return None


def ended_well(ended: Ended, after: float, folder: Path) -> tuple[str, str] | None:
    """As `stopped`, but a run that has written its last file may die of the signal while Python ends."""
    if ended.signal is not None and (folder / "runs" / "run" / "DONE").exists():
        return None
    return stopped(ended, after)


def at_operation(plan: Plan, baseline: Baseline, number: int, folder: Path) -> Iterator[Result]:
    """A signal at one of the file operations, such as those of a checkpoint or of the hand-over between stages."""
    prepared(baseline.case, folder)
    which = plan.random(KIND, "point", number).choice((signal.SIGTERM, signal.SIGINT))
    ended = trials.run(trials.rung(*RUN, before=sending(folder, number, which)), folder)
    trial = f"{baseline.case}: {which.name} before {baseline.points[number]} (point {number})"
    verdict, detail = stopped(ended, ended.seconds) or goes_on(folder, baseline, other_saves=True)
    yield Result(KIND, "at a file operation", trial, verdict, detail)


def sending(folder: Path, at: int, which: int) -> Callable[[], None]:
    """A function that makes the process that calls it send itself a signal at point `at` of its file operations."""

    def before() -> None:
        seen = -1

        def act(label: str, half: Callable[[], None]) -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                os.kill(os.getpid(), which)

        points.install(folder / "runs", act)

    return before


def twice(plan: Plan, baseline: Baseline, number: int, folder: Path) -> Iterator[Result]:
    """Two signals within 50 ms: the second ends the run at once, with exit code 75."""
    random = plan.random(KIND, "twice", number)
    prepared(baseline.case, folder)
    after = random.uniform(0.2, 0.9) * baseline.seconds
    several = [(after, signal.SIGTERM), (after + random.uniform(0.0, 0.05), signal.SIGTERM)]
    ended = trials.run(trials.rung(*RUN), folder, signals=several)
    verdict, detail = ended_well(ended, after, folder) or goes_on(folder, baseline, other_saves=True)
    if verdict == IDENTICAL and ended.code == STOPPED and ended.seconds - after > 0.75:
        verdict, detail = FAILED, f"it ended {ended.seconds - after:.2f} s after the first of two signals"
    yield Result(KIND, "twice", f"{baseline.case}: after {after:.3f} s", verdict, detail)


def slow(plan: Plan, place: str, number: int, folder: Path) -> Iterator[Result]:
    """A signal while code of the user's takes a second a row: it ends at once, or in a rollout after its step."""
    random = plan.random(KIND, "slow", place, number)
    case = SLOW_PLACES[place]
    prepared(case, folder)
    (folder / "judge.py").write_text(SLOW)
    config = yaml.safe_load((folder / "run.yaml").read_text())
    config.pop("reward_policy", None)
    if place == "an evaluation":
        config["stages"] = config["stages"][:1]
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    after = 2.5 + random.random() * 2
    which = random.choice((signal.SIGTERM, signal.SIGINT))
    ended = trials.run(trials.rung(*RUN), folder, signals=[(after, which)], limit_s=60)
    within = AT_ONCE_S if place == "an evaluation" else STEP_S
    verdict, detail = stopped(ended, after, within) or (IDENTICAL, "")
    if verdict == IDENTICAL and ended.code == 0:
        verdict, detail = FAILED, "it had finished before the signal"
    trial = f"{which.name} after {after:.1f} s, {number}"
    yield Result(KIND, f"during {place} of slow code", trial, verdict, detail, {"seconds": ended.seconds - after})


SLOW_PLACES = {"an evaluation": "path", "a rollout": "grpo"}
