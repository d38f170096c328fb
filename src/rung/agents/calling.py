"""Makes the calls of a turn side by side, and tells when all of them have ended."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rung.agents.local import Local
from rung.agents.parsing import Call
from rung.agents.results import ToolResult, mistake
from rung.agents.schema import wrong_argument
from rung.agents.tools import Tool
from rung.agents.work import Work
from rung.agents.workers import Workers

__all__ = ["ToolCaller", "ToolResult"]
_SLICE_S = 0.005  # of a wait for worker processes while the event loop runs calls too


class ToolCaller:
    """Calls tools, and owns their worker processes.

    Tools of a config run in worker processes, which share no state; functions of a Python program in this process.
    """

    def __init__(self, tools: Sequence[Tool]):
        self._tools = {tool.name: tool for tool in tools}
        self._workers = Workers(tools)
        self._local = Local()
        self._open: dict[int, list[Work | ToolResult]] = {}

    def submit(self, ticket: int, calls: Sequence[Call], tools: Mapping[str, Tool] | None = None) -> None:
        """Starts the calls of a turn, and returns at once.

        `tools` by name are those that the turn may call, such as the methods of an environment; by default all tools.
        The first call of a file waits until a worker process has loaded it. In a worker process, the random numbers of
        a call depend on the ticket and its place in the turn alone.
        """
        assert ticket not in self._open, f"the calls of ticket {ticket} still run"
        known = self._tools if tools is None else tools
        started = (self._started(call, known.get(call.name), (ticket, n)) for n, call in enumerate(calls))
        self._open[ticket] = list(started)

    def poll(self, timeout_s: float) -> list[tuple[int, list[ToolResult]]]:
        """The tickets whose calls have all ended, each with the results in the order of the calls.

        Returns as soon as there is one, and after `timeout_s` seconds at the latest, unless a function that is no
        coroutine runs in this process; with 0, at most one such function is called.
        """
        if not self._open:
            return []
        end, wait = time.monotonic() + timeout_s, 0.0
        while True:
            self._look(wait)
            ended = self._ended()
            wait = end - time.monotonic()
            if ended or wait <= 0:
                return ended

    def forget(self, ticket: int) -> None:
        """Discards the results of a ticket; its calls end by themselves, or at their deadlines."""
        self._open.pop(ticket, None)

    def close(self) -> None:
        """Ends the worker processes and forgets the calls that run; the next call starts new processes."""
        self._open.clear()
        self._local.close()
        self._workers.close()

    def _started(self, call: Call, tool: Tool | None, draw: tuple[int, int]) -> Work | ToolResult:
        if tool is None:
            return mistake(f"Tool {call.name} not found.")
        if wrong := wrong_argument(tool.parameters, call.arguments):
            return mistake(f"{tool.name}: {wrong}")
        work = Work(tool, call.arguments, draw)
        (self._local if tool.address is None else self._workers).add(work)
        return work

    def _look(self, seconds: float) -> None:
        both = self._local.is_busy and self._workers.is_busy
        self._workers.look(min(seconds, _SLICE_S) if both else seconds)
        self._local.look(0.0 if both else seconds)

    def _ended(self) -> list[tuple[int, list[ToolResult]]]:
        ended = []
        for ticket, entries in list(self._open.items()):
            results = [entry.result if isinstance(entry, Work) else entry for entry in entries]
            done = [result for result in results if result is not None]
            if len(done) == len(entries):
                del self._open[ticket]
                ended.append((ticket, done))
        return ended
