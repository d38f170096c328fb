"""A deadline for functions that run in the trainer's own process, because no worker process can import them.

A function in the main thread is interrupted by a signal, on which an exception is raised in it; this also ends a wait
in C. A function that goes on regardless, because it catches every exception or never returns from C, cannot be left:
the process is then ended, and can be resumed. The signals come from a keeper, which does not need Python's lock.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from rung.errors import ConfigError
from rung.reward.connection import WorkerFailure
from rung.reward.keeper import INTERRUPT
from rung.reward.keeper_process import CurrentKeeper

Result = TypeVar("Result")

RENEWED_S = 0.1  # calls that begin within this time share a message to the keeper
GRACE_S = 2.0  # after the deadline, until the process is ended
START_TIMEOUT_S = 120.0  # to import the module of a reward; the timeout of a call starts afterwards


class Expired(BaseException):
    """Raised in a function that has passed its deadline; not an Exception, so that few functions catch it."""


_keeper = CurrentKeeper()
_guarded: list[tuple[int, float]] = []  # the process whose main thread is to be interrupted, and from when on, if any
_armed: list[float] = []  # when the keeper was last told of a deadline, if one holds


def call_within(seconds: float, what: str, function: Callable[[], Result]) -> Result:
    """Calls a function in the main thread, and returns its result; `what` names it in a message.

    Raises Expired in the function, and thus here, after `seconds`; ends the process if it goes on all the same. `free`
    is to be called after the last of several calls.
    """
    if _guarded:  # inside another call, whose deadline holds
        return function()
    if signal.getsignal(INTERRUPT) is not _interrupt:
        signal.signal(INTERRUPT, _interrupt)  # and for ever, since a signal that comes late must not end the process
    now = time.monotonic()
    if not _armed or now - _armed[0] > RENEWED_S:
        _guard(seconds + GRACE_S, seconds, what)
        _armed[:] = [now]
    try:
        try:
            _guarded[:] = [(os.getpid(), now + seconds)]
            return function()
        finally:
            _guarded.clear()
    finally:  # also if the exception is raised in the line above
        _guarded.clear()


def ended_after(seconds: float, what: str) -> None:
    """Ends the process in `seconds`, unless this function or `free` is called before: nothing runs if it is not."""
    _guard(seconds, None, what)


def free() -> None:
    """Takes back the last deadline."""
    _armed.clear()
    with contextlib.suppress(WorkerFailure, OSError):
        _keeper.get().connection.send({"op": "free"})


def imported(name: str, load: Callable[[], Result]) -> Result:
    """What `load`, which imports a user's module, returns. Raises ConfigError if it is not done in time, or exits."""
    try:
        if not is_main_thread():
            return load()
        try:
            return call_within(START_TIMEOUT_S, f"the import of `{name}`", load)
        finally:
            free()
    except Expired:
        what = f"`{name}` was not imported within {START_TIMEOUT_S:g} s"
        raise ConfigError(what, "move what takes long out of its module, into the function") from None
    except SystemExit as error:
        raise ConfigError(f"`{name}` exits on import: {error}", "take the exit out of its module") from None


def is_main_thread() -> bool:
    """Whether Python's signal handlers run in the current thread."""
    return threading.current_thread() is threading.main_thread()


def _guard(end_s: float, interrupt_s: float | None, what: str) -> None:
    text = (
        f"{what} did not end within {end_s:g} s and cannot be interrupted: the process is ended\n"
        "move the function to a file and name it, as in `./my_rewards.py:score`, then run the same command to resume"
    )
    with contextlib.suppress(WorkerFailure, OSError):
        _keeper.get().connection.send({"op": "guard", "end_s": end_s, "interrupt_s": interrupt_s, "text": text})


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _guarded and _guarded[0][0] == os.getpid() and time.monotonic() >= _guarded[0][1]:
        raise Expired
