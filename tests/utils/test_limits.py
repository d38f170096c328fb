"""Work that takes too long or too much memory is stopped, and afterwards the process is as it was before."""

from __future__ import annotations

import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from rung.utils import limits
from rung.utils.limits import LimitError, Limits

MEBIBYTE = 2**20


@pytest.fixture(autouse=True)
def tick(monkeypatch: pytest.MonkeyPatch) -> float:
    """The clock is read more often than four times a second, so that the tests are short."""
    monkeypatch.setattr(limits, "_TICK_S", 0.05)
    return 0.05


def waits(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)


def state() -> tuple[object, ...]:
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    return resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGALRM), left > 0, interval


def test_work_is_stopped_at_its_limit_of_time_and_not_before() -> None:
    before, begun = state(), time.monotonic()
    assert Limits(0.3, 2**30).run(lambda: waits(0.15)) is None
    with pytest.raises(LimitError, match=r"^takes longer than 0\.3 s$"):
        Limits(0.3, 2**30).run(lambda: waits(60))
    assert 0.45 < time.monotonic() - begun < 5
    assert state() == before
    assert Limits(0.3, 2**30).run(lambda: 7) == 7


def test_many_pieces_of_work_together_may_take_longer_than_one() -> None:
    with Limits(0.3, 2**30) as together:
        for _ in range(3):
            together.run(lambda: waits(0.15))
        with pytest.raises(LimitError, match="takes longer than"):
            together.run(lambda: waits(60))


def test_the_time_between_pieces_of_work_is_not_limited_also_after_one_that_failed() -> None:
    with Limits(0.1, 2**30) as together:
        with pytest.raises(ZeroDivisionError):
            together.run(lambda: 1 // 0)
        waits(0.25)
        assert together.run(lambda: 7) == 7


def test_a_block_inside_a_block_ends_neither() -> None:
    before = state()
    outer = Limits(0.2, 2**30)
    with outer:
        with outer:
            pass
        with pytest.raises(LimitError):
            outer.run(lambda: waits(60))
    assert state() == before


def test_work_is_stopped_at_its_limit_of_memory() -> None:
    before = state()
    with pytest.raises(LimitError, match=r"^needs more than 0\.0625 GiB of memory$"):
        Limits(5.0, 64 * MEBIBYTE).run(lambda: bytearray(512 * MEBIBYTE))
    assert len(Limits(5.0, 64 * MEBIBYTE).run(lambda: bytearray(48 * MEBIBYTE))) == 48 * MEBIBYTE
    assert state() == before


def test_work_that_goes_on_is_allowed_no_more_memory_with_time() -> None:
    def grows() -> None:
        kept = []
        for _ in range(10):
            waits(0.03)
            kept.append(bytearray(32 * MEBIBYTE))

    with pytest.raises(LimitError, match="needs more than"):
        Limits(5.0, 64 * MEBIBYTE).run(grows)


def test_what_the_process_keeps_between_pieces_of_work_does_not_count() -> None:
    kept = []
    with Limits(5.0, 64 * MEBIBYTE):
        for _ in range(6):
            waits(0.12)
            kept.append(bytearray(32 * MEBIBYTE))
    assert len(kept) == 6


def test_what_short_pieces_of_work_keep_does_not_count() -> None:
    """Each takes less than the time between two looks at the clock, and one is always under way."""
    kept = []

    def keeps() -> None:
        kept.append(bytearray(2 * MEBIBYTE))
        waits(0.01)

    with Limits(5.0, 64 * MEBIBYTE) as together:
        for _ in range(60):
            together.run(keeps)
    assert len(kept) == 60


def test_a_lower_limit_of_the_program_holds() -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with Limits(5.0, 256 * MEBIBYTE):
        assert resource.getrlimit(resource.RLIMIT_AS)[0] == pytest.approx(size + 256 * MEBIBYTE, abs=32 * MEBIBYTE)
        assert resource.getrlimit(resource.RLIMIT_AS)[1] == hard
    resource.setrlimit(resource.RLIMIT_AS, (size + 128 * MEBIBYTE, hard))
    try:
        with Limits(5.0, 256 * MEBIBYTE):
            assert resource.getrlimit(resource.RLIMIT_AS) == (size + 128 * MEBIBYTE, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_timer_of_the_program_goes_on() -> None:
    rang: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rang.append(number))
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        Limits(5.0, 2**30).run(lambda: waits(0.15))
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 60
        assert rang == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_in_another_thread_nothing_is_stopped() -> None:
    made: list[int] = []
    before = state()

    def works() -> None:
        with Limits(0.05, MEBIBYTE) as together:
            together.run(lambda: waits(0.2))
            made.append(len(together.run(lambda: bytearray(64 * MEBIBYTE))))

    thread = threading.Thread(target=works)
    thread.start()
    thread.join()
    assert made == [64 * MEBIBYTE]
    assert state() == before
