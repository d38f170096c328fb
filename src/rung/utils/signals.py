"""Ctrl-C and SIGTERM stop a run after the current step; a second signal stops it at once."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType

EXIT_ERROR, EXIT_USER = 1, 2
EXIT_KEPT, EXIT_INCONCLUSIVE = 3, 4  # with --strict: a stage was not promoted, or its gate was inconclusive
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: running the same command again resumes


class StopFlag:
    """In `with StopFlag() as stop`, SIGINT and SIGTERM set `stop.requested`; a second one exits at once, with code 75.

    For use in the main thread, as Python requires of signal handlers. The previous handlers are restored on exit.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> StopFlag:
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(EXIT_STOPPED)
        self.requested = True
        # os.write, because the handler may interrupt a print, and buffered streams are not reentrant
        os.write(2, b"\nstopping after this step (a second signal stops at once, without saving)\n")
