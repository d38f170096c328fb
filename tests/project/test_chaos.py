"""`make chaos`: the harness passes a program that keeps its promise, and fails one that breaks it, for each kind.

The programs are stand-ins for `rung run`: two stages of which the second starts from the result of the first.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from helpers.repository import ROOT

sys.path.append(str(ROOT))  # `benchmarks` is no part of the package

from benchmarks.chaos import corruption, disk, kills, page, processes, trials
from benchmarks.chaos.baselines import Baseline, labels
from benchmarks.chaos.compare import tree
from benchmarks.chaos.frame import DIFFERS, IDENTICAL, REFUSED, SILENT, Plan, Result, in_folder, prepared

STAGE, RECORD, DONE = Path("runs/run/first"), Path("runs/run/lineage.json"), Path("runs/run/first/DONE")
LOCK = Path("runs/run/lock")


def write(path: Path, text: str) -> None:
    """Writes a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(text)
    os.replace(aside, path)


def refuse(text: str) -> None:
    os.write(2, f"{text}\nstart again\n".encode())
    raise SystemExit(2)


def start() -> str:
    """The weights of the first stage: those of its start, which it takes from the record if there is one."""
    return json.loads(RECORD.read_text())["weights"] if RECORD.exists() else "base"


def broken_hand_over() -> None:
    """The record is written before the stage is done: a kill between the two trains the stage from itself."""
    if not DONE.exists():
        write(STAGE / "model.txt", f"{start()} trained")
        write(RECORD, json.dumps({"weights": (STAGE / "model.txt").read_text()}))
        write(DONE, "trained")
    write(Path("runs/run/report.md"), (STAGE / "model.txt").read_text())


def sound_hand_over() -> None:
    """The stage always starts from its own start, and its record counts only where it is that of its weights."""
    if not DONE.exists():
        write(STAGE / "model.txt", "base trained")
        write(RECORD, json.dumps({"weights": "base trained"}))
        write(DONE, "trained")
    recorded = json.loads(RECORD.read_text())
    if recorded != {"weights": (STAGE / "model.txt").read_text()} or DONE.read_text() != "trained":
        refuse("the weights are damaged")
    write(Path("runs/run/report.md"), recorded["weights"])


def refusing() -> None:
    """The sound program with errors of the disk in two lines."""
    try:
        sound_hand_over()
    except (OSError, ValueError) as error:
        refuse(str(error))


def swallowing() -> None:
    """The broken program, which says nothing of errors of the disk."""
    try:
        broken_hand_over()
    except OSError:
        return


def locking() -> None:
    """The sound program in a single process."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.close(os.open(LOCK, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        refuse("another process is running it")
    import time

    time.sleep(0.3)
    sound_hand_over()


def stand_in(monkeypatch: pytest.MonkeyPatch, program: Callable[[], None]) -> None:
    def command(*arguments: str, before: Callable[[], None] | None = None) -> Callable[[], None]:
        def body() -> None:
            if before is not None:
                before()
            program()

        return body

    monkeypatch.setattr(trials, "rung", command)
    monkeypatch.setattr(trials, "GRACE_S", 0.0)


def results(folder: Path, *attacks: Callable[[Path], Iterator[Result]]) -> list[dict[str, Any]]:
    """The results of attacks, made in a process of their own as `make chaos` does."""
    file = folder / "results.jsonl"
    file.unlink(missing_ok=True)
    trials.pool(1, [in_folder(attack) for attack in attacks], file)
    return [json.loads(line) for line in file.read_text().splitlines()]


def undisturbed(folder: Path) -> Baseline:
    """The baseline of the stand-in, recorded in another process like any trial."""

    def record(place: Path) -> Iterator[Result]:
        for part in ("plain", "points", "reads"):
            prepared("sft", place / part)
        ended = trials.run(trials.rung(), place / "plain")
        points = labels(place / "points")
        reads = labels(place / "reads", reads=True)
        told = {"tree": tree(place / "plain/runs"), "points": points, "reads": reads}
        yield Result("baseline", "", "", str(ended.code), json.dumps(told))

    (found,) = results(folder, record)
    told = json.loads(found["detail"])
    assert found["verdict"] == "0"
    return Baseline("sft", told["tree"], 0.05, tuple(told["points"]), tuple(told["reads"]))


def verdicts(found: list[dict[str, Any]]) -> Counter[str]:
    return Counter(one["verdict"] for one in found)


@pytest.mark.parametrize(("program", "sound"), [(sound_hand_over, True), (broken_hand_over, False)])
def test_kills_at_file_operations_find_a_broken_hand_over(
    program: Callable[[], None], sound: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, program)
    baseline = undisturbed(tmp_path)
    assert {label.split(" run")[0] for label in baseline.points} >= {"open", "write", "rest of write", "rename"}
    plan = Plan({}, 0, quick=True)
    found = results(tmp_path, *(partial(kills.at_operation, plan, baseline, at) for at in range(len(baseline.points))))
    strays = [one for one in found if "stray" in one["detail"]]  # neither program removes its temporary files
    others = verdicts([one for one in found if one not in strays])
    assert all(one["numbers"]["kills"] for one in found)
    assert set(others) == ({IDENTICAL} if sound else {IDENTICAL, DIFFERS})
    wrong = [one for one in found if "model.txt differs" in one["detail"]]
    assert bool(wrong) != sound
    assert all("DONE" in one["trial"] or "first" in one["trial"] for one in wrong)


@pytest.mark.parametrize(("program", "expected"), [(refusing, {REFUSED}), (broken_hand_over, {DIFFERS})])
def test_damage_is_found_or_the_trial_fails(
    program: Callable[[], None], expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, program)
    baseline = undisturbed(tmp_path)
    stopped = prepared("sft", tmp_path / "stopped")
    (results(tmp_path, lambda _: iter([ended(stopped)])))
    (stopped / "runs/run/report.md").unlink()
    place = corruption.Place("after the first stage", baseline, stopped, ("run/first/model.txt",))
    found = results(tmp_path, *(partial(corruption.damaged, Plan({}, 0, quick=True), place, n) for n in range(8)))
    assert set(verdicts(found)) <= expected | {"failed otherwise"}
    assert expected <= set(verdicts(found))


def ended(folder: Path) -> Result:
    return Result("", "", "", str(trials.run(trials.rung(), folder).code))


def saving() -> None:
    """What native code writes is there as a whole or, at a kill, as a half."""
    import torch
    from safetensors.torch import save_file

    STAGE.mkdir(parents=True)
    save_file({"weights": torch.zeros(100)}, STAGE / "model.safetensors")
    os.rename(STAGE / "model.safetensors", STAGE / "weights.safetensors")


def test_a_kill_leaves_half_of_what_native_code_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, saving)
    baseline = undisturbed(tmp_path)

    def sizes(folder: Path) -> Iterator[Result]:
        for at, label in enumerate(baseline.points):
            place = folder / str(at)
            place.mkdir()
            killed = trials.run(trials.rung(before=kills.killing(place, at)), place)
            left = {path.name: path.stat().st_size for path in place.glob("runs/**/*.safetensors")}
            yield Result("", label, str(killed.signal), json.dumps(left))

    found = {one["group"].split(" run")[0]: json.loads(one["verdict"]) for one in results(tmp_path, sizes)}
    whole = found["rename"]["model.safetensors"]
    assert found["save_file"] == {}
    assert found["rest of save_file"] == {"model.safetensors": whole // 2}


def test_errors_of_the_disk_must_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for program in (refusing, swallowing):
        stand_in(monkeypatch, program)
        baseline = undisturbed(tmp_path)
        at = next(n for n, label in enumerate(baseline.reads) if label.startswith("open run/first/.DONE"))
        found[program] = results(tmp_path, partial(disk.at_operation, baseline, at, 28, False))
    (told,), (untold,) = found[refusing], found[swallowing]
    assert told["verdict"] == "told, and identical afterwards", told
    assert untold["verdict"] == SILENT


def test_two_processes_must_not_both_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for program in (locking, sound_hand_over):
        stand_in(monkeypatch, program)
        baseline = undisturbed(tmp_path)
        attack = partial(processes.same_config, Plan({}, 0, quick=True), baseline, 0, 2)
        (found[program],) = results(tmp_path, attack)
    assert found[locking]["verdict"] == IDENTICAL, found[locking]
    assert found[sound_hand_over]["verdict"] == "several trained"


def test_the_page_counts_what_passed_and_shows_what_failed() -> None:
    found = [
        Result(kills.INSTANTS, "sft", "killed after 1 s", IDENTICAL, "", {"kills": 2, "lost steps": 1}).as_json(),
        Result(kills.INSTANTS, "sft", "killed after 2 s", DIFFERS, "a", {"kills": 1, "lost steps": 3}).as_json(),
        Result("TRL 1.16", "kills at random instants | sft", "x", "weights differ").as_json(),
    ]
    made = page.page(found, command="make chaos", seed=3, minutes=12.4)
    assert "`make chaos` (seed 3, 3 trials, 12 minutes" in " ".join(made.split())
    assert "| kills at random instants | 2 | 1 |" in made
    assert "| sft | 1 of 2 | - | identical 1, differs 1, 3 kills, lost steps: at most 3 |" in made
    assert "| kills at random instants | weights differ 1 |" in made
    assert "killed after 2 s: differs" in made
    assert len(made.splitlines()) <= 150
    assert all(len(line) <= 132 or line.startswith("|") for line in made.splitlines())
