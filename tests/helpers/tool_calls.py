"""Makes the calls of a turn and waits for their results."""

import time

from rung.agents.calling import ToolCaller, ToolResult
from rung.agents.parsing import Call


def results(caller: ToolCaller, *calls: Call) -> list[ToolResult]:
    caller.submit(0, calls)
    return ended(caller)[0]


def ended(caller: ToolCaller, count: int = 1) -> dict[int, list[ToolResult]]:
    found: dict[int, list[ToolResult]] = {}
    until = time.monotonic() + 60
    while len(found) < count and time.monotonic() < until:
        found.update(caller.poll(1.0))
    assert len(found) == count
    return found
