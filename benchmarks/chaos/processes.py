"""Several processes that start one run at the same time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import yaml
from benchmarks.chaos import trials
from benchmarks.chaos.baselines import RUN, Baseline
from benchmarks.chaos.compare import differences, tree
from benchmarks.chaos.frame import FAILED, HUNG, IDENTICAL, TRACEBACK, Plan, Result, Trial, compared, goes_on, prepared
from benchmarks.chaos.kills import killing
from benchmarks.chaos.trials import Ended

KIND = "processes at once"
LIMIT_S = 60.0


def plan(plan: Plan) -> list[Trial]:
    """The trials: two and three processes, after a kill, `--new`, and two configs of one name."""
    made: list[Trial] = []
    for number in range(3 if plan.quick else 20):
        name = ("sft", "grpo", "path")[number % 3]
        for count in (2, 3):
            made.append(partial(same_config, plan, plan.baselines[name], number, count))
        made.append(partial(after_a_kill, plan, plan.baselines[name], number))
    for number in range(1 if plan.quick else 8):
        made += [partial(new_twice, plan, plan.baselines["sft"], number)]
        made += [partial(one_name, plan, plan.baselines["sft"], number)]
        made += [partial(stopped_owner, plan, plan.baselines["sft"], number)]
    return made


def at_once(folder: Path, commands: Sequence[Sequence[str]], waits: Sequence[float]) -> list[Ended]:
    """Starts a command after each of the waits, and waits for the end of all of them."""
    running = []
    for number, (arguments, wait) in enumerate(zip(commands, waits, strict=True)):
        time.sleep(wait)
        files = str(folder / f"stdout-{number}"), str(folder / f"stderr-{number}")
        running.append(trials.start(trials.rung(*arguments), folder, *files))
    return [trials.finish(started, limit_s=LIMIT_S) for started in running]


def one_trains(several: Sequence[Ended]) -> tuple[str, str] | None:
    """What is wrong unless one process finished the run and each other was refused, or found the run finished."""
    told = "; ".join(f"code {one.code}: {one.told or one.stdout.strip()[-120:]}" for one in several)
    if any(one.hung for one in several):
        return HUNG, told
    if any(one.traceback for one in several):
        return TRACEBACK, told
    trained = [one for one in several if one.code == 0 and "is finished: see" not in one.stdout]
    others = [one for one in several if one not in trained]
    if len(trained) == 1 and all(one.refused or one.code == 0 for one in others):
        return None
    return ("several trained" if len(trained) > 1 else FAILED), told


def same_config(plan: Plan, baseline: Baseline, number: int, count: int, folder: Path) -> Iterator[Result]:
    """The same command, several times at once."""
    random = plan.random(KIND, number, count)
    prepared(baseline.case, folder)
    waits = [0.0, *(random.choice((0.0, random.uniform(0, baseline.seconds / 3))) for _ in range(count - 1))]
    several = at_once(folder, [RUN] * count, waits)
    verdict, detail = one_trains(several) or compared(folder, baseline)
    trial = f"{baseline.case}, {number}, starts {', '.join(f'{wait:.2f} s' for wait in waits)} apart"
    yield Result(KIND, f"{count} processes, one config", trial, verdict, detail)


def after_a_kill(plan: Plan, baseline: Baseline, number: int, folder: Path) -> Iterator[Result]:
    """Two processes at once after the owner of the run was killed: one takes the run over."""
    prepared(baseline.case, folder)
    at = plan.random(KIND, "kill", number).randrange(len(baseline.points))
    trials.run(trials.rung(*RUN, before=killing(folder, at)), folder)
    verdict, detail = one_trains(at_once(folder, [RUN] * 2, [0.0, 0.0])) or compared(folder, baseline)
    yield Result(
        KIND, "2 processes after a kill", f"{baseline.case}, killed before {baseline.points[at]}", verdict, detail
    )


def new_twice(plan: Plan, baseline: Baseline, number: int, folder: Path) -> Iterator[Result]:
    """`--new` twice at once beside a finished run: two runs in two folders, or one is refused."""
    prepared(baseline.case, folder)
    trials.run(trials.rung(*RUN), folder)
    wait = plan.random(KIND, "new", number).choice((0.0, 0.05, 0.1))
    several = at_once(folder, [(*RUN, "--new")] * 2, [0.0, wait])
    told = "; ".join(f"code {one.code}: {one.told}" for one in several)
    made = [path for path in sorted((folder / "runs").iterdir()) if path.name != "run"]
    finished = sum(one.code == 0 for one in several)
    verdict, detail = IDENTICAL, ""
    if any(one.code != 0 and not one.refused for one in several) or finished == 0 or len(made) != finished:
        verdict, detail = FAILED, f"{len(made)} folders, {told}"
    for path in made:
        wrong = differences(weights(folder / "runs" / "run"), weights(path))
        if wrong:
            verdict, detail = "differs", f"{path.name}: {', '.join(wrong)}; {told}"
    yield Result(KIND, "--new twice", f"{baseline.case}, {number}", verdict, detail)


def weights(folder: Path) -> dict[str, str]:
    """The files of a run that do not hold its name."""
    return {name: digest for name, digest in tree(folder).items() if name.endswith((".safetensors", ".jsonl"))}


def one_name(plan: Plan, baseline: Baseline, number: int, folder: Path) -> Iterator[Result]:
    """Two configs of one name at once: one trains, the other is refused, and the files are those of one of them."""
    prepared(baseline.case, folder)
    alone = prepared(baseline.case, folder / "alone")
    for place in (folder, alone):
        config = yaml.safe_load((place / "run.yaml").read_text())
        config["stages"][0]["learning_rate"] = 1e-3
        (place / "other.yaml").write_text(yaml.safe_dump(config))
    trials.run(trials.rung("run", "other.yaml"), alone)
    commands = [RUN, ("run", "other.yaml")]
    several = at_once(folder, commands, [0.0, plan.random(KIND, "name", number).choice((0.0, 0.05, 0.2))])
    verdict, detail = one_trains(several) or compared(folder, baseline)
    if verdict == "differs" and not differences(tree(alone / "runs"), tree(folder / "runs")):
        verdict, detail = IDENTICAL, ""
    yield Result(KIND, "two configs of one name", f"{baseline.case}, {number}", verdict, detail)


def stopped_owner(plan: Plan, baseline: Baseline, number: int, folder: Path) -> Iterator[Result]:
    """A second process while the owner is suspended: it is refused, and the owner goes on afterwards."""
    prepared(baseline.case, folder)
    owner = trials.start(trials.rung(*RUN), folder, str(folder / "stdout-owner"), str(folder / "stderr-owner"))
    time.sleep(plan.random(KIND, "stop", number).uniform(0.3, 0.7) * baseline.seconds)
    os.kill(owner.child, signal.SIGSTOP)
    second = trials.run(trials.rung(*RUN), folder, limit_s=20)
    os.kill(owner.child, signal.SIGCONT)
    first = trials.finish(owner, limit_s=LIMIT_S)
    verdict, detail = one_trains([first, second]) or goes_on(folder, baseline)
    yield Result(KIND, "2 processes, the first suspended", f"{baseline.case}, {number}", verdict, detail)
