"""A signal ends a run at once; in a step it asks it to stop after the step, and a second one ends it at once."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from rung.utils.signals import EXIT_STOPPED, StopFlag

pytestmark = pytest.mark.process

# a "run": steps until asked to stop, then saves, which takes as long as its argument says
RUN = """
import sys, time
from rung.utils.signals import EXIT_STOPPED, StopFlag

with StopFlag() as stop, stop.deferred():
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.01)
    print("saving", flush=True)
    time.sleep(float(sys.argv[1]))
    print("saved", flush=True)
sys.exit(EXIT_STOPPED)
"""


def read_line(run):
    assert run.stdout is not None
    return run.stdout.readline()


def start(saving_s):
    command = [sys.executable, "-c", RUN, str(saving_s)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert read_line(run) == "ready\n"
    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_lets_the_run_save_and_says_so(number):
    run = start(saving_s=0)
    run.send_signal(number)
    output, errors = run.communicate(timeout=30)
    assert output == "saving\nsaved\n"
    assert "stopping after this step" in errors
    assert "Traceback" not in errors
    assert run.returncode == EXIT_STOPPED == 75


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_exits_at_once_with_75(second):
    run = start(saving_s=60)
    run.send_signal(signal.SIGINT)
    assert read_line(run) == "saving\n"
    run.send_signal(second)
    output, _ = run.communicate(timeout=30)  # the save alone would take 60 s
    assert run.returncode == 75
    assert output == ""


AT_ONCE = """
import sys, time
from rung.utils.signals import StopFlag

with StopFlag() as stop:
    with stop.deferred():
        pass
    print("ready", flush=True)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            print("caught", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_outside_a_step_ends_the_process_at_once_even_in_code_that_catches_everything(number):
    run = subprocess.Popen([sys.executable, "-c", AT_ONCE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert read_line(run) == "ready\n"
    run.send_signal(number)
    output, errors = run.communicate(timeout=30)
    assert (run.returncode, output) == (75, "")
    assert errors.strip() == "stopped; the same command resumes"


QUIET = """
import sys, time
from rung.utils.signals import end_quietly, run_has_ended

end_quietly(75 if sys.argv[1] == "run" else None)
if sys.argv[1] == "ended":
    run_has_ended(3)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("when", "number", "code"),
    [("before", signal.SIGINT, 130), ("run", signal.SIGINT, 75), ("ended", signal.SIGTERM, 3)],
)
def test_a_signal_before_or_after_a_run_leaves_no_traceback(when, number, code):
    run = subprocess.Popen(
        [sys.executable, "-c", QUIET, when], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert read_line(run) == "ready\n"
    run.send_signal(number)
    assert run.communicate(timeout=30) == ("", "")
    assert run.returncode == code


def test_the_handlers_of_before_are_back_after_leaving():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopFlag() as stop:
        assert signal.getsignal(signal.SIGINT) not in before
        assert not stop.requested
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_handlers_are_back_after_an_error_and_nest():
    before = signal.getsignal(signal.SIGTERM)
    with StopFlag() as outer, outer.deferred():
        inner = StopFlag()
        with suppress(RuntimeError), inner, inner.deferred():
            signal.raise_signal(signal.SIGTERM)
            raise RuntimeError
        assert inner.requested
        assert not outer.requested
        signal.raise_signal(signal.SIGTERM)
        assert outer.requested
    assert signal.getsignal(signal.SIGTERM) == before


def wait_for_ever():
    while True:
        time.sleep(0.05)


def test_a_forked_child_has_the_handlers_of_before_and_can_be_terminated():
    with StopFlag() as stop:
        fork = multiprocessing.get_context("fork")
        child = fork.Process(target=wait_for_ever)
        child.start()
        child.terminate()  # at once: the signal must not be lost while the child restores its handlers
        child.join(10)
        assert child.exitcode == -signal.SIGTERM
        with fork.Pool(2) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
        assert not stop.requested
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_signal_after_a_fork_still_stops_the_parent():
    with StopFlag() as stop, stop.deferred():
        child = os.fork()
        if child == 0:
            os._exit(int(signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL))
        assert os.waitpid(child, 0)[1] == 0
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
