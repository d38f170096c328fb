"""One process trains in a run folder; the lock of one that died is taken over."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rung.artifacts import lock
from rung.artifacts.lock import LOCK, InUseError, locked
from rung.errors import CheckpointError

HOLD = """
import sys, time
from pathlib import Path
from rung.artifacts.lock import locked

with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


@pytest.mark.process
def test_a_second_process_is_refused_with_the_name_of_the_first_until_that_one_has_died(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "climb"
    first = hold(folder)
    try:
        with pytest.raises(InUseError) as caught, locked(folder):
            pass
        assert f"is in use by process {first.pid} on {socket.gethostname()} since " in caught.value.what
        assert "`--new`" in caught.value.remedy
        first.send_signal(signal.SIGSTOP)  # a suspended owner still owns it
        with pytest.raises(InUseError), locked(folder):
            pass
    finally:
        first.kill()
        first.communicate()
    assert (folder / LOCK).exists(), "a process that was killed leaves its file"
    with locked(folder):
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
    assert not folder.exists(), "an empty folder is removed with the lock"


def test_a_folder_with_files_stays_and_has_no_lock_afterwards(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "config.yaml").write_text("")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_a_folder_that_cannot_be_written_is_told_in_two_lines(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(CheckpointError) as caught, locked(tmp_path / "runs" / "climb"):
        pass
    assert str(tmp_path / "runs") in caught.value.what


@pytest.mark.parametrize(
    ("owner", "taken"),
    [
        ({"pid": 2**22 + 1, "host": socket.gethostname()}, True),
        ({"pid": 1, "host": socket.gethostname()}, False),
        ({"pid": 1, "host": "elsewhere"}, False),
        ({}, True),
    ],
)
def test_without_locks_of_the_file_system_the_owner_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: dict[str, object], taken: bool
) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(lock.errno.ENOLCK, "no locks")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    (tmp_path / LOCK).write_text(json.dumps(owner))
    if taken:
        with locked(tmp_path):
            assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        return
    with pytest.raises(InUseError) as caught, locked(tmp_path):
        pass
    assert ("delete" in caught.value.remedy) == (owner["host"] == "elsewhere")


def test_a_lock_whose_file_cannot_be_removed_is_told_and_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(file: Path) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    with monkeypatch.context() as patch, locked(tmp_path / "run"):
        patch.setattr(lock.os, "unlink", refused)
        (tmp_path / "run" / "config.yaml").touch()
    assert f"{tmp_path / 'run' / LOCK} stays there: Permission denied; the next run takes it over" in (
        " ".join(capsys.readouterr().out.split("\n"))
    )
    with locked(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
