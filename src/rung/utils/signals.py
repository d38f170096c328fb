"""Ctrl-C and SIGTERM stop a run after the current step; a second signal stops it at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType

EXIT_ERROR, EXIT_USER = 1, 2
EXIT_KEPT, EXIT_INCONCLUSIVE = 3, 4  # with --strict: a stage was not promoted, or its gate was inconclusive
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: running the same command again resumes
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_exit_at_once = os._exit  # bound here, since a reward's call of `os._exit` is intercepted


class StopFlag:
    """In `with StopFlag() as stop`, SIGINT and SIGTERM set `stop.requested`; a second one exits at once, with code 75.

    For use in the main thread, as Python requires of signal handlers. The previous handlers are restored on exit, and
    in every child that is forked inside the block, so that a child can be terminated.
    """

    def __init__(self) -> None:
        self.requested = False

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
        if self.requested:
            _exit_at_once(EXIT_STOPPED)
        self.requested = True
        # os.write, because the handler may interrupt a print, and buffered streams are not reentrant
        os.write(2, b"\nstopping after this step (a second signal stops at once, without saving)\n")


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
