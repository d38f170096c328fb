"""The program of the worker processes of tools: as that of rewards, but a call has arguments and returns a text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rung.agents.results import made
from rung.agents.tools import tool_function
from rung.reward import worker_main
from rung.reward.guard import restored_process
from rung.reward.keeper import pack


class ToolServer(worker_main.Server):
    """Answers the requests of the trainer on the socket of this process; the functions are tools."""

    def load(self, address: dict[str, Any]) -> Callable[..., Any]:
        """The function at an address."""
        return tool_function(address["name"], Path(address["base"]))

    def _call(self, request: dict[str, Any]) -> None:
        worker_main.seed(request["key"], *request["draw"])
        with restored_process():
            result = made(self.loaded[request["key"]], request["arguments"])
        self.channel.sendall(pack({"serial": request["serial"], **asdict(result)}))


def serve() -> None:
    """Answers requests until the socket is closed; prints go to standard error, and input is empty."""
    worker_main.serve(ToolServer)
