"""Starts one process per rank on one machine, and ends all if one fails. Use `torchrun` for several machines."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from rung.utils.signals import EXIT_INCONCLUSIVE, EXIT_KEPT, EXIT_STOPPED

ORDERLY = (0, EXIT_KEPT, EXIT_INCONCLUSIVE, EXIT_STOPPED)
GRACE = 10.0  # seconds that the other ranks have to exit by themselves after one has failed


def launch(arguments: Sequence[str], nproc: int) -> int:
    """Runs `rung ARGUMENTS` in `nproc` processes; returns 0, or the exit code of the first process that failed.

    SIGINT and SIGTERM are forwarded to every process.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": str(nproc), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // nproc)))
    # A `yaml.py` or `torch.py` in the working folder must not be imported in place of the installed package: -P leaves
    # the folder out, which an empty entry of PYTHONPATH would bring back.
    shared["PYTHONPATH"] = os.pathsep.join(filter(None, shared.get("PYTHONPATH", "").split(os.pathsep)))
    command = [sys.executable, "-P", "-m", "rung", *arguments]
    processes = [
        # a session of its own: Ctrl-C in the terminal reaches it only once, through this process
        subprocess.Popen(command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, start_new_session=True)
        for rank in range(nproc)
    ]
    with _forwarding(processes):
        return _wait(processes)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    codes: dict[int, int] = {}
    deadline = float("inf")
    while len(codes) < len(processes):
        time.sleep(0.1)
        for rank, process in enumerate(processes):
            if rank in codes or process.poll() is None:
                continue
            codes[rank] = process.returncode
            if process.returncode < 0 and deadline == float("inf"):
                name = signal.Signals(-process.returncode).name
                print(f"rank {rank} of {len(processes)} was ended by {name}", file=sys.stderr)
            if process.returncode not in ORDERLY:
                deadline = min(deadline, time.monotonic() + GRACE)
        if time.monotonic() > deadline:
            for rank, process in enumerate(processes):
                if rank not in codes:
                    process.kill()
    failed = next((code for code in codes.values() if code), 0)
    return failed if failed >= 0 else 128 - failed


@contextmanager
def _forwarding(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    def forward(number: int, frame: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
