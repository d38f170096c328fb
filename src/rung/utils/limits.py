"""Bounds the time and the memory of work whose cost is decided by somebody else, such as rendering a chat template."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

Made = TypeVar("Made")
_TICK_S = 0.25


class LimitError(Exception):
    """Raised for work that was stopped; the text says which limit it reached, as in `takes longer than 5 s`."""


class Limits:
    """Stops each piece of work that takes more than `seconds`, or needs more than `num_bytes` of memory.

    `run` does one piece of work. A block `with limits:` around many of them makes each cheap (a reading of the clock):
    the timer and the limit of the process's address space, which take system calls, are set once for the block. Only
    the main thread can be interrupted; in other threads, and where a platform has no such limits, nothing is stopped.

    Signals interrupt Python between two operations, and long ones in C (powers, regular expressions); the limit of the
    address space makes a single operation fail that would fill the memory before it is interrupted.
    """

    def __init__(self, seconds: float, num_bytes: int):
        self.seconds, self.num_bytes = seconds, num_bytes
        self._depth = 0
        self._begun: float | None = None
        self._before = (-1, -1)  # the soft and the hard limit of the address space outside of a block
        self._undo = contextlib.ExitStack()

    def run(self, work: Callable[[], Made]) -> Made:
        """The result of `work()`. Raises LimitError if it was stopped."""
        if not self._depth:
            with self:
                return self.run(work)
        self._begun = time.monotonic()
        try:
            return work()
        except MemoryError:
            raise LimitError(f"needs more than {self.num_bytes / 2**30:g} GiB of memory") from None
        finally:
            self._begun = None

    def __enter__(self) -> Limits:
        self._depth += 1
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            self._undo = contextlib.ExitStack()
            self._limit_time()
            self._limit_memory()
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._undo.close()

    def _limit_time(self) -> None:
        if not hasattr(signal, "setitimer"):
            return
        handler = signal.signal(signal.SIGALRM, self._tick)
        timer = signal.setitimer(signal.ITIMER_REAL, _TICK_S, _TICK_S)
        self._undo.callback(signal.signal, signal.SIGALRM, handler)
        self._undo.callback(signal.setitimer, signal.ITIMER_REAL, *timer)

    def _limit_memory(self) -> None:
        if sys.platform != "linux":
            return
        import resource

        self._before = resource.getrlimit(resource.RLIMIT_AS)
        self._undo.callback(resource.setrlimit, resource.RLIMIT_AS, self._before)
        self._allow_memory()

    def _tick(self, number: int, frame: FrameType | None) -> None:
        """Called every quarter of a second: stops the work under way, or allows for what earlier work has kept."""
        begun = self._begun
        if begun is not None and time.monotonic() - begun > self.seconds:
            raise LimitError(f"takes longer than {self.seconds:g} s")
        if (begun is None or time.monotonic() - begun < _TICK_S) and sys.platform == "linux":
            self._allow_memory()

    def _allow_memory(self) -> None:
        """Limits the address space to its present size and `num_bytes` more, below the limits that it had before."""
        import resource

        with open("/proc/self/statm") as file:
            wanted = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + self.num_bytes
        lowest = min(bound for bound in (wanted, *self._before) if bound != resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_AS, (lowest, self._before[1]))
