"""TRL under the same attacks, where it has the feature: what it resumes, what is identical, and what it notices."""

from __future__ import annotations

import errno
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.chaos import points, trials
from benchmarks.chaos.corruption import damage
from benchmarks.chaos.disk import raising
from benchmarks.chaos.frame import Plan, Result, Trial
from benchmarks.chaos.kills import killing
from benchmarks.chaos.trials import Ended
from benchmarks.chaos.trl_runs import OUT, TRAINERS, Outcome, body, write_start

KIND = "TRL 1.16"
COUNT = 15
LOG_DIFFERS, WEIGHTS_DIFFER, NOT_RESUMED = "weights identical, log differs", "weights differ", "not resumed"
GROUPS = {
    "instants": "kills at random instants",
    "operations": "kills at file operations",
    "damage": "damaged newest checkpoint",
    "disk": "full disk at a file operation",
    "gradients": "a gradient that is not finite",
    "processes": "two processes in one output_dir",
}


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """A run of a trainer that nothing happened to."""

    name: str
    start: Path
    seconds: float
    outcome: Outcome
    points: tuple[str, ...]
    reads: tuple[str, ...]


def plan(plan: Plan) -> list[Trial]:
    """The trials of all trainers, each of which is run undisturbed first; none in the short plan."""
    if plan.quick:
        return []
    place = Path(tempfile.mkdtemp())
    start = place / "start"
    write_start(start)
    (place / "warm").mkdir()
    trials.warm(body("grpo", start), place / "warm")
    made: list[Trial] = []
    for number, name in enumerate(TRAINERS):
        one = undisturbed(name, start, place / str(number))
        made += [partial(at_instant, plan, one, each) for each in range(COUNT)]
        made += [partial(at_operation, one, each) for each in plan.choice(COUNT, len(one.points), KIND, name)]
        made += [partial(damaged, plan, one, each) for each in range(COUNT)]
        changes = [each for each, label in enumerate(one.reads) if not label.startswith("read")]
        made += [
            partial(full_disk, one, changes[each]) for each in plan.choice(COUNT, len(changes), KIND, "disk", name)
        ]
        made += [partial(bad_gradient, one, step) for step in (1, 4)] + [partial(two_processes, one)]
    return made


def undisturbed(name: str, start: Path, folder: Path) -> Undisturbed:
    """Runs a trainer as it is, and twice with its file operations recorded."""
    seconds, outcomes, recorded = 0.0, [], []
    for reads in (None, False, True):
        place = folder / str(reads)
        place.mkdir(parents=True)
        labels: Path | None = None if reads is None else place / "labels"
        before = None if labels is None else noting(place, labels, reads=bool(reads))
        ended = trials.run(body(name, start, before), place)
        if ended.code != 0:
            raise RuntimeError(f"TRL's {name} fails without any fault: {ended.told}")
        seconds = seconds or ended.seconds
        outcomes.append(Outcome.of(place))
        recorded.append(tuple(labels.read_text().splitlines()) if labels else ())
    if len(set(outcomes)) > 1:
        raise RuntimeError(f"TRL's {name} is not repeatable, so that nothing can be compared with it")
    return Undisturbed(name, start, seconds, outcomes[0], recorded[1], recorded[2])


def noting(folder: Path, labels: Path, *, reads: bool) -> Callable[[], None]:
    """A function that makes the process that calls it write down its file operations."""

    def before() -> None:
        descriptor, write = os.open(labels, os.O_WRONLY | os.O_CREAT, 0o644), os.write

        def act(label: str, half: Callable[[], None]) -> None:
            write(descriptor, f"{label}\n".encode())

        points.install(folder / OUT, act, reads=reads)

    return before


def outcome(one: Undisturbed, ended: Ended, folder: Path) -> tuple[str, str]:
    """The verdict on a run that should have ended as the undisturbed one did."""
    if ended.code != 0:
        return NOT_RESUMED, f"code {ended.code}, signal {ended.signal}: {ended.told}"
    try:
        found = Outcome.of(folder)
    except (OSError, ValueError) as error:
        return NOT_RESUMED, str(error)
    if found.weights != one.outcome.weights:
        return WEIGHTS_DIFFER, ""
    return ("identical", "") if found.log == one.outcome.log else (LOG_DIFFERS, "")


def _result(one: Undisturbed, group: str, trial: str, verdict: tuple[str, str]) -> Result:
    return Result(KIND, f"{GROUPS[group]} | {one.name}", trial, *verdict)


def at_instant(plan: Plan, one: Undisturbed, number: int, folder: Path) -> Iterator[Result]:
    """Kills a run at a random instant, and runs the same program again."""
    after = plan.random(KIND, one.name, number).uniform(0, one.seconds)
    killed = trials.run(body(one.name, one.start), folder, signals=[(after, signal.SIGKILL)])
    again = trials.run(body(one.name, one.start), folder)
    if killed.signal == signal.SIGKILL:
        yield _result(one, "instants", f"killed after {after:.2f} s", outcome(one, again, folder))


def at_operation(one: Undisturbed, at: int, folder: Path) -> Iterator[Result]:
    """Kills a run at a file operation, and runs the same program again."""
    trials.run(body(one.name, one.start, killing(folder, at, OUT)), folder)
    again = trials.run(body(one.name, one.start), folder)
    yield _result(one, "operations", f"point {at}: {one.points[at]}", outcome(one, again, folder))


def damaged(plan: Plan, one: Undisturbed, number: int, folder: Path) -> Iterator[Result]:
    """Damages a file that is read again of the newest checkpoint of a killed run, and runs the same program again."""
    at = one.points.index(max(label for label in one.points if label.startswith("mkdir checkpoint-")))
    trials.run(body(one.name, one.start, killing(folder, at, OUT)), folder)
    newest = max((folder / OUT).glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    needed = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
    told = damage(newest, needed, plan.random(KIND, "damage", one.name, number))
    again = trials.run(body(one.name, one.start), folder)
    yield _result(one, "damage", told, outcome(one, again, folder))


def full_disk(one: Undisturbed, at: int, folder: Path) -> Iterator[Result]:
    """Raises ENOSPC at a file operation, and runs the same program again."""
    failing = raising(folder, at, errno.ENOSPC, lasting=False, below=OUT)
    first = trials.run(body(one.name, one.start, failing), folder)
    again = trials.run(body(one.name, one.start), folder)
    verdict, detail = outcome(one, again, folder)
    how = "a traceback" if first.traceback else f"code {first.code}"
    yield _result(one, "disk", f"point {at}: {one.reads[at]}: {how}", (verdict, detail))


def bad_gradient(one: Undisturbed, step: int, folder: Path) -> Iterator[Result]:
    """Makes all gradients of one step NaN: the weights at the end are finite, or not."""

    def before() -> None:
        import torch

        backward, calls = torch.Tensor.backward, 0

        def bad_backward(loss: torch.Tensor, *arguments: object, **named: object) -> None:
            nonlocal calls
            calls += 1
            backward(loss * float("nan") if calls == step else loss, *arguments, **named)  # type: ignore[arg-type]

        torch.Tensor.backward = bad_backward  # type: ignore[method-assign]

    ended = trials.run(body(one.name, one.start, before), folder)
    verdict = "stopped" if ended.code != 0 else "finite" if Outcome.of(folder).finite else "NaN weights, exit code 0"
    yield _result(one, "gradients", f"step {step}", (verdict, ""))


def two_processes(one: Undisturbed, folder: Path) -> Iterator[Result]:
    """Starts the same program twice at once: one trains and the other is refused, or not."""
    started = [
        trials.start(body(one.name, one.start), folder, str(folder / f"out-{each}"), str(folder / f"err-{each}"))
        for each in range(2)
    ]
    ended = [trials.finish(each) for each in started]
    codes = [each.code for each in ended]
    verdict = "both train, exit code 0" if codes == [0, 0] else "one trains" if 0 in codes else "both fail"
    yield _result(one, "processes", f"codes {codes}", (verdict, ended[0].told if codes != [0, 0] else ""))
