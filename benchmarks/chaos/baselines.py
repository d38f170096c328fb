"""The runs that nothing happens to, with which every trial is compared."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.chaos import cases, points, trials
from benchmarks.chaos.compare import Tree, tree

RUN = ("run", "run.yaml")
FILE = "baselines.json"


@dataclass(frozen=True, slots=True)
class Baseline:
    """A case that ran undisturbed: its files and their bytes, its seconds, its points without and with reads."""

    case: str
    tree: Tree
    seconds: float
    points: tuple[str, ...]
    reads: tuple[str, ...]
    size: int = 0

    def first(self, pattern: str) -> int:
        """The number of the first point whose label matches; raises LookupError if there is none."""
        for number, label in enumerate(self.points):
            if re.search(pattern, label):
                return number
        raise LookupError(f"no operation of {self.case} matches {pattern}")


def record(name: str, folder: Path) -> Baseline:
    """Runs a case undisturbed, three times in folders of their own: as it is, and with its points recorded.

    Exits where a run fails or where a repeat differs.
    """
    case = cases.every()[name]
    plain, counted, read = (folder / part for part in ("plain", "points", "reads"))
    for part in (plain, counted, read):
        part.mkdir(parents=True)
        case.write(part)
    ended = trials.run(trials.rung(*RUN), plain)
    if ended.code != 0:
        sys.exit(f"{name} fails without any fault: {ended.told}")
    size = sum(file.stat().st_size for file in plain.glob("runs/**/*") if file.is_file())
    return Baseline(name, tree(plain / "runs"), ended.seconds, labels(counted), labels(read, reads=True), size)


def labels(folder: Path, *, reads: bool = False) -> tuple[str, ...]:
    """Runs the case in `folder` and returns the labels of all its points."""
    file = folder / "labels"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o644)
    write = os.write

    def note(label: str, half: Callable[[], None]) -> None:
        write(descriptor, f"{label}\n".encode())

    def before() -> None:
        points.install(folder / "runs", note, reads=reads)

    ended = trials.run(trials.rung(*RUN, before=before), folder)
    os.close(descriptor)
    if ended.code != 0:
        sys.exit(f"a run fails where its points are only counted: {ended.told}")
    return tuple(file.read_text().splitlines())


def start_another_process(names: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Begins to record cases in a process of its own, whose sets and dicts hash in another order."""
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.chaos.baselines", str(folder), *names]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONHASHSEED": "1"})
    trials.keep(process.pid)
    return process


def recorded(process: subprocess.Popen[bytes], folder: Path) -> dict[str, Baseline]:
    """Waits for a process that records cases, and reads what it has recorded; exits where it failed."""
    if process.wait() != 0:
        sys.exit("a run without any fault cannot be recorded")
    loaded: Mapping[str, dict] = json.loads((folder / FILE).read_text())
    return {
        name: Baseline(**{**fields, "points": tuple(fields["points"]), "reads": tuple(fields["reads"])})
        for name, fields in loaded.items()
    }


def main() -> None:
    """Records the cases that the command line names in a folder, in `FILE`."""
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    trials.adopt_orphans()
    warm(folder / "warm")
    found = {name: asdict(record(name, folder / str(number))) for number, name in enumerate(names)}
    (folder / FILE).write_text(json.dumps(found))


def warm(folder: Path) -> None:
    """Imports whatever the cases import, so that every fork begins with it."""
    for name in ("path", "ppo", "reward_model"):
        (folder / name).mkdir(parents=True)
        cases.every()[name].write(folder / name)
        trials.warm(trials.rung(*RUN), folder / name)


if __name__ == "__main__":
    main()
