"""Ctrl-C and SIGTERM ask a run to stop after its step; asked twice, it goes at once."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType

EXIT_ERROR, EXIT_USER = 1, 2
EXIT_KEPT, EXIT_INCONCLUSIVE = 3, 4  # under --strict: a stage was not promoted, or is open
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command, run again, goes on


class StopFlag:
    """`with StopFlag() as stop`: SIGINT and SIGTERM set `stop.requested`; a second one exits at once with 75.

    For the main thread, as signal handlers are. The handlers of before are back on leaving.
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
        # os.write: a handler may interrupt a print, and buffered streams do not allow a second one inside
        os.write(2, b"\nstopping after this step (once more: at once, without saving)\n")
