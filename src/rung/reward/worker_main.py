"""The program of a worker process: loads functions, calls them, and forks lanes, which have loaded the same functions.

A lane has its own socket and calls functions; the process that it is forked from calls none, so that every new lane
starts from the state after loading.
"""

from __future__ import annotations

import numbers
import os
import random
import signal
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rung.reward.call import Reply, call, call_all_async, is_async
from rung.reward.decorator import Verdict
from rung.reward.guard import restored_process
from rung.reward.keeper import MAX_REPLY_BYTES, OWN_SOCKET, Inbox, become_worker, pack
from rung.reward.outcome import Outcome, raised
from rung.reward.registry import reward_function
from rung.reward.returned import as_json, copied
from rung.reward.signature import read_settings, read_signature
from rung.reward.trainer_state import TrainerState

LONG_CALL_S = 0.01  # calls that wait behind one are taken away after a longer time
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_masks = threading.local()


@dataclass(frozen=True, slots=True)
class _Loaded:
    function: Callable[..., Any]
    settings: dict[str, Any]
    hooks: tuple[str, ...]


def _as_json(value: object) -> object:
    if isinstance(value, Verdict):
        return {"verdict": {**asdict(replace(value, parts={})), "parts": as_json(value.parts)}}
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"returned a {type(value).__name__}, which JSON cannot represent")


def _packed(place: dict[str, int], reply: Reply | Outcome) -> bytes:
    """The answer for one call, with the row in `place`; an error if it cannot be represented, or is too large."""
    try:
        told = {**place, **_told(reply)}
        try:
            packed = pack(told)
        except TypeError:
            packed = pack(told, default=_as_json)
    except Exception as error:
        return pack({**place, "error": asdict(raised(error))})
    if len(packed) > MAX_REPLY_BYTES:
        note = f"returned and logged {len(packed)} bytes, more than {MAX_REPLY_BYTES}"
        return pack({**place, "error": asdict(Outcome("error", note=note))})
    return packed


def _told(reply: Reply | Outcome) -> dict[str, Any]:
    if isinstance(reply, Outcome):
        return {"error": asdict(reply)}
    return {"returned": reply.returned, "columns": reply.columns, "metrics": reply.metrics}


def seed(*parts: str | int) -> None:
    """Seeds the global generators, so that a resumed run, or a call in another lane, draws the same numbers."""
    number = zlib.crc32(" ".join(map(str, parts)).encode())
    random.seed(number)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(number)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(number)


class Server:
    """Answers the requests of the trainer on the socket of this process; the functions are rewards."""

    def __init__(self) -> None:
        self.channel = socket.socket(fileno=OWN_SOCKET)
        self.inbox = Inbox(self.channel)
        self.loaded: dict[str, Any] = {}
        self.lanes: dict[int, int | None] = {}  # exit codes; None while a lane runs

    def run(self) -> None:
        """Answers requests until the socket is closed."""
        while (request := self.inbox.receive()) is not None:
            getattr(self, f"_{request['op']}")(request)

    def load(self, address: dict[str, Any]) -> Any:
        """What `_call` needs of the function at an address."""
        base = address["base"]
        function = reward_function(address["name"], Path(base) if base else None)
        signature = read_signature(function, address["name"], address["args"], address["columns"])
        return _Loaded(function, read_settings(signature, address["name"], address["args"]), signature.hooks)

    def _load(self, request: dict[str, Any]) -> None:
        try:
            self.loaded = {key: self.load(address) for key, address in request["addresses"].items()}
        except BaseException as error:
            self.channel.sendall(pack({"error": asdict(raised(error))}))
            return
        self.channel.sendall(pack({"can_fork": _can_fork()}))

    def _fork(self, request: dict[str, Any]) -> None:
        descriptor, parent = self.inbox.descriptors.pop(0), os.getpid()
        process = os.fork()
        if process:
            os.close(descriptor)
            self.lanes[process] = None
            self._reap()
            self.channel.sendall(pack({"pid": process}))
            return
        become_worker(descriptor, parent, request["nice"])
        _hold_signals()
        self.lanes = {}
        self.channel.detach()
        self.channel = socket.socket(fileno=OWN_SOCKET)
        self.inbox = Inbox(self.channel)

    def _status(self, request: dict[str, Any]) -> None:
        self._reap()
        self.channel.sendall(pack({"status": self.lanes.get(request["pid"])}))

    def _reap(self) -> None:
        for process, status in self.lanes.items():
            if status is None:
                ended, code = os.waitpid(process, os.WNOHANG)
                self.lanes[process] = os.waitstatus_to_exitcode(code) if ended else None

    def _call(self, request: dict[str, Any]) -> None:
        entry, state = self.loaded[request["key"]], TrainerState(**request["state"])
        many = {int(row): {**each, **copied(entry.settings)} for row, each in request["many"].items()}
        serial = request["serial"]
        seed(request["key"], state.global_step, min(many))
        if is_async(entry.function):
            rows = list(many)

            def answer(number: int, reply: Reply | Outcome) -> None:
                self.channel.sendall(_packed({"serial": serial, "row": rows[number]}, reply))

            limits = (request["timeout"], request["concurrency"])
            call_all_async(entry.function, entry.hooks, list(many.values()), state, *limits, on_reply=answer)
            return
        forgotten: set[int] = set()
        began = time.monotonic()
        for row, arguments in many.items():
            took, began = time.monotonic() - began, time.monotonic()
            while took > LONG_CALL_S and self._has_news():  # while the last call ran, others may have been taken away
                message = self.inbox.receive()
                if message is None:
                    os._exit(0)
                forgotten.update(message["rows"])
            if row not in forgotten:
                with restored_process():
                    reply = call(entry.function, entry.hooks, arguments, state)
                self.channel.sendall(_packed({"serial": serial, "row": row}, reply))

    def _has_news(self) -> bool:
        try:
            self.channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        return True

    def _forget(self, request: dict[str, Any]) -> None:
        """Does nothing, since all calls have been made when this arrives here."""


def _can_fork() -> bool:
    """Whether no module has started a thread: a child of a fork has none of the threads, but holds their locks."""
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return threading.active_count() == 1


def _hold_signals() -> None:
    """Leaves SIGTERM and SIGINT, which may be sent to all processes of a job, to the trainer, which stops in order."""
    for number in _STOPPING:
        signal.signal(
            number, lambda number, frame: None
        )  # not SIG_IGN, which programs that a reward runs would inherit


def _block_signals() -> None:
    """Blocks the signals during a fork, so that one sent to the child is delivered after its handlers are restored."""
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _release_signals() -> None:
    """Restores the signals in a child that a reward forks, so that the reward can end it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _unblock_signals()


def serve(server: type[Server] = Server) -> None:
    """Answers requests until the socket is closed; prints go to standard error, and input is empty."""
    sys.stdout = sys.stderr
    _hold_signals()
    os.register_at_fork(before=_block_signals, after_in_parent=_unblock_signals, after_in_child=_release_signals)
    server().run()
    sys.stderr.flush()
