"""The calls of a turn run side by side; what a tool does to its process is a failure of the call, never of the run."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rung.agents.calling import ToolCaller, ToolResult
from rung.agents.parsing import Call
from rung.agents.tools import Tool, load_tools, method_tools

pytestmark = pytest.mark.process

FILE = '''
import asyncio, datetime, os, random, signal, subprocess, sys, time

class Odd:
    pass

calls = []

def act(what: str, file: str = "") -> object:
    """Does something to its process.

    Args:
        what: what to do
        file: a file
    """
    if what == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        with open(file, "w") as out:
            out.write(f"{os.getpid()} {child.pid}")
        while True:
            try: time.sleep(60)
            except BaseException: pass
    if what == "exit": os._exit(3)
    if what == "sysexit": sys.exit("enough")
    if what == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if what == "raise": raise ValueError("no such city")
    if what == "bare": raise KeyError
    if what == "print": print("a tool prints")
    if what == "count": calls.append(what)
    if what == "chdir": os.chdir("/")
    return {
        "text": "plain", "list": [1, None, "a"], "dict": {"a": 1.5}, "blocks": [{"type": "text", "text": "a"}] * 2,
        "image": [{"type": "image", "image": "x"}], "long": "x" * 10_000_000, "limit": "x" * 1_000_000,
        "surrogate": "a" + chr(0xD800) + "b", "generator": (each for each in "ab"), "object": Odd(), "none": None,
        "nested": {"a": [Odd()]}, "date": datetime.date(2026, 1, 2), "digits": 10 ** 5000 if what == "digits" else 0,
        "count": len(calls), "draw": random.random(), "folder": os.getcwd(), "secret": os.environ.get("MY_API_KEY"),
        "repr": "<function f at 0x7f00>",
    }.get(what)

def meet(mine: str, other: str) -> str:
    """Waits until the other call runs too.

    Args:
        mine: a file that this call makes
        other: a file that the other call makes
    """
    open(mine, "w").close()
    while not os.path.exists(other):
        time.sleep(0.01)
    return "met"

async def waits(what: str) -> str:
    """Waits.

    Args:
        what: how
    """
    await asyncio.sleep(600 if what == "hang" else 0)
    return what
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tools")
    (path / "mine.py").write_text(FILE)
    (path / "threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n" + FILE
    )
    return path


@pytest.fixture(scope="module")
def caller(folder) -> Iterator[ToolCaller]:
    entries = [{"name": f"./mine.py:{name}", "timeout_s": 20} for name in ("act", "meet", "waits")]
    made = ToolCaller(load_tools(entries, folder))
    yield made
    made.close()


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


def act(what: str, **more: Any) -> Call:
    return Call("act", {"what": what, **more})


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def end_soon(pids: Iterable[int]) -> bool:
    """Whether processes that have been killed end: the system may take some time for it."""
    left, until = set(pids), time.monotonic() + 30
    while left and time.monotonic() < until:
        left = {pid for pid in left if is_alive(pid)}
        time.sleep(0.02)
    return not left


SHOWN = {
    "text": "plain",
    "list": "[1, None, 'a']",
    "dict": "{'a': 1.5}",
    "blocks": "aa",
    "surrogate": "a\ufffdb",
    "none": "None",
    "date": "2026-01-02",
    "repr": "<function f at 0x7f00>",
    "limit": "x" * 1_000_000,
}
FAILED = {
    "image": "images and other media are not supported",
    "generator": "a generator has no text",
    "object": "a Odd has no text",
    "nested": "a Odd has no text",
    "digits": "Exceeds the limit",
    "long": "it returned 10,000,000 characters, more than 1,000,000",
    "sysexit": "it raised SystemExit: enough",
    "exit": "the worker died: it exited with 3",
    "kill": "the worker died: it was ended by SIGKILL",
}


def test_what_a_tool_returns_is_shown_as_in_trl_and_what_has_no_text_is_a_failure(caller) -> None:
    made = dict(zip([*SHOWN, *FAILED], results(caller, *(act(what) for what in [*SHOWN, *FAILED])), strict=True))
    assert {what: (made[what].status, made[what].content) for what in SHOWN} == {
        what: ("ok", content) for what, content in SHOWN.items()
    }
    assert {made[what].status for what in FAILED} == {"failed"}
    assert {made[what].content for what in FAILED} == {""}
    assert [what for what, note in FAILED.items() if note not in made[what].note] == []


def test_a_mistake_of_the_model_is_told_in_trl_s_words(caller) -> None:
    told = results(
        caller,
        act("raise"),
        act("bare"),
        Call("nothing", {}),
        Call("act", {}),
        Call("act", {"what": 3}),
        Call("act", {"what": "text", "x": 1}),
    )
    assert [result.status for result in told] == ["mistake"] * 6
    assert [result.content for result in told] == [
        str({"error": text})
        for text in (
            "no such city",
            "KeyError",
            "Tool nothing not found.",
            "act: the argument `what` is missing",
            "act: the argument `what` must be of type string, not 3",
            "act: there is no argument `x`; the arguments are: `what`, `file`",
        )
    ]


def test_the_calls_of_a_turn_run_side_by_side(caller, tmp_path) -> None:
    """Each call ends only when the other one runs."""
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    met = results(
        caller, Call("meet", {"mine": one, "other": two}), Call("meet", {"mine": two, "other": one}), act("text")
    )
    assert [result.content for result in met] == ["met", "met", "plain"]


def test_a_hung_call_is_ended_with_its_descendants_and_the_next_one_is_made(folder, tmp_path) -> None:
    file = tmp_path / "pids"
    made = ToolCaller(load_tools([{"name": "./mine.py:act", "timeout_s": 1.5}, "./mine.py:waits"], folder))
    try:
        hung, fine = results(made, act("hang", file=str(file)), act("text"))
        assert (hung.status, hung.content, hung.note) == ("failed", "", "no result within 1.5 s")
        assert hung.seconds >= 1.5
        assert fine.content == "plain"
        assert end_soon(map(int, file.read_text().split()))
        assert results(made, act("text"))[0].content == "plain"
    finally:
        made.close()


def test_calls_beyond_the_lanes_wait_and_are_not_late_for_it(folder) -> None:
    made = ToolCaller(load_tools([{"name": "./mine.py:waits", "timeout_s": 1}], folder))
    try:
        made.submit(0, [Call("waits", {"what": "hang"})] * 8)
        made.submit(1, [Call("waits", {"what": "behind"})] * 3)
        found = ended(made, 2)
    finally:
        made.close()
    assert {result.status for result in found[0]} == {"failed"}
    assert [result.content for result in found[1]] == ["behind"] * 3


def test_tickets_are_told_as_they_end_and_a_look_does_not_wait(caller, tmp_path) -> None:
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    caller.submit(1, [Call("meet", {"mine": one, "other": two})])
    caller.submit(2, [act("text")])
    caller.submit(3, [])
    first = ended(caller, 2)
    assert first.keys() == {2, 3}
    assert first[3] == []
    assert caller.poll(0) == []
    Path(two).touch()
    assert ended(caller)[1][0].content == "met"
    assert caller.poll(60) == []  # at once, as nothing runs


def test_the_state_of_a_worker_is_that_of_its_process_and_draws_depend_on_the_ticket(caller) -> None:
    drawn = [results(caller, act("draw"), act("draw")) for _ in range(2)]
    assert [result.content for result in drawn[0]] == [result.content for result in drawn[1]]
    assert drawn[0][0].content != drawn[0][1].content
    here = results(caller, act("folder"))[0].content
    results(caller, act("chdir"))
    assert results(caller, act("folder"))[0].content == here


def test_what_a_tool_prints_comes_to_standard_error(folder, capfd) -> None:
    made = ToolCaller(load_tools(["./mine.py:act"], folder))
    results(made, act("print"))
    made.close()
    until = time.monotonic() + 10
    printed = capfd.readouterr().err
    while "a tool prints" not in printed and time.monotonic() < until:
        time.sleep(0.02)
        printed += capfd.readouterr().err
    assert "a tool prints" in printed


def test_a_worker_gets_the_secrets_that_its_entry_names(folder, monkeypatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "x")
    for entry, content in (("./mine.py:act", "None"), ({"name": "./mine.py:act", "env": ["MY_API_KEY"]}, "x")):
        made = ToolCaller(load_tools([entry], folder))
        assert results(made, act("secret"))[0].content == content
        made.close()
        assert results(made, act("text"))[0].content == "plain"  # processes start again after `close`
        made.close()


def test_a_worker_that_was_killed_between_turns_is_replaced(folder) -> None:
    made = ToolCaller(load_tools(["./mine.py:act"], folder))
    try:
        results(made, act("text"))
        pool = made._workers._pools["act"]
        for victim in (lambda: pool._free[0].pid, lambda: pool._template.pid if pool._template else 0):
            os.kill(victim(), signal.SIGKILL)
            time.sleep(0.2)
            assert results(made, act("text"))[0].content == "plain"
    finally:
        made.close()


def test_a_file_that_starts_threads_and_one_that_cannot_be_loaded_by_a_worker(folder) -> None:
    made = ToolCaller(load_tools(["./threaded.py:act"], folder))
    try:
        assert [result.content for result in results(made, act("text"), act("text"))] == ["plain"] * 2
    finally:
        made.close()
    here = os.getpid()
    (folder / "fails.py").write_text(f"import os\nif os.getpid() != {here}:\n    1 / 0\n{FILE}")
    made = ToolCaller(load_tools(["./fails.py:act"], folder))
    try:
        for _ in range(2):
            (result,) = results(made, act("text"))
            assert result.status == "failed"
            assert "ZeroDivisionError" in result.note
    finally:
        made.close()


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


def test_calls_in_this_process_and_in_workers_end_in_one_turn(folder) -> None:
    _, tools = local_tools(20.0)
    made = ToolCaller([*tools, *load_tools(["./mine.py:act"], folder)])
    calls = [act("text"), Call("add", {"what": "b"}), Call("meet", {"mine": "x", "other": "y"})]
    made.submit(7, [*calls, Call("meet", {"mine": "y", "other": "x"})])
    assert [result.content for result in ended(made)[7]] == ["plain", "b", "met", "met"]
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


def test_a_look_costs_next_to_nothing_while_nothing_runs() -> None:
    made = ToolCaller(())
    begun = time.perf_counter()
    for _ in range(10_000):
        made.poll(0)
    assert time.perf_counter() - begun < 0.5  # 50 microseconds each
