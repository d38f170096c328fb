"""Failure of a rank: all ranks exit within seconds, and only the message of the failed rank is printed.

A rank that waits in a collective, or computes for long, does not notice an exception on another rank. Therefore a
thread on each rank polls the store of the process group.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rung.errors import UserError, error_context
from rung.utils.signals import EXIT_ERROR, EXIT_STOPPED, EXIT_USER, before_exit

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[reportPrivateImportUsage]

SECONDS = 1.0  # between two polls
_FIRST, _FAILURE = "rung/failed", "rung/failure"


@contextmanager
def watch_ranks(rank: int, world: int) -> Iterator[None]:
    """Inside the block, an exception on one rank ends all ranks; its message names the rank."""
    from torch.distributed import TCPStore  # type: ignore[reportPrivateImportUsage]

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, wait_for_workers=False)  # a separate connection for the thread
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(store, _local_pids(store, rank, world), over), daemon=True)
    thread.start()

    def tell_stopped() -> None:
        with suppress(RuntimeError):
            store.set(_FAILURE, str(EXIT_STOPPED))

    before_exit.append(tell_stopped)
    try:
        yield
    except UserError as error:
        _report_failure(store, EXIT_USER, over)
        with error_context(f"rank {rank} of {world}"):
            raise error
    except Exception as error:
        _report_failure(store, EXIT_ERROR, over)
        error.add_note(f"on rank {rank} of {world}")
        raise
    finally:
        before_exit.remove(tell_stopped)
        over.set()
        thread.join()


def _local_pids(store: TCPStore, rank: int, world: int) -> dict[int, int]:
    """The process ids of the other ranks on this machine, by rank."""
    store.set(f"rung/place/{rank}", f"{os.getpid()} {socket.gethostname()}")
    places = {other: store.get(f"rung/place/{other}").decode().split() for other in range(world) if other != rank}
    return {other: int(number) for other, (number, host) in places.items() if host == socket.gethostname()}


def _report_failure(store: TCPStore, code: int, over: threading.Event) -> None:
    """On the first rank that fails, records the failure and returns; on any other rank, exits the process."""
    over.set()
    try:
        if store.add(_FIRST, 1) == 1:
            store.set(_FAILURE, str(code))
        else:
            os._exit(int(store.get(_FAILURE)))
    except RuntimeError:  # the store is gone with the rank that hosted it
        os._exit(code)


def _watch(store: TCPStore, pids: dict[int, int], over: threading.Event) -> None:
    parent = os.getppid()
    while not over.wait(SECONDS):
        if os.getppid() != parent:
            os._exit(EXIT_ERROR)  # the process that started the ranks has exited
        try:
            if store.check([_FAILURE]) and not over.is_set():
                os._exit(int(store.get(_FAILURE)))
            exited = [other for other, number in pids.items() if not _alive(number)]
            if exited and not over.is_set():
                if store.add(_FIRST, 1) == 1:
                    print(f"rank {exited[0]} exited without an error message", file=sys.stderr, flush=True)
                os._exit(EXIT_ERROR)
        except RuntimeError:
            if not over.is_set():
                os._exit(EXIT_ERROR)


def _alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
