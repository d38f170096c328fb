"""Keeps what a reward does to its process away from training: working folder, torch's modes, and `os._exit`."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_exit_process = os._exit
_calls = threading.local()


@contextmanager
def restored_process() -> Iterator[None]:
    """Restores the working folder, and torch's default dtype and grad mode (if it is imported), after the block."""
    torch = sys.modules.get("torch")
    dtype, grad = (torch.get_default_dtype(), torch.is_grad_enabled()) if torch else (None, None)
    folder = _working_folder()
    try:
        yield
    finally:
        if torch and (dtype, grad) != (torch.get_default_dtype(), torch.is_grad_enabled()):
            torch.set_default_dtype(dtype)
            torch.set_grad_enabled(grad)
        if folder is not None and _working_folder() != folder:
            with suppress(OSError):
                os.chdir(folder)


@contextmanager
def exits_raise() -> Iterator[None]:
    """Makes `os._exit` raise SystemExit inside the block, which would otherwise end training without a message.

    Children that are forked inside the block, and other threads, exit as usual.
    """
    os._exit = _exit
    before = getattr(_calls, "process", None)
    _calls.process = os.getpid()
    try:
        yield
    finally:
        _calls.process = before


def _exit(status: int) -> None:
    if getattr(_calls, "process", None) == os.getpid():
        raise SystemExit(f"os._exit({status})")
    _exit_process(status)


def _working_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None
