"""The program of the keeper, the process that starts the worker processes of rewards and ends them.

It never runs code of a user and needs the standard library alone, so that it starts in 30 ms and always answers. It
ends its worker processes with all their descendants when it is told to, and when the trainer has ended in any way.
It also interrupts a function in the trainer's own process that has passed its deadline, and ends the trainer if that
does not help. What workers print goes through it to standard error, as printable text of limited length.

Messages are a 4-byte big-endian length followed by JSON, in both directions. Run as `python -P keeper.py DESCRIPTOR`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

OWN_SOCKET = 3  # the descriptor of a worker's socket, the only one besides the standard three
MAX_REPLY_BYTES = 64 * 2**20
INTERRUPT = signal.SIGRTMIN + 4 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2  # a signal that nothing else sends
INTERRUPT_EVERY_S = 0.2
LINE, BUDGET, REFILL_PER_S = 500, 65_536, 1_024  # characters of printed text: of a line, at once, and per second
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def pack(message: Mapping[str, Any], default: Callable[[object], object] | None = None) -> bytes:
    """A message in the form in which it is sent; `default` converts values that JSON cannot represent."""
    payload = json.dumps(message, default=default).encode()
    return len(payload).to_bytes(4) + payload


class Inbox:
    """Receives messages, and the descriptors that come with them, from a blocking socket."""

    def __init__(self, channel: socket.socket):
        self.channel = channel
        self.descriptors: list[int] = []
        self._bytes = bytearray()

    def receive(self) -> dict[str, Any] | None:
        """The next message; None at the end of the stream."""
        while (message := self._next()) is None:
            received, descriptors, _, _ = socket.recv_fds(self.channel, 65_536, 8)
            if not received:
                return None
            self.descriptors += descriptors
            self._bytes += received
        return message

    @property
    def holds_more(self) -> bool:
        """Whether a whole message has already arrived."""
        return len(self._bytes) >= 4 and len(self._bytes) - 4 >= int.from_bytes(self._bytes[:4])

    def _next(self) -> dict[str, Any] | None:
        if not self.holds_more:
            return None
        end = 4 + int.from_bytes(self._bytes[:4])
        message = json.loads(bytes(self._bytes[4:end]))
        del self._bytes[:end]
        return message


def _prctl(option: int, value: int) -> None:
    """Sets an option of this process; does nothing on a system other than Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def become_worker(descriptor: int, parent: int, niceness: int = 0) -> None:
    """Makes this child of a fork a worker: its own session, one socket, no core files, and an end with its parent."""
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # so that a daemon that a reward starts stays below this process
    if os.getppid() != parent:  # the parent ended before the line above
        os._exit(1)
    if descriptor != OWN_SOCKET:
        os.dup2(descriptor, OWN_SOCKET)
    os.set_inheritable(OWN_SOCKET, False)
    os.closerange(OWN_SOCKET + 1, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 65_536))
    if niceness:
        os.nice(niceness)


def limit_memory() -> None:
    """Limits the data of this process to half of the memory; the kernel ends it before others if memory runs out."""
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    for limited, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_DATA, half)):
        hard = resource.getrlimit(limited)[1]
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limited, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _parents() -> dict[int, tuple[int, str]]:
    """The parent and the state of every process, by its id; empty where there is no /proc."""
    found: dict[int, tuple[int, str]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError, ValueError), open(f"/proc/{name}/stat", "rb") as file:
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
                    found[int(name)] = (int(parent), state.decode())
    return found


def _below(roots: Iterable[int], parents: Mapping[int, tuple[int, str]]) -> set[int]:
    """The descendants of some processes, without the processes themselves."""
    children: dict[int, list[int]] = {}
    for process, (parent, _) in parents.items():
        children.setdefault(parent, []).append(process)
    found: set[int] = set()
    left = list(roots)
    while left:
        new = [child for child in children.get(left.pop(), ()) if child not in found]
        found.update(new)
        left += new
    return found


def _signal(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(process, number)


class Printed:
    """What workers print into the pipe `input`: passed on to standard error as printable lines, within a budget."""

    def __init__(self) -> None:
        self.output, self.input = os.pipe()
        os.set_blocking(self.output, False)
        self.tail = b""
        self.budget, self.refilled, self.told = float(BUDGET), time.monotonic(), False

    def pass_on(self, at_end: bool = False) -> None:
        """Passes on the lines that have arrived; at the end, also a last one that is not ended."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.output, 65_536):
                *lines, self.tail = (self.tail + chunk).split(b"\n")
                self.tail = self.tail[: 4 * LINE]
                for line in lines:
                    self._print_line(line)
                if not at_end:
                    return
        if at_end and self.tail:
            self._print_line(self.tail)

    def _print_line(self, line: bytes) -> None:
        now = time.monotonic()
        self.budget = min(BUDGET, self.budget + (now - self.refilled) * REFILL_PER_S)
        self.refilled = now
        text = line.decode(errors="replace")
        shown = "".join(char if char.isprintable() or char == "\t" else repr(char)[1:-1] for char in text[:LINE])
        shown += "..." if len(text) > LINE else ""
        if self.budget < len(shown):
            if not self.told:
                _write("rewards and tools print more than 64 KiB: the rest is left out")
            self.told = True
            return
        self.budget -= len(shown) + 1
        if self.budget > BUDGET / 2:
            self.told = False
        _write(shown)


class Keeper:
    """Answers the trainer on a socket; `status` has the exit code of each process it started, None while it runs."""

    def __init__(self, control: socket.socket):
        self.inbox = Inbox(control)
        self.trainer = os.getppid()
        self.status: dict[int, int | None] = {}
        self.printed = Printed()
        self.guarded: tuple[float, float | None, str] | None = None  # the time to end, to interrupt, and what to say

    def run(self) -> None:
        """Answers requests until the trainer closes the socket or ends; all workers have then ended."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.inbox.channel, selectors.EVENT_READ)
            selector.register(self.printed.output, selectors.EVENT_READ)
            while os.getppid() == self.trainer:
                ready = {key.fd for key, _ in selector.select(INTERRUPT_EVERY_S if self.guarded else 1.0)}
                self._reap()
                if self.printed.output in ready:
                    self.printed.pass_on()
                if self.inbox.channel.fileno() in ready and not self._answer():
                    break
                self._guard()
        self._end(self.status)
        self.printed.pass_on(at_end=True)

    def _answer(self) -> bool:
        """Answers all requests that have arrived; False at the end of the stream."""
        while True:
            try:
                message = self.inbox.receive()
            except OSError:
                return False
            if message is None:
                return False
            reply = self._handle(message)
            if reply is not None:
                with contextlib.suppress(OSError):
                    self.inbox.channel.sendall(pack(reply))
            if not self.inbox.holds_more:
                return True

    def _handle(self, message: dict[str, Any]) -> dict[str, Any] | None:
        now = time.monotonic()
        if message["op"] == "guard":
            soft = message["interrupt_s"]
            self.guarded = (now + message["end_s"], None if soft is None else now + soft, message["text"])
            return None
        if message["op"] == "free":
            self.guarded = None
            return None
        if message["op"] == "spawn":
            return {"pid": self._spawn(self.inbox.descriptors.pop(0), message)}
        if message["op"] == "end":
            self._end(message["pids"])
            return {}
        self._reap()
        return {"status": self.status.get(message["pid"])}

    def _spawn(self, descriptor: int, order: Mapping[str, Any]) -> int:
        keeper = os.getpid()
        process = os.fork()
        if process:
            os.close(descriptor)
            self.status[process] = None
            return process
        try:
            os.dup2(self.printed.input, 1)
            os.dup2(self.printed.input, 2)
            become_worker(descriptor, keeper)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            limit_memory()
            os.environ.update(order["env"])
            sys.path[:] = order["path"]
            importlib.import_module(order["program"]).serve()
        finally:
            os._exit(1)

    def _end(self, roots: Iterable[int]) -> None:
        """Kills processes with all their descendants, and those of earlier ones that had started a new session.

        A process that forks without end is stopped first, so that the second look finds all of its children.
        """
        own = os.getpid()
        roots = set(roots)
        for _ in range(100):
            self._reap()
            parents = _parents()
            ours = _below([own], parents)
            orphans = {process for process in ours if parents[process][0] == own} - self.status.keys()
            first = (roots & (ours if parents else roots)) | orphans
            family = first | _below(first, parents)
            alive = {process for process in family if parents.get(process, (0, "Z"))[1] != "Z"}
            if not parents:  # a system without /proc: the process groups alone
                for process in roots:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(process, signal.SIGKILL)
                return
            if not alive:
                return
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for process in alive:
                    _signal(process, number)
            time.sleep(0.002)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] in self.status:
                    self.status[ended[0]] = os.waitstatus_to_exitcode(ended[1])

    def _guard(self) -> None:
        """Interrupts the trainer's function from its deadline on, and ends the trainer if it goes on regardless."""
        if self.guarded is None:
            return
        end, soft, text = self.guarded
        now = time.monotonic()
        if now < (end if soft is None else soft):
            return
        if _parents().get(self.trainer, (0, ""))[1] in ("T", "t"):  # stopped, by Ctrl-Z or a debugger
            later = INTERRUPT_EVERY_S
            self.guarded = (end + later, None if soft is None else soft + later, text)
            return
        if now >= end:
            self.guarded = None
            _write(text)
            _signal(self.trainer, signal.SIGKILL)
        else:
            _signal(self.trainer, INTERRUPT)


def _write(text: str) -> None:
    if not select.select([], [2], [], 0)[1]:  # a full pipe, which nobody reads, must not stop this process
        return
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode(errors="backslashreplace"))


def main() -> None:
    """Runs a keeper on the socket whose descriptor is the only argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends with the trainer, which is sent one too
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    Keeper(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
