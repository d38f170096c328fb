"""The trainer's end of a socket to the keeper or to a worker process; it never waits longer than it is told to."""

from __future__ import annotations

import contextlib
import json
import math
import select
import socket
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rung.reward.keeper import MAX_REPLY_BYTES, pack

LONGEST_WAIT_S = 3600.0  # more milliseconds than an int of C holds are an error


class WorkerFailure(Exception):
    """Raised if a process ended, does not answer, or sent what is not a message."""


class Connection:
    """Sends and receives messages (see `keeper`), of which none is trusted: the process may run code of a user."""

    def __init__(self, channel: socket.socket):
        channel.setblocking(False)
        self.channel = channel
        self._finalizer = weakref.finalize(self, channel.close)
        self._outgoing = memoryview(b"")
        self._incoming = bytearray()

    @property
    def is_open(self) -> bool:
        """Whether the process at the other end has not closed the socket, as it does when it ends."""
        try:
            return len(self.channel.recv(1, socket.MSG_PEEK)) == 1
        except BlockingIOError:
            return True
        except OSError:
            return False

    @property
    def is_sending(self) -> bool:
        """Whether a part of a message is still to be sent, by `flush`."""
        return len(self._outgoing) > 0

    def send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Sends as much of a message as the process takes now, and the rest when `flush` is called."""
        self._outgoing = memoryview(bytes(self._outgoing) + pack(message))
        if descriptors:
            sent = self._attempt(lambda: socket.send_fds(self.channel, [self._outgoing], descriptors))
            self._outgoing = self._outgoing[sent:]
        self.flush()

    def flush(self) -> None:
        """Sends as much of the remaining message as the process takes now. Raises WorkerFailure if it has ended."""
        while self._outgoing:
            sent = self._attempt(lambda: self.channel.send(self._outgoing))
            if not sent:
                return
            self._outgoing = self._outgoing[sent:]

    def receive(self) -> list[dict[str, Any]]:
        """The messages that have arrived. Raises WorkerFailure if the process has ended or sent something else."""
        try:
            received = self.channel.recv(2**20)
        except BlockingIOError:
            return []
        except OSError:
            received = b""
        if not received:
            raise WorkerFailure("it ended")
        self._incoming += received
        messages = []
        while len(self._incoming) >= 4:
            length = int.from_bytes(self._incoming[:4])
            if length > MAX_REPLY_BYTES:
                raise WorkerFailure(f"it sent a reply of {length} bytes")
            if len(self._incoming) < 4 + length:
                break
            messages.append(_parsed(bytes(self._incoming[4 : 4 + length])))
            del self._incoming[: 4 + length]
        return messages

    def ask(self, message: Mapping[str, Any], seconds: float, descriptors: Sequence[int] = ()) -> dict[str, Any]:
        """Sends a message and returns the answer. Raises TimeoutError after `seconds`, and WorkerFailure."""
        deadline = time.monotonic() + seconds
        self.send(message, descriptors)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            for connection in wait_for([self], left):
                answers = connection.receive()
                if answers:
                    return answers[0]

    def close(self) -> None:
        """Closes the socket, as happens when this object is forgotten."""
        self._finalizer()

    @staticmethod
    def _attempt(send: Any) -> int:
        try:
            return send()
        except BlockingIOError:
            return 0
        except OSError as error:
            raise WorkerFailure("it ended") from error


def wait_for(connections: Iterable[Connection], seconds: float) -> list[Connection]:
    """Waits until messages arrive or `seconds` have passed, and sends meanwhile what is still to be sent.

    Returns the connections that have something to receive: messages, or the news that the process ended.
    """
    poll, by_descriptor, readable = select.poll(), {}, []
    for connection in connections:
        by_descriptor[connection.channel.fileno()] = connection
        poll.register(connection.channel, select.POLLIN | (select.POLLOUT if connection.is_sending else 0))
    for descriptor, events in poll.poll(math.ceil(min(max(seconds, 0.0), LONGEST_WAIT_S) * 1000)):
        connection = by_descriptor[descriptor]
        if events & select.POLLOUT:
            with contextlib.suppress(WorkerFailure):  # `receive` raises it too
                connection.flush()
        if events & ~select.POLLOUT:
            readable.append(connection)
    return readable


def _parsed(payload: bytes) -> dict[str, Any]:
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError):
        raise WorkerFailure("its reply is not JSON") from None
    if not isinstance(message, dict):
        raise WorkerFailure("its reply is not a mapping")
    return message
