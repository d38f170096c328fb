"""Damage to everything that a run reads again: the next command finds it, or ends as if nothing had happened."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from benchmarks.chaos import trials
from benchmarks.chaos.baselines import RUN, Baseline
from benchmarks.chaos.compare import differences, tree
from benchmarks.chaos.frame import (
    DIFFERS,
    IDENTICAL,
    NOTICED,
    REFUSED,
    SILENT,
    Plan,
    Result,
    Trial,
    goes_on,
    prepared,
    problem,
)
from benchmarks.chaos.kills import SECOND_STAGE, killing
from benchmarks.chaos.trials import Ended

KIND, CLEAN = "damaged files", "clean loads"
PAGE = 4096
BY_EXISTENCE = re.compile(r"^run/([^/]+/)?DONE$|^run/report\.html$")  # their presence tells something
UNREAD = re.compile(r"timing\.jsonl$|(^|/)\.lock$")
BAD = re.compile(r"\.bad(/|$)")  # what a run has set aside because it is damaged
FINISHED_FILES = re.compile(r"^run/(report\.html|lineage\.json|config\.yaml|DONE|[^/]+/DONE)$")
MODEL_FILES = re.compile(r"^run/sft/model/")
NEXT = "next.yaml"
NEXT_CONFIG = """\
name: next
date: 2026-01-01
model: run:run/sft
algorithm: sft
data: texts.jsonl
max_steps: 1
batch_size: 2
"""


PLACES: Mapping[str, tuple[str, str]] = {
    "a stage with two checkpoints": ("grpo", r"^mkdir run/grpo/\.tmp-(adapter|model)"),
    "a critic and its checkpoints": ("ppo", r"^mkdir run/ppo/\.tmp-model"),
    "between two stages": ("path", r"^mkdir run/dpo$"),
    "within the second stage": ("path", SECOND_STAGE),
    "before the test set": ("path", r"^open run/sft/\.tmp-test\.jsonl"),
    "before the report": ("path", r"^open run/\.tmp-report\.html"),
}
"""The case of each place, and a pattern of the first operation that is not made any more."""


@dataclass(frozen=True, slots=True)
class Place:
    """A run that was killed at a place, in a folder that is copied, and the files that its next command reads."""

    name: str
    baseline: Baseline
    folder: Path
    read_again: tuple[str, ...]


def plan(plan: Plan) -> list[Trial]:
    """The trials: seeded damages of runs that stopped at several places, and as many loads without any."""
    made: list[Trial] = []
    for name, (case, pattern) in PLACES.items():
        place = prepared_place(name, plan.baselines[case], pattern)
        made += [partial(damaged, plan, place, number) for number in range(5 if plan.quick else 75)]
        made += [partial(clean, place, number) for number in range(1 if plan.quick else 75)]
    for number in range(3 if plan.quick else 25):
        made.append(partial(finished, plan, plan.baselines["path"], number))
        made.append(partial(of_another_run, plan, plan.baselines["path"], number))
    made += [partial(clean_next, plan.baselines["path"], number) for number in range(1 if plan.quick else 50)]
    return made


def prepared_place(name: str, baseline: Baseline, pattern: str) -> Place:
    """Kills a run before the first operation whose label matches, and finds out which files the next command reads."""
    folder = prepared(baseline.case, Path(tempfile.mkdtemp()))
    at = baseline.first(pattern)
    trials.run(trials.rung(*RUN, before=killing(folder, at)), folder)
    watched = Path(tempfile.mkdtemp()) / "copy"
    shutil.copytree(folder, watched)
    return Place(name, baseline, folder, read_again(watched))


def read_again(folder: Path) -> tuple[str, ...]:
    """The files of a stopped run that the same command reads: those whose time of access moves when it goes on."""
    runs = folder / "runs"
    present = [path.relative_to(runs).as_posix() for path in sorted(runs.rglob("*")) if path.is_file()]
    for name in present:
        os.utime(runs / name, ns=(0, (runs / name).stat().st_mtime_ns))
    trials.run(trials.rung(*RUN), folder)
    found = [name for name in present if (runs / name).exists() and (runs / name).stat().st_atime_ns > 0]
    found = [name for name in present if name in found or BY_EXISTENCE.search(name)]
    return tuple(name for name in found if not UNREAD.search(name))


def damaged(plan: Plan, place: Place, number: int, folder: Path) -> Iterator[Result]:
    """Damages one file of a stopped run that is read again, and goes on with the run."""
    shutil.copytree(place.folder, folder, dirs_exist_ok=True)
    told = damage(folder / "runs", place.read_again, plan.random(KIND, place.name, number))
    ended = trials.run(trials.rung(*RUN), folder)
    verdict, detail = problem(ended) or same_but_set_aside(ended, folder, place.baseline)
    yield Result(KIND, place.name, told, verdict, detail)


def same_but_set_aside(ended: Ended, folder: Path, baseline: Baseline) -> tuple[str, str]:
    """Whether a finished run is that of the baseline; what it has set aside as damaged may lie beside it, if told."""
    files = tree(folder / "runs")
    kept = {name: digest for name, digest in files.items() if not BAD.search(name)}
    found = differences(baseline.tree, kept)
    if found:
        return DIFFERS, ", ".join(found)
    told = ".bad" in ended.stderr + ended.stdout or "damaged" in ended.stderr + ended.stdout
    if len(kept) == len(files):
        return (NOTICED if told else IDENTICAL), ""
    return (NOTICED, "") if told else (SILENT, "something was set aside without a word")


def clean(place: Place, number: int, folder: Path) -> Iterator[Result]:
    """Goes on with an undamaged stopped run: anything but an identical end is a false alarm."""
    shutil.copytree(place.folder, folder, dirs_exist_ok=True)
    verdict, detail = goes_on(folder, place.baseline)
    yield Result(CLEAN, place.name, f"{place.name}, {number}", "false alarm" if verdict == REFUSED else verdict, detail)


def finished(plan: Plan, baseline: Baseline, number: int, folder: Path) -> Iterator[Result]:
    """Damages a file of a finished run that tells that it has finished, and starts the command again."""
    prepared(baseline.case, folder)
    trials.run(trials.rung(*RUN), folder)
    told = damage(folder / "runs", matching(folder / "runs", FINISHED_FILES), plan.random(KIND, "finished", number))
    verdict, detail = goes_on(folder, baseline)
    yield Result(KIND, "a finished run", told, verdict, detail)


def of_another_run(plan: Plan, baseline: Baseline, number: int, folder: Path) -> Iterator[Result]:
    """Damages the model of a finished run, from which a run of another config then starts."""
    random = plan.random(KIND, "another", number)
    expected = next_run(baseline, folder)
    told = damage(folder / "runs", matching(folder / "runs", MODEL_FILES), random)
    yield Result(KIND, "the model of another run", told, *_next_again(folder, expected))


def clean_next(baseline: Baseline, number: int, folder: Path) -> Iterator[Result]:
    """Starts from the undamaged model of another run, twice."""
    expected = next_run(baseline, folder)
    yield Result(CLEAN, "the model of another run", f"another run, {number}", *_next_again(folder, expected))


def next_run(baseline: Baseline, folder: Path) -> Mapping[str, str]:
    """Finishes the path and a run of another config that starts from its first stage; the files of the latter."""
    prepared(baseline.case, folder)
    (folder / NEXT).write_text(NEXT_CONFIG)
    for arguments in (RUN, ("run", NEXT)):
        trials.run(trials.rung(*arguments), folder)
    expected = tree(folder / "runs" / "next")
    shutil.rmtree(folder / "runs" / "next")
    return expected


def _next_again(folder: Path, expected: Mapping[str, str]) -> tuple[str, str]:
    ended = trials.run(trials.rung("run", NEXT), folder)
    found = problem(ended)
    if found is not None:
        return found
    same = tree(folder / "runs" / "next") == expected and bool(expected)
    return (IDENTICAL, "") if same else (DIFFERS, "the run that starts from it")


def matching(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    """The files below a folder whose relative paths match."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    return [name for name in names if pattern.search(name)]


def damage(folder: Path, names: Sequence[str], random: Random) -> str:
    """Damages one of the named files below a folder; returns what was done."""
    kinds = sorted({_kind(name) for name in names})
    chosen = random.choice(kinds)  # as many of each kind of file, however many there are
    name = random.choice([name for name in names if _kind(name) == chosen])
    path, others = folder / name, [other for other in names if other != name and _kind(other) == chosen]
    possible = dict(DAMAGES)
    if not others:
        del possible["swapped"]
    how = random.choice(sorted(possible))
    before = path.read_bytes()
    if how == "swapped":
        other = folder / random.choice(others)
        before_other = other.read_bytes()
        path.write_bytes(before_other)
        other.write_bytes(before)
        same = before == before_other
        how = f"swapped with {other.relative_to(folder)}"
    else:
        possible[how](path, random)
        same = path.exists() and path.read_bytes() == before
    if same:
        return damage(folder, names, random)
    return f"{name}: {how}"


def _kind(name: str) -> str:
    return re.sub(r"step-\d+|-\d+-shot", "", name.rpartition("/")[2])


def _flip(path: Path, random: Random) -> None:
    raw = bytearray(path.read_bytes())
    if raw:
        raw[random.randrange(len(raw))] ^= 1 << random.randrange(8)
        path.write_bytes(raw)


def _truncate(path: Path, random: Random) -> None:
    os.truncate(path, random.randrange(max(1, path.stat().st_size)))


def _zero_page(path: Path, random: Random) -> None:
    raw = bytearray(path.read_bytes())
    begin = random.randrange(0, max(1, len(raw)), PAGE)
    raw[begin : begin + PAGE] = bytes(len(raw[begin : begin + PAGE]))
    path.write_bytes(raw)


def _edit_number(path: Path, random: Random) -> None:
    """Another digit in a number of a text; a flipped bit where the file is no text or has no number."""
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        return _flip(path, random)
    digits = [match.start() for match in re.finditer(r"\d", text)]
    if not digits:
        return _flip(path, random)
    at = random.choice(digits)
    path.write_text(text[:at] + str((int(text[at]) + 1 + random.randrange(8)) % 10) + text[at + 1 :])


def _delete(path: Path, random: Random) -> None:
    path.unlink()


def _delete_folder(path: Path, random: Random) -> None:
    if path.parent.name in ("model", "adapter") or path.parent.name.startswith("step-"):
        shutil.rmtree(path.parent)
    else:
        path.unlink()


def _empty(path: Path, random: Random) -> None:
    path.write_bytes(b"")


DAMAGES: Mapping[str, Callable[[Path, Random], None]] = {
    "a flipped bit": _flip,
    "truncated": _truncate,
    "a page of zeros": _zero_page,
    "an edited number": _edit_number,
    "deleted": _delete,
    "deleted with its folder": _delete_folder,
    "empty": _empty,
    "swapped": _flip,  # with another file of its kind; `damage` does it
}
