"""What every kind of attack shares: a trial, its verdict, and the run that goes on after it."""

from __future__ import annotations

import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.chaos import cases, trials
from benchmarks.chaos.baselines import RUN, Baseline
from benchmarks.chaos.compare import differences, tree
from benchmarks.chaos.trials import Ended

IDENTICAL, REFUSED, NOTICED = "identical", "refused in two lines", "noticed and identical"
DIFFERS, TRACEBACK, HUNG, FAILED, LEFT, SILENT = (
    "differs",
    "traceback",
    "hung",
    "failed otherwise",
    "left a process",
    "silent",
)
UNTOLD, AFTERWARDS = "identical, nothing to tell", "told, and identical afterwards"
IMPOSSIBLE = "not possible here"
PASSES = "passes"
PASSED = (PASSES, IDENTICAL, REFUSED, NOTICED, UNTOLD, AFTERWARDS, IMPOSSIBLE)


@dataclass(frozen=True, slots=True)
class Result:
    """What one trial found. `group` is a row of the table of its kind, `trial` says exactly what was done."""

    kind: str
    group: str
    trial: str
    verdict: str
    detail: str = ""
    numbers: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The result as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the kinds need to plan their trials: the undisturbed runs, a seed, and whether the plan is the short one."""

    baselines: dict[str, Baseline]
    seed: int
    quick: bool

    def random(self, *words: object) -> Random:
        """A random generator that depends on the seed and on the words alone."""
        return Random(f"{self.seed}/{'/'.join(map(str, words))}")

    def choice(self, number: int, of: int, *words: object) -> list[int]:
        """`number` of the numbers 0 ... `of` - 1 in order, drawn at random; all of them where there are not more."""
        return sorted(self.random(*words).sample(range(of), min(number, of)))


Trial = Callable[[Path], Iterator[Result]]
"""Gets an empty folder of its own, which is removed afterwards."""


def in_folder(trial: Trial) -> Callable[[], Iterator[dict[str, Any]]]:
    """A task for `trials.pool`: the trial in a temporary folder."""

    def task() -> Iterator[dict[str, Any]]:
        folder = Path(tempfile.mkdtemp(prefix="trial-"))
        try:
            for result in trial(folder):
                yield result.as_json()
        except Exception:  # one trial that cannot be made must not end the others
            told = traceback.format_exc().strip().splitlines()
            yield Result(
                "the harness", "errors", str(trial)[:80], "error of the harness", " / ".join(told[-4:])
            ).as_json()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return task


def prepared(name: str, folder: Path) -> Path:
    """The folder, with the files of a case."""
    folder.mkdir(parents=True, exist_ok=True)
    cases.every()[name].write(folder)
    return folder


def problem(ended: Ended) -> tuple[str, str] | None:
    """The verdict and the detail of a command that should have ended with exit code 0; None if it did."""
    if ended.hung:
        return HUNG, f"after {ended.seconds:.0f} s"
    if ended.left_over:
        return LEFT, f"{ended.left_over} processes"
    if ended.code == 0:
        return None
    if ended.traceback:
        return TRACEBACK, ended.told
    return (
        (REFUSED, ended.told) if ended.refused else (FAILED, f"code {ended.code}, signal {ended.signal}: {ended.told}")
    )


def goes_on(folder: Path, baseline: Baseline, *, other_saves: bool = False) -> tuple[str, str]:
    """The verdict and the detail of running the same command again, unattended, and comparing every file.

    With `other_saves`, checkpoints may be there or missing: a run that is asked to stop saves one more, and one whose
    disk is full saves one less. Those that both runs have are compared.
    """
    ended = trials.run(trials.rung(*RUN), folder)
    return problem(ended) or compared(folder, baseline, other_saves=other_saves)


def compared(folder: Path, baseline: Baseline, *, other_saves: bool = False) -> tuple[str, str]:
    """Whether every file of the finished run in a folder is that of the undisturbed run."""
    found = differences(baseline.tree, tree(folder / "runs"))
    if other_saves:
        found = [one for one in found if one.endswith("differs") or "/checkpoints" not in one]
    return (DIFFERS, ", ".join(found)) if found else (IDENTICAL, "")
