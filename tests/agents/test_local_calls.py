"""Calls in the process of training: methods of environments, and functions that a Python program passes."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers.tool_calls import ended, results
from rung.agents.calling import ToolCaller, ToolResult
from rung.agents.parsing import Call
from rung.agents.tools import Tool, load_tools, method_tools

pytestmark = pytest.mark.process


class Counter:
    """An environment whose methods are called in this process."""

    def __init__(self) -> None:
        self.met: set[str] = set()
        self.log: list[str] = []

    def add(self, what: str) -> str:
        """Adds.

        Args:
            what: what
        """
        self.log.append(what)
        if what == "hang":
            time.sleep(60)
        if what == "exit":
            os._exit(3)
        if what == "raise":
            raise ValueError("no")
        return what

    async def meet(self, mine: str, other: str) -> str:
        """Waits until the other call runs too.

        Args:
            mine: this call
            other: the other call
        """
        self.met.add(mine)
        while other not in self.met:
            await asyncio.sleep(0.001)
        if mine == "late":
            raise TimeoutError("of its own")
        return "met"

    async def sleep(self, how: str) -> str:
        """Sleeps.

        Args:
            how: how
        """
        while how == "deaf":
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                self.log.append("deaf")
            if self.log.count("deaf") > 2:
                return "woken"
        await asyncio.sleep(60)
        return "slept"


def local_tools(timeout_s: float) -> tuple[Counter, Sequence[Tool]]:
    counter = Counter()
    tools = [Tool(each.name, each.schema, each.function, None, timeout_s) for each in method_tools(counter)]
    return counter, tools


def test_methods_run_here_in_the_order_of_the_calls_and_coroutines_side_by_side() -> None:
    counter, tools = local_tools(20.0)
    made = ToolCaller(tools)
    calls = [Call("add", {"what": "a"}), Call("meet", {"mine": "x", "other": "late"})]
    calls += [
        Call("meet", {"mine": "late", "other": "x"}),
        Call("add", {"what": "raise"}),
        Call("add", {"what": "exit"}),
    ]
    first, met, late, raising, exiting = results(made, *calls)
    assert counter.log == ["a", "raise", "exit"]
    assert (first.content, met.content) == ("a", "met")
    assert (late.status, late.content) == ("mistake", "{'error': 'of its own'}")
    assert (raising.status, raising.content) == ("mistake", "{'error': 'no'}")
    assert (exiting.status, exiting.note) == ("failed", "it raised SystemExit: os._exit(3)")
    made.close()


def test_a_call_in_this_process_is_interrupted_at_its_deadline() -> None:
    _, tools = local_tools(0.5)
    made = ToolCaller(tools)
    hung, slow, deaf, fine = results(
        made,
        Call("add", {"what": "hang"}),
        Call("sleep", {"how": "long"}),
        Call("sleep", {"how": "deaf"}),
        Call("add", {"what": "b"}),
    )
    assert [result.note for result in (hung, slow, deaf)] == ["no result within 0.5 s"] * 3
    assert fine.content == "b"
    made.close()


def test_outside_the_main_thread_a_call_that_is_late_is_left_in_its_thread() -> None:
    _, tools = local_tools(0.5)
    found: list[ToolResult] = []

    def run() -> None:
        made = ToolCaller(tools)
        found.extend(results(made, Call("add", {"what": "b"}), Call("add", {"what": "hang"})))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert [result.status for result in found] == ["ok", "failed"]
    assert "its thread goes on" in found[1].note


def test_a_call_that_is_left_in_its_thread_does_not_move_the_process_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()

    def wait() -> str:
        """Waits."""
        goes_on.wait(30)
        return "late"

    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    tool = load_tools([{"name": wait, "timeout_s": 0.2}], None)[0]

    def run() -> None:
        assert results(ToolCaller([tool]), Call("wait", {}))[0].status == "failed"

    thread = threading.Thread(target=run)
    before = set(threading.enumerate())
    thread.start()
    thread.join(30)
    monkeypatch.chdir(tmp_path / "other")
    left = [each for each in threading.enumerate() if each not in before]
    goes_on.set()
    for each in left:
        each.join(30)
    assert left
    assert Path.cwd() == tmp_path / "other"


PLAIN = '''
def act(what: str) -> str:
    """Acts.

    Args:
        what: how
    """
    return "plain"
'''


def test_calls_in_this_process_and_in_workers_end_in_one_turn(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLAIN)
    _, tools = local_tools(20.0)
    made = ToolCaller([*tools, *load_tools(["./mine.py:act"], tmp_path)])
    calls = [Call("act", {"what": "text"}), Call("add", {"what": "b"}), Call("meet", {"mine": "x", "other": "y"})]
    made.submit(7, [*calls, Call("meet", {"mine": "y", "other": "x"})])
    assert [result.content for result in ended(made)[7]] == ["plain", "b", "met", "met"]
    made.close()
