"""Files that are whole or absent, names that are folders, and a flag that asks to stop."""

import hashlib
import os
import signal
from pathlib import Path

import pytest

from rung.errors import CheckpointError, ConfigError, DataError, error_context
from rung.utils.files import sha256_file, sha256_text, write_text
from rung.utils.names import inside, safe_name
from rung.utils.signals import EXIT_ERROR, EXIT_INCONCLUSIVE, EXIT_KEPT, EXIT_STOPPED, EXIT_USER, StopFlag


def test_a_text_replaces_the_one_before_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "c.txt"
    write_text(file, "one\n")
    write_text(file, "zwei ½\r\n")
    assert file.read_bytes() == "zwei ½\r\n".encode()
    assert [path.name for path in file.parent.iterdir()] == ["c.txt"]


def test_a_text_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "c.txt"
    write_text(file, "one")
    write_text(file, "\ud800")
    assert file.read_text() == "\\ud800"
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="folder"):
        write_text(tmp_path / "folder", "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.txt", "folder"]


def test_hashes_are_those_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 99_999)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 99_999).hexdigest()
    assert sha256_text("é") == hashlib.sha256(b"\xc3\xa9").hexdigest()
    assert sha256_text("\ud800") == hashlib.sha256(b"\xed\xa0\x80").hexdigest()


@pytest.mark.parametrize("name", ["a", "A-z_0.9", "x" * 128, "-", "_"])
def test_a_safe_name_is_itself(name: str) -> None:
    assert safe_name(name, "run") == name


@pytest.mark.parametrize("name", ["", "x" * 129, ".a", "..", "a/b", "a b", "a\n", "é", "a:b"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="run name"):
        safe_name(name, "run")


def test_a_path_stays_in_its_root(tmp_path: Path) -> None:
    assert inside(tmp_path, "a", "b") == tmp_path / "a" / "b"
    assert inside(tmp_path) == tmp_path
    root = tmp_path / "root"
    root.mkdir()
    (root / "near").symlink_to(root / "other")
    assert inside(root, "near") == root / "near"
    (root / "far").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="leads out of"):
        inside(root, "far")
    (root / "beside").symlink_to(tmp_path / "root2")
    with pytest.raises(ConfigError, match="leads out of"):
        inside(root, "beside")


def test_one_signal_asks_and_the_handlers_of_before_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGTERM):
        with StopFlag() as stop, stop.deferred():
            assert not stop.requested
            os.kill(os.getpid(), number)
            assert stop.requested
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_exit_codes_are_those_of_the_documentation() -> None:
    assert (EXIT_ERROR, EXIT_USER, EXIT_KEPT, EXIT_INCONCLUSIVE, EXIT_STOPPED) == (1, 2, 3, 4, 75)


def test_a_place_is_put_before_the_error_and_its_kind_stays() -> None:
    with pytest.raises(DataError) as caught, error_context("stage `a`"):
        raise DataError("what", "remedy")
    assert (caught.value.what, caught.value.remedy, str(caught.value)) == (
        "stage `a`: what",
        "remedy",
        "stage `a`: what\nremedy",
    )
    with pytest.raises(KeyError), error_context("stage `a`"):
        raise KeyError("x")
