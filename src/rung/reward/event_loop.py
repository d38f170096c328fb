"""The event loop of `async` rewards: one for the life of the process, in a thread of its own.

A client, a session or a semaphore that a module creates once belongs to the loop on which it is first used. It can
therefore be used in every batch, in training and in evaluations.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class EventLoop:
    """An event loop that runs in a daemon thread, so that a notebook, whose thread already runs a loop, can use it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rung-event-loop", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether coroutines can be run; False after a function ended the thread."""
        return self._thread.is_alive()

    def start(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Starts a coroutine, and returns at once."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, Result], timeout: float | None = None) -> Result:
        """Runs a coroutine and returns its result. Raises TimeoutError after `timeout` seconds, even if it blocks."""
        future = self.start(coroutine)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancels what still runs and ends the thread, unless a function blocks it; it then ends with the process."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=1.0)
        if not self._thread.is_alive():
            self._loop.run_until_complete(_cancel_all())
            self._loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=1.0)
    await asyncio.get_running_loop().shutdown_asyncgens()


_lock = threading.Lock()
_current: list[EventLoop] = []
_left: list[EventLoop] = []  # kept, because a loop that is collected closes itself, also for the parent of a fork


def event_loop() -> EventLoop:
    """The event loop of this process, which is started on first use and closed when the process exits."""
    with _lock:
        if _current and not _current[0].is_running:
            _left.append(_current.pop())
        if not _current:
            _current.append(EventLoop())
        return _current[0]


def leave_event_loop() -> None:
    """Makes the next call of `event_loop` start another one, because a function blocks the current one."""
    with _lock:
        _left.extend(_current)
        _current.clear()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    leave_event_loop()


@atexit.register
def _close() -> None:
    while _current:
        _current.pop().close()


os.register_at_fork(after_in_child=_after_fork)
