"""Errors of the disk at every file operation, also at reads; a small file system, outputs that cannot be written to."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.chaos import points, trials
from benchmarks.chaos.baselines import RUN, Baseline
from benchmarks.chaos.frame import (
    AFTERWARDS,
    FAILED,
    IDENTICAL,
    IMPOSSIBLE,
    REFUSED,
    SILENT,
    TRACEBACK,
    UNTOLD,
    Plan,
    Result,
    Trial,
    compared,
    goes_on,
    prepared,
    problem,
)
from benchmarks.chaos.trials import Ended

KIND = "errors of the disk"
ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO)
READ_ERRORS = (errno.EACCES, errno.EIO)
SINGLE = ("ppo", "reward_model")
NOBODY = 65534
CLONE_NEWNS, MS_REC, MS_PRIVATE, MS_REMOUNT = 0x20000, 0x4000, 1 << 18, 32
STEPS = (0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)


def plan(plan: Plan) -> list[Trial]:
    """The trials: all errors at every operation of the path, one at reads, repetitions and operations of two stages.

    The short plan is a sample.
    """
    made: list[Trial] = []
    for name in ("path", *SINGLE):
        baseline = plan.baselines[name]
        count = len(baseline.reads)
        for number in plan.choice(16 if name == "path" else 3, count, KIND, name) if plan.quick else range(count):
            which = plan.random(KIND, name, number)
            label = baseline.reads[number]
            possible = errors_at(label)
            one = plan.quick or name != "path" or label.startswith("read") or label in baseline.reads[:number]
            for code in [which.choice(possible)] if one else possible:
                made.append(partial(at_operation, baseline, number, code, which.random() < 0.25))
    made += [partial(full_file_system, plan.baselines["path"], share) for share in STEPS[:: 4 if plan.quick else 1]]
    made += [partial(unwritable_folder, plan.baselines["sft"])]
    made += [partial(outputs, plan.baselines["sft" if plan.quick else "path"], name) for name in OUTPUTS]
    return made


def errors_at(label: str) -> tuple[int, ...]:
    """The errors that are possible at a point: two at a read, and one at the second half of a write."""
    return READ_ERRORS if label.startswith("read") else (errno.ENOSPC,) if label.startswith("rest of") else ERRORS


def at_operation(baseline: Baseline, at: int, code: int, lasting: bool, folder: Path) -> Iterator[Result]:
    """Raises an error at one operation of a run, with `lasting` also at later ones; then the same command again."""
    prepared(baseline.case, folder)
    ended = trials.run(trials.rung(*RUN, before=raising(folder, at, code, lasting)), folder)
    name = errno.errorcode[code]
    trial = f"{name} at point {at}{' and ever after' if lasting else ''}: {baseline.reads[at]}"
    yield Result(
        KIND,
        f"{name}, {'the path' if baseline.case == 'path' else 'single stages'}",
        trial,
        *told_and_kept(ended, folder, baseline),
    )


def raising(folder: Path, at: int, code: int, lasting: bool, below: str = "runs") -> Callable[[], None]:
    """A function that makes the process that calls it meet an OSError at point `at` of its file operations."""

    def before() -> None:
        seen = -1

        def act(label: str, half: Callable[[], None]) -> None:
            nonlocal seen
            seen += 1
            if seen == at or (lasting and seen > at and not label.startswith("read")):
                half()
                raise OSError(code, os.strerror(code), label.rpartition(" ")[2])

        points.install(folder / below, act, reads=True)

    return before


def told_and_kept(ended: Ended, folder: Path, baseline: Baseline) -> tuple[str, str]:
    """The verdict of a run that met an error: it was told in two lines or in a warning, and nothing is lost.

    A run that ended with exit code 0, without a word, passes only where its files are those of the undisturbed run.
    """
    found = problem(ended)
    if found is None and not ended.warned:
        verdict, detail = compared(folder, baseline)
        return (UNTOLD, "") if verdict == IDENTICAL else (SILENT, detail)
    if found is not None and found[0] == FAILED and ended.code not in (None, 0) and ended.warned:
        found = None  # it went on with a warning, and its exit code tells
    if found is not None and found[0] != REFUSED:
        return found
    again, detail = goes_on(folder, baseline, other_saves=True)
    return (AFTERWARDS, "") if again == IDENTICAL else (again, f"afterwards: {detail}")


def full_file_system(baseline: Baseline, share: float, folder: Path) -> Iterator[Result]:
    """A real file system that holds only a share of the run; after it has been made larger, the same command again."""
    prepared(baseline.case, folder)
    group, trial = "a real full file system", f"{baseline.case} with {share:.0%} of the space"
    try:
        mount = _mounted(folder / "runs", 4096)
    except OSError as error:
        yield Result(KIND, group, trial, IMPOSSIBLE, str(error))
        return
    mount(int(baseline.size * share))
    ended = trials.run(trials.rung(*RUN), folder)
    mount(200_000_000)
    verdict, detail = told_and_kept(ended, folder, baseline)
    ctypes.CDLL(None).umount2(str(folder / "runs").encode(), 2)
    yield Result(KIND, group, trial, verdict, detail)


def _mounted(folder: Path, size: int) -> Callable[[int], None]:
    """Mounts a file system in memory, which only this process and its children see; gives what changes its size."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*arguments) != 0:
            raise OSError(ctypes.get_errno(), f"{name} is not permitted")

    def resize(number: int) -> None:
        call("mount", None, str(folder).encode(), None, MS_REMOUNT, f"size={number}".encode())

    folder.mkdir()
    call("unshare", CLONE_NEWNS)
    call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    call("mount", b"tmpfs", str(folder).encode(), b"tmpfs", 0, f"size={size}".encode())
    return resize


def unwritable_folder(baseline: Baseline, folder: Path) -> Iterator[Result]:
    """A folder with mode 555, as a user without privileges meets it; after it has been made writable, again."""
    prepared(baseline.case, folder)
    group, trial = "mode 555", baseline.case
    if os.getuid() != 0:
        unprivileged = trials.rung(*RUN)
    else:
        for path in (*folder.rglob("*"), folder):
            os.chown(path, NOBODY, NOBODY)
        for parent in folder.parents:
            if parent.name.startswith("chaos-"):
                parent.chmod(0o711)

        def unprivileged() -> int | None:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            return trials.rung(*RUN)()

    folder.chmod(0o555)
    place = (str(folder.parent / f"{folder.name}-out"), str(folder.parent / f"{folder.name}-err"))
    ended = trials.run(unprivileged, folder, outputs=place)
    folder.chmod(0o755)
    for name in place:
        Path(name).unlink()
    yield Result(KIND, group, trial, *told_and_kept(ended, folder, baseline))


def outputs(baseline: Baseline, name: str, folder: Path) -> Iterator[Result]:
    """A stdout or stderr that cannot be written to: the run ends with the same files."""
    prepared(baseline.case, folder)
    ended = trials.run(trials.rung(*RUN, before=OUTPUTS[name]), folder)
    found = problem(ended)
    verdict, detail = compared(folder, baseline)
    if ended.traceback:
        verdict, detail = TRACEBACK, ended.told
    elif verdict != IDENTICAL:
        verdict, detail = (verdict, detail) if found is None else found
    yield Result(KIND, "outputs and the clock", f"{baseline.case}: {name}", verdict, detail)


def _full(descriptor: int) -> Callable[[], None]:
    def before() -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)

    return before


def _closed(descriptor: int) -> Callable[[], None]:
    def before() -> None:
        os.close(descriptor)
        setattr(sys, {1: "stdout", 2: "stderr"}[descriptor], None)

    return before


def _broken_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)


def _frozen_clock() -> None:
    now = time.perf_counter()
    time.perf_counter = lambda: now


OUTPUTS: dict[str, Callable[[], None]] = {
    "stdout is full": _full(1),
    "stderr is full": _full(2),
    "stdout is closed": _closed(1),
    "stderr is closed": _closed(2),
    "the reader of stdout has gone": _broken_pipe,
    "the clock stands still": _frozen_clock,
}
