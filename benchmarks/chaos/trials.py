"""Forks a process that has imported everything for each trial, so that a command starts in milliseconds."""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

LIMIT_S = 120.0
GRACE_S = 2.0  # what a process has left behind may take so long to notice
PR_SET_CHILD_SUBREAPER = 36
Body = Callable[[], int | None]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: its exit code or its signal, what it printed, and how many processes it left behind.

    `hung` is True where it had to be killed because it reached the time limit.
    """

    code: int | None
    signal: int | None
    seconds: float
    stdout: str
    stderr: str
    hung: bool
    left_over: int

    @property
    def traceback(self) -> bool:
        """Whether a traceback of Python was printed."""
        return "Traceback (most recent call last)" in self.stderr + self.stdout

    @property
    def warned(self) -> bool:
        """Whether it printed a warning."""
        return "warning:" in (self.stdout + self.stderr).lower()

    @property
    def refused(self) -> bool:
        """Whether it ended with exit code 2 and two lines on stderr, apart from warnings and notes."""
        lines = [line for line in self.stderr.splitlines() if line.strip() and not line.startswith("warning")]
        return self.code == 2 and not self.traceback and len(lines) == 2

    @property
    def told(self) -> str:
        """The last lines on stderr, as one line."""
        return " / ".join(self.stderr.strip().splitlines()[-3:])[:600]


@dataclass(frozen=True, slots=True)
class Started:
    """A process that runs a trial: its id, the time of its start, and the files of stdout and stderr."""

    child: int
    begun: float
    out: str
    err: str


_running: set[int] = set()


def keep(child: int) -> None:
    """Tells that a child of this process was left behind by no trial."""
    _running.add(child)


def adopt_orphans() -> None:
    """Makes this process the parent of whatever its trials leave behind, so that it is counted."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run(
    body: Body,
    folder: Path,
    *,
    signals: Sequence[tuple[float, int]] = (),
    limit_s: float = LIMIT_S,
    outputs: tuple[str, str] | None = None,
) -> Ended:
    """Runs `body` in a forked process group in `folder`, and sends signals so many seconds after its start.

    The exit code is what `body` returns, or that of SystemExit; 1 with a traceback for any other exception. `outputs`
    are the files of stdout and stderr, in `folder` by default.
    """
    out, err = outputs or (str(folder / "stdout"), str(folder / "stderr"))
    return finish(start(body, folder, out, err), signals=signals, limit_s=limit_s)


def start(body: Body, folder: Path, out: str, err: str) -> Started:
    """Forks a process that runs `body` in `folder`, in a process group of its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    begun = time.monotonic()
    child = os.fork()
    if child:
        _running.add(child)
        return Started(child, begun, out, err)
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        for descriptor, name in ((1, out), (2, err)):
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(file, descriptor)
            os.close(file)
        code = _ended(body)
    finally:
        os._exit(code)


def finish(
    started: Started, *, signals: Sequence[tuple[float, int]] = (), limit_s: float = LIMIT_S, left_behind: bool = True
) -> Ended:
    """Waits for the end of a started process, and sends it signals so many seconds after its start.

    With `left_behind`, also waits for the processes that it left behind, and ends and counts them.
    """
    hung = not _wait(started.child, started.begun, signals, limit_s)
    if hung:
        os.killpg(started.child, signal.SIGKILL)
    _, status = os.waitpid(started.child, 0)
    _running.discard(started.child)
    seconds = time.monotonic() - started.begun
    left = _end_orphans() if left_behind else 0
    return Ended(
        code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        seconds=seconds,
        stdout=_text(started.out),
        stderr=_text(started.err),
        hung=hung,
        left_over=left,
    )


def _ended(body: Body) -> int:
    """The exit code that Python would give: that of SystemExit, 1 after an exception, 120 if a flush fails."""
    try:
        code = body() or 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            code = code or 120
    return code


def _wait(child: int, begun: float, signals: Sequence[tuple[float, int]], limit_s: float) -> bool:
    """Waits for the end of a process and sends it the signals; False if it has not ended within the limit."""
    descriptor = os.pidfd_open(child)
    try:
        for after, number in [*sorted(signals), (limit_s, 0)]:
            left = max(0.0, begun + after - time.monotonic())
            if select.select([descriptor], [], [], left)[0]:
                return True
            if number:
                signal.pidfd_send_signal(descriptor, number)
        return False
    finally:
        os.close(descriptor)


def _children() -> list[int]:
    """The processes that ended trials have left behind."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(number) for number in found if int(number) not in _running]


def _end_orphans() -> int:
    """How many processes outlive their trial by more than `GRACE_S`; they are ended."""
    until = time.monotonic() + GRACE_S
    while _children():
        _reap()
        if time.monotonic() > until:
            break
        time.sleep(0.02)
    left = _children()
    while _children():
        for number in _children():
            os.kill(number, signal.SIGKILL)
        time.sleep(0.02)
        _reap()
    return len(left)


def _reap() -> None:
    for number in _children():
        os.waitpid(number, os.WNOHANG)


def _text(file: str) -> str:
    path = Path(file)
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def warm(body: Body, folder: Path) -> None:
    """Imports into this process whatever `body` imports, which is tried in a fork."""
    names = folder / "modules.json"

    def told() -> int | None:
        before = set(sys.modules)
        try:
            return body()
        finally:
            names.write_text(json.dumps(sorted(set(sys.modules) - before)))

    ended = run(told, folder)
    if ended.code != 0:
        sys.exit(f"a run without any fault fails: {ended.told}")
    for name in json.loads(names.read_text()):
        with suppress(ImportError):
            import_module(name)


def rung(*arguments: str, before: Callable[[], None] | None = None) -> Body:
    """The command `rung` with these arguments, after `before` has been called in the same process."""

    def body() -> int | None:
        from rung.cli.main import entry

        sys.argv = ["rung", *arguments]
        if before is not None:
            before()
        entry()
        return 0

    return body


def pool(jobs: int, tasks: Sequence[Callable[[], Iterable[object]]], results: Path) -> None:
    """Runs tasks in `jobs` forked processes; each appends what a task yields to `results` as lines of JSON."""
    reading, writing = os.pipe()
    os.write(writing, b"".join(number.to_bytes(4, "big") for number in range(len(tasks))))
    os.close(writing)
    workers = []
    for _ in range(jobs):
        worker = os.fork()
        if not worker:
            adopt_orphans()
            _work(reading, tasks, results)
        workers.append(worker)
    os.close(reading)
    codes = [os.waitpid(worker, 0)[1] for worker in workers]
    if any(codes):
        sys.exit("a process of the harness itself has failed")


def _work(reading: int, tasks: Sequence[Callable[[], Iterable[object]]], results: Path) -> None:
    code = 1
    try:
        while number := os.read(reading, 4):
            for found in tasks[int.from_bytes(number, "big")]():
                with results.open("a", encoding="utf-8") as file:  # one short write: lines do not mix
                    file.write(json.dumps(found) + "\n")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
