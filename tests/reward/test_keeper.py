"""The keeper of worker processes: what it prints, how a worker starts and ends, and how it stops the trainer."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rung.reward import keeper
from rung.reward.connection import Connection, wait_for
from rung.reward.keeper import Inbox, Printed, pack
from rung.reward.keeper_process import CurrentKeeper, KeeperProcess

LEFT_OUT = "rewards and tools print more than 64 KiB: the rest is left out"
LINE = "x" * 99  # of which 655 with their ends are 65,500 of the 65,536 characters


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(keeper, "time", made)
    return made


@pytest.fixture
def shown(clock: Clock, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., list[str]]]:
    """The lines on standard error after a worker has printed this."""
    printed = Printed()

    def pass_on(text: str | bytes, *, at_end: bool = False) -> list[str]:
        os.write(printed.input, text.encode() if isinstance(text, str) else text)
        printed.pass_on(at_end)
        return capfd.readouterr().err.split("\n")[:-1]

    yield pass_on
    os.close(printed.input)
    os.close(printed.output)


def test_short_lines_are_all_printed(shown) -> None:
    assert shown("a line of a reward\n" * 300) == ["a line of a reward"] * 300


def test_no_more_than_64_kib_are_printed_at_once_and_this_is_told_once(shown, clock) -> None:
    first = shown(f"{LINE}\n" * 650)
    assert first == [LINE] * 650
    assert shown(f"{LINE}\n" * 8) == [*[LINE] * 5, LEFT_OUT]
    assert shown("a shorter line fits\n" * 2) == ["a shorter line fits"]
    clock.now += 0.25  # a quarter of 1,024 characters
    assert shown(f"{LINE}\n" * 5) == [LINE] * 2


def test_a_second_flood_is_told_again_and_an_hour_of_silence_allows_no_more_than_64_kib(shown, clock) -> None:
    flood = f"{LINE}\n" * 650
    assert shown(flood) + shown(flood) == [*[LINE] * 655, LEFT_OUT]
    clock.now += 3600
    assert shown(flood) + shown(flood) == [*[LINE] * 655, LEFT_OUT]


def test_a_line_is_printable_and_has_500_characters_at_most(shown) -> None:
    assert shown("\a\0\x1b[31m\tred\r\u2028\n") == ["\\x07\\x00\\x1b[31m\tred\\r\\u2028"]
    assert shown(b"\xff good\n") == ["\ufffd good"]
    assert shown("é" * 500 + "\n") == ["é" * 500]
    assert shown("\U0001f600" * 500 + "\n") == ["\U0001f600" * 500]
    assert shown("y" * 501 + "\n") == ["y" * 500 + "..."]


def test_a_line_that_arrives_in_pieces_is_one_and_the_last_needs_no_end(shown) -> None:
    assert shown("one\ntw") == ["one"]
    assert shown("o\n\nthr") == ["two", ""]
    assert shown("ee", at_end=True) == ["three"]


def test_a_line_without_an_end_is_not_kept_whole(shown) -> None:
    for _ in range(3):
        assert shown("z" * 60_000) == []
    assert shown("\nnext\n") == ["z" * 500 + "...", "next"]


@pytest.fixture
def inbox() -> Iterator[tuple[socket.socket, Inbox]]:
    ours, theirs = socket.socketpair()
    yield ours, Inbox(theirs)
    ours.close()
    theirs.close()


def test_messages_arrive_whole_in_order_and_with_their_descriptors(inbox) -> None:
    sender, found = inbox
    first, second = pack({"a": 1}), pack({"b": "é" * 100_000})
    with open(os.devnull) as one:
        socket.send_fds(sender, [first + second[:10]], [one.fileno()])
    assert found.receive() == {"a": 1}
    assert [os.fstat(number).st_rdev for number in found.descriptors] == [os.stat(os.devnull).st_rdev]
    os.close(found.descriptors.pop())
    assert not found.holds_more
    sender.setblocking(False)
    left = memoryview(second)[10:]
    while left:
        left = left[sender.send(left) :]
        if left:
            found._bytes += found.channel.recv(2**20)
    assert found.receive() == {"b": "é" * 100_000}
    sender.sendall(pack({}) + pack({"c": 3}))
    assert found.receive() == {}
    assert found.holds_more
    assert found.receive() == {"c": 3}
    sender.close()
    assert found.receive() is None


PROGRAM = """
import json, os, resource, signal, socket, sys, time

def serve():
    channel = socket.socket(fileno=3)
    command = channel.recv(1000).decode()
    if command == "tell":
        print("out"); print("err", file=sys.stderr, flush=True); sys.stdout.flush()
        channel.sendall(json.dumps({
            "pid": os.getpid(), "session": os.getsid(0), "env": os.environ.get("GIVEN"), "path": sys.path,
            "open": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:5], "inherited": os.get_inheritable(3),
            "core": resource.getrlimit(resource.RLIMIT_CORE)[0], "data": resource.getrlimit(resource.RLIMIT_DATA)[0],
            "oom": open("/proc/self/oom_score_adj").read().strip(),
            "signals": [signal.getsignal(number) == signal.SIG_DFL for number in (2, 13, 15)],
        }).encode())
    if command == "sleep":
        channel.sendall(b"ready")
    if command.startswith("exit"):
        os._exit(int(command.split()[1]))
    if command == "raise":
        raise ValueError("no program")
    if command == "daemon":
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            channel.sendall(str(os.getpid()).encode())
        else:
            os.wait()
    time.sleep(600)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keeper_program.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def kept(program: None) -> Iterator[KeeperProcess]:
    made = KeeperProcess()
    yield made
    made.close()


def started(kept: KeeperProcess, command: str, **env: str) -> tuple[socket.socket, int]:
    connection, pid = kept.spawn(env, "keeper_program")
    channel = connection.channel.dup()
    connection.close()
    channel.settimeout(10)
    channel.sendall(command.encode())
    return channel, pid


def until(wanted: Callable[[], Any], seconds: float = 10) -> Any:
    """What `wanted` returns, as soon as this is true."""
    end = time.monotonic() + seconds
    while not (found := wanted()) and time.monotonic() < end:
        time.sleep(0.005)
    return found


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.process
def test_a_worker_starts_with_one_socket_limits_and_a_session_of_its_own(program, capfd) -> None:
    kept = KeeperProcess()  # here, since a fixture has another standard error
    channel, pid = started(kept, "tell", GIVEN="x")
    with channel:
        told = json.loads(channel.recv(65_536))
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    assert told == {
        "pid": pid,
        "session": pid,
        "env": "x",
        "path": [os.path.abspath(folder) for folder in sys.path],
        "open": [0, 1, 2, 3, 4],  # the last is the listing of the folder itself
        "inherited": False,
        "core": 0,
        "data": half if hard == resource.RLIM_INFINITY else min(half, hard),
        "oom": "1000",
        "signals": [True] * 3,
    }
    assert kept.status(pid) is None
    kept.close()
    assert has_ended(pid)
    out, err = capfd.readouterr()
    assert out == ""
    assert sorted(err.split()) == ["err", "out"]


@pytest.mark.process
def test_the_status_of_a_worker_is_its_exit_code_or_signal(kept) -> None:
    pids = []
    for command in ("exit 3", "exit 0", "raise", "sleep"):
        channel, pid = started(kept, command)
        pids.append(pid)
        channel.recv(5)
        channel.close()
    os.kill(pids[3], signal.SIGTERM)
    assert until(lambda: None not in [kept.status(pid) for pid in pids])
    assert [kept.status(pid) for pid in pids] == [3, 0, 1, -signal.SIGTERM]
    assert kept.status(1) is None


@pytest.mark.process
def test_a_worker_is_ended_with_its_daemons_and_the_others_go_on(kept) -> None:
    channel, pid = started(kept, "daemon")
    daemon = int(channel.recv(100))
    other, going_on = started(kept, "sleep")
    kept.end([pid])
    assert has_ended(daemon)
    assert kept.status(pid) == -signal.SIGKILL
    assert kept.status(going_on) is None
    kept.end([])
    kept.close()
    assert has_ended(going_on)
    assert not kept.is_running
    channel.close()
    other.close()


@pytest.mark.process
def test_a_daemon_that_its_worker_has_left_behind_ends_with_the_next_one(kept) -> None:
    channel, pid = started(kept, "daemon")
    daemon = int(channel.recv(100))
    os.kill(pid, signal.SIGKILL)
    until(lambda: kept.status(pid) is not None)
    assert not has_ended(daemon)
    channel.close()
    channel, other = started(kept, "sleep")
    kept.end([other])
    assert has_ended(daemon)
    channel.close()


@pytest.mark.process
def test_a_keeper_that_was_killed_is_replaced_by_another(tmp_path, monkeypatch) -> None:
    current = CurrentKeeper()
    first = current.get()
    assert current.get() is first
    first.process.kill()
    first.process.wait()
    assert not first.is_running
    second = current.get()
    assert second is not first
    current.close()
    assert not second.is_running
    current.close()
    third = current.get()
    assert third.is_running
    current.close()


TRAINER = """
import os, signal, sys, time
from rung.reward import deadline

deadline.GRACE_S = 0.6

def hangs():
    print("begun", flush=True)
    if sys.argv[1] == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            if sys.argv[1] != "swallows":
                raise

try:
    deadline.call_within(0.2, "a reward", hangs)
except deadline.Expired:
    deadline.free()
    print("expired")
    time.sleep(0.7 if sys.argv[1] == "expires" else 0)
"""


def trainer(how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINER, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.process
def test_a_trainer_whose_function_goes_on_after_its_deadline_is_ended_and_told_why() -> None:
    goes_on, leaves = trainer("swallows"), trainer("expires")
    begun = time.monotonic()
    out, err = goes_on.communicate(timeout=20)
    assert goes_on.returncode == -signal.SIGKILL
    assert err.startswith("a reward did not end within 0.8 s and cannot be interrupted: the process is ended\n")
    assert time.monotonic() - begun < 5
    out, err = leaves.communicate(timeout=20)
    assert (leaves.returncode, out, err) == (0, "expired\n", ""), "a deadline that was taken back ends nothing"


@pytest.mark.process
def test_the_deadline_of_a_trainer_that_is_stopped_stands_still() -> None:
    """It is stopped for longer than the deadline and what follows it, 0.8 s."""
    process = trainer("stopped")
    try:
        until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        until(lambda: process.poll() is not None, seconds=1.2)
        assert process.poll() is None
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, "expired\n", "")
    finally:
        process.kill()


def test_a_connection_waits_no_longer_than_it_is_told_and_sends_what_is_left() -> None:
    ours, theirs = socket.socketpair()
    connection, inbox = Connection(ours), Inbox(theirs)
    begun = time.monotonic()
    assert wait_for([connection], 0.05) == []
    assert 0.04 < time.monotonic() - begun < 1
    with pytest.raises(TimeoutError):
        connection.ask({}, 0.0)
    assert inbox.receive() == {}
    connection.send({"text": "x" * 3_000_000})
    assert connection.is_sending
    assert connection.is_open
    theirs.setblocking(False)
    arrived = bytearray()
    while connection.is_sending:
        assert wait_for([connection], 0.1) == []
        try:
            arrived += theirs.recv(2**20)
        except BlockingIOError:
            continue
    while chunk := _received(theirs):
        arrived += chunk
    assert json.loads(arrived[4:]) == {"text": "x" * 3_000_000}
    theirs.sendall(pack({"a": 1}) + pack({"b": 2})[:3])
    assert wait_for([connection], 1.0) == [connection]
    assert connection.receive() == [{"a": 1}]
    theirs.close()
    assert not connection.is_open
    connection.close()


def _received(channel: socket.socket) -> bytes:
    try:
        return channel.recv(2**20)
    except BlockingIOError:
        return b""


def test_the_signal_that_interrupts_a_reward_is_none_that_programs_use() -> None:
    """Below the real-time signals each has a meaning, and SIGUSR1 and 2 are those of the user."""
    assert signal.SIGRTMIN < keeper.INTERRUPT < signal.SIGRTMAX
