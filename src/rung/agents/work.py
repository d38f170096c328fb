"""One call of a tool that is to be made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rung.agents.results import ToolResult
from rung.agents.tools import Tool


@dataclass(eq=False, slots=True)
class Work:
    """A call of `tool`; `result` is None until it has ended.

    In a worker process, random numbers are seeded with `draw`, so that a resumed run draws them anew.
    """

    tool: Tool
    arguments: Mapping[str, Any]
    draw: tuple[int, int]  # the ticket, and the place of the call in its turn
    result: ToolResult | None = None


def late(work: Work) -> str:
    """Why a call has failed that has passed its deadline."""
    return f"no result within {work.tool.timeout_s:g} s"
