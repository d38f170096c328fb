"""The calls of a turn run side by side; what a tool does to its process is a failure of the call, never of the run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.tool_calls import ended, results
from rung.agents.calling import ToolCaller
from rung.agents.parsing import Call
from rung.agents.tools import load_tools

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


def test_a_look_costs_next_to_nothing_while_nothing_runs() -> None:
    made = ToolCaller(())
    begun = time.perf_counter()
    for _ in range(10_000):
        made.poll(0)
    assert time.perf_counter() - begun < 0.5  # 50 microseconds each
