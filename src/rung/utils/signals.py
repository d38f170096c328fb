"""Ctrl-C and SIGTERM stop a run: at once where nothing would be lost, in training after the current step."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType

EXIT_ERROR, EXIT_USER = 1, 2
EXIT_KEPT, EXIT_INCONCLUSIVE = 3, 4  # with --strict: a stage was not promoted, or its gate was inconclusive
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: running the same command again resumes
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_exit_at_once = os._exit  # bound here, since a reward's call of `os._exit` is intercepted


before_exit: list[Callable[[], None]] = []  # called before a signal ends the process at once


class StopFlag:
    """In `with StopFlag() as stop`, SIGINT and SIGTERM end the process with code 75: the same command resumes.

    They end it at once, or set `stop.requested` inside `with stop.deferred()`, where a second signal ends it at once.
    For use in the main thread, as Python requires of signal handlers. The previous handlers are restored on exit, and
    in every child that is forked inside the block, so that a child can be terminated.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A context manager in which a signal is kept until the block asks for it, because work would be lost."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def __enter__(self) -> StopFlag:
        self._before = {number: signal.signal(number, self._handle) for number in _STOPPING}
        _entered.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _entered.remove(self)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested or not self._deferred:
            _end(b"\nstopped; the same command resumes\n")
        self.requested = True
        _say(b"\nstopping after this step (a second signal stops at once, without saving)\n")


_ended: list[int] = []


def end_quietly(code: int | None = None) -> None:
    """Makes SIGINT and SIGTERM end this process without a traceback where no `StopFlag` handles them.

    The exit code is that of `run_has_ended`, else `code`, else 128 plus the number of the signal, as shells have it.
    """

    def end(number: int, frame: FrameType | None) -> None:
        _exit_at_once(_ended[-1] if _ended else 128 + number if code is None else code)

    for number in _STOPPING:
        signal.signal(number, end)


def run_has_ended(code: int) -> int:
    """Makes a signal that comes while Python ends leave this exit code, which is returned, as it is."""
    _ended.append(code)
    return code


def _end(message: bytes) -> None:
    """Ends the process from a signal handler, without unwinding: a reward may catch every exception."""
    _say(message)
    for call in before_exit:
        call()
    if sys.__stderr__ is not None and sys.__stderr__.isatty():
        _say(b"\x1b[?25h")  # a progress bar hides the cursor
    _exit_at_once(EXIT_STOPPED)


def _say(message: bytes) -> None:
    """Writes to stderr by `os.write`: the handler may interrupt a print, and buffered streams are not reentrant."""
    with suppress(OSError):
        os.write(2, message)


_entered: list[StopFlag] = []
_masks = threading.local()


def _hold_signals() -> None:
    """Blocks the signals during a fork, so that one sent to a child is delivered after its handlers are restored."""
    if _entered:
        _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)


def _release_signals() -> None:
    before = _masks.__dict__.pop("before", None)
    if before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _restore_in_child() -> None:
    while _entered:
        _entered.pop()._restore()
    _release_signals()


os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_restore_in_child)
