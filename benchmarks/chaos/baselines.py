"""The runs that nothing happens to, with which every trial is compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.chaos import cases, points, trials
from benchmarks.chaos.compare import Tree, tree

RUN = ("run", "run.yaml")


@dataclass(frozen=True, slots=True)
class Baseline:
    """A case that ran undisturbed: its files, its duration, and the labels of its points without and with reads."""

    case: str
    tree: Tree
    seconds: float
    points: tuple[str, ...]
    reads: tuple[str, ...]


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
    return Baseline(name, tree(plain / "runs"), ended.seconds, labels(counted), labels(read, reads=True))


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


def in_another_process(names: list[str], folder: Path) -> dict[str, Baseline]:
    """Records cases in a process of its own, whose sets and dicts hash in another order."""
    command = [sys.executable, "-m", "benchmarks.chaos.baselines", str(folder), *names]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    loaded: Mapping[str, dict] = json.loads((folder / "baselines.json").read_text())
    return {
        name: Baseline(**{**fields, "points": tuple(fields["points"]), "reads": tuple(fields["reads"])})
        for name, fields in loaded.items()
    }


def main() -> None:
    """Records the cases that the command line names in a folder, in `baselines.json`."""
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    trials.adopt_orphans()
    warm(folder / "warm")
    found = {name: asdict(record(name, folder / str(number))) for number, name in enumerate(names)}
    (folder / "baselines.json").write_text(json.dumps(found))


def warm(folder: Path) -> None:
    """Imports whatever the cases import, so that every fork begins with it."""
    for name in ("path", "ppo", "reward_model"):
        (folder / name).mkdir(parents=True)
        cases.every()[name].write(folder / name)
        trials.warm(trials.rung(*RUN), folder / name)


if __name__ == "__main__":
    main()
