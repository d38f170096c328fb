"""A rank that fails, is killed or is stopped ends the others within a second, and one message names it."""

import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore  # type: ignore[reportPrivateImportUsage]

from helpers.watched_rank import orphaned, watched_rank

pytestmark = pytest.mark.process

Ranks = Callable[..., tuple[list[int | None], list[str]]]


@pytest.fixture
def ranks(tmp_path: Path, processes: ForkServerContext) -> Ranks:
    """The exit code of each rank that acts like this, and what it has said."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def run(*acts: str) -> tuple[list[int | None], list[str]]:
        made = [
            processes.Process(target=watched_rank, args=(tmp_path, rank, len(acts), store.port, act))
            for rank, act in enumerate(acts)
        ]
        for process in made:
            process.start()
        for process in made:
            process.join(20)
        return [process.exitcode for process in made], [
            (tmp_path / f"rank{rank}.txt").read_text() for rank in range(len(acts))
        ]

    return run


@pytest.mark.parametrize(
    ("acts", "codes", "said"),
    [
        (("refuses", "waits"), [2, 2], ["ConfigError rank 0 of 2: there is no judge\nname one\n", ""]),
        (("waits", "raises"), [1, 1], ["", "ValueError no judge on rank 1 of 2\n"]),
        (("waits", "waits", "refuses"), [2, 2, 2], ["", "", "ConfigError rank 2 of 3: there is no judge\nname one\n"]),
        (("waits", "is killed"), [1, -9], ["rank 1 exited without an error message\n", ""]),
        (("is killed", "waits"), [-9, 1], ["", "rank 0 exited without an error message\n"]),
        (("is stopped", "waits"), [75, 75], ["", ""]),
        (("finishes", "finishes"), [0, 0], ["finished\n", "finished\n"]),
    ],
)
def test_all_ranks_end_with_the_code_of_the_first_that_failed_which_alone_speaks(
    acts: tuple[str, ...], codes: list[int], said: list[str], ranks: Ranks
) -> None:
    assert ranks(*acts) == (codes, said)


def test_two_ranks_that_fail_at_the_same_time_give_one_message(ranks: Ranks) -> None:
    codes, said = ranks("raises", "refuses")
    assert codes in ([1, 1], [2, 2])
    assert sum(bool(text) for text in said) == 1


def test_ranks_end_with_the_process_that_started_them(tmp_path: Path, processes: ForkServerContext) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    starter: Any = processes.Process(target=orphaned, args=(tmp_path, 0, 1, store.port, "waits"))
    starter.start()
    starter.join(20)
    assert starter.exitcode == 0
    pid = (tmp_path / "rank0.pid").read_text()
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
