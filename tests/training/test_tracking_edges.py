"""Logs: what is cut, what is kept, and what a line may hold."""

import errno
import hashlib
import json
import os
import resource
from pathlib import Path

import pytest

from rung.errors import CheckpointError, ConfigError
from rung.training.trackers import JsonLines, make_trackers, read_rows


def opened(folder: Path) -> JsonLines:
    tracker = JsonLines(folder)
    tracker.start({})
    return tracker


def test_a_step_without_timing_or_rows_makes_one_file(tmp_path: Path) -> None:
    opened(tmp_path / "a" / "b").log(1, {"loss": 0.5}, {})
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["metrics.jsonl"]
    opened(tmp_path / "a" / "b").log(2, {}, {"s": 1.0}, [{"x": 1}, {"x": 2}])
    files = {path.name: path.read_text() for path in (tmp_path / "a" / "b").iterdir()}
    assert files == {
        "metrics.jsonl": '{"step": 1, "loss": 0.5}\n{"step": 2}\n',
        "timing.jsonl": '{"step": 2, "s": 1.0}'.ljust(128) + "\n",
        "completions.jsonl": '{"step": 2, "x": 1}\n{"step": 2, "x": 2}\n',
    }


def test_numbers_that_are_not_finite_are_null_however_deep(tmp_path: Path) -> None:
    inf = float("inf")
    opened(tmp_path).log(1, {"a": -inf}, {}, [{"b": {"c": [inf, 1, (inf, True)]}, "d": "inf", "e": 0.0}])
    line = json.loads((tmp_path / "completions.jsonl").read_text())
    assert line == {"step": 1, "b": {"c": [None, 1, [None, True]]}, "d": "inf", "e": 0.0}
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "a": None}


def test_texts_stay_readable(tmp_path: Path) -> None:
    opened(tmp_path).log(1, {}, {}, [{"text": "½ \ud800"}])
    assert (tmp_path / "completions.jsonl").read_bytes() == '{"step": 1, "text": "½ \\ud800"}\n'.encode()


def test_an_offset_tells_the_files_that_are_there(tmp_path: Path) -> None:
    tracker = opened(tmp_path)
    assert tracker.offset() == {}
    tracker.log(1, {}, {})
    assert tracker.offset() == {"metrics.jsonl": {"size": 12, "sha256": hashlib.sha256(b'{"step": 1}\n').hexdigest()}}


def test_files_are_cut_to_their_offsets_and_those_without_one_emptied(tmp_path: Path) -> None:
    tracker = opened(tmp_path)
    for step in (1, 2):
        tracker.log(step, {}, {"s": 1.0}, [{"x": 1}])
    tracker.truncate({"metrics.jsonl": {"size": 12}, "timing.jsonl": {"size": 42}})
    assert sizes(tracker) == {"metrics.jsonl": 12, "timing.jsonl": 42, "completions.jsonl": 0}


def test_a_file_one_byte_short_is_refused_and_one_of_its_size_is_not(tmp_path: Path) -> None:
    tracker = opened(tmp_path)
    tracker.log(1, {}, {})
    tracker.truncate({"metrics.jsonl": {"size": 12}})
    with pytest.raises(CheckpointError, match=r"metrics.jsonl has 12 bytes, but had 13 when"):
        tracker.truncate({"metrics.jsonl": {"size": 13}})
    with pytest.raises(CheckpointError, match=r"timing.jsonl has 0 bytes, but had 1 when"):
        tracker.truncate({"metrics.jsonl": {"size": 12}, "timing.jsonl": {"size": 1}})
    assert sizes(tracker) == {"metrics.jsonl": 12}


def sizes(tracker: JsonLines) -> dict[str, int]:
    return {name: mark["size"] for name, mark in tracker.offset().items()}


def test_a_log_that_was_edited_since_its_offset_is_refused(tmp_path: Path) -> None:
    tracker = opened(tmp_path)
    tracker.log(1, {"loss": 1.0}, {})
    offsets = tracker.offset()
    tracker.log(2, {"loss": 2.0}, {})
    JsonLines(tmp_path).truncate(offsets)
    file = tmp_path / "metrics.jsonl"
    file.write_text(file.read_text().replace("1.0", "9.0"))
    with pytest.raises(CheckpointError, match=r"metrics.jsonl is damaged, or was edited since"):
        JsonLines(tmp_path).truncate(offsets)


def test_lines_that_the_disk_refuses_are_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = opened(tmp_path)
    tracker.log(1, {}, {})
    file = tmp_path / "metrics.jsonl"
    opening = Path.open

    def full(path: Path, mode: str = "r", **more: object) -> object:
        if "a" in mode:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return opening(path, mode, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        for step in (2, 3):
            tracker.log(step, {}, {})
        told = capsys.readouterr().out
        assert told.count("No space left on device") == 1, "told once"
        with pytest.raises(CheckpointError) as caught:
            tracker.offset()
        assert "free some space" in caught.value.remedy
    assert file.read_text().count("\n") == 1
    tracker.log(4, {}, {})
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3, 4]
    assert tracker.offset()["metrics.jsonl"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_trackers_keep_the_order_of_their_names(tmp_path: Path) -> None:
    made = make_trackers(["wandb", "jsonl", "wandb"], tmp_path, project="p", run_name="r")
    assert [type(tracker).__name__ for tracker in made] == ["Wandb", "JsonLines"]
    assert make_trackers([], tmp_path, project="p", run_name="r") == []
    with pytest.raises(ConfigError, match="no tracker `zzz`") as caught:
        make_trackers(["jsonl", "zzz"], tmp_path, project="p", run_name="r")
    assert caught.value.remedy == "known: jsonl, wandb; or write `pkg.module:name` or `./file.py:name`"


def test_a_tracker_knows_its_folder_project_and_run(tmp_path: Path) -> None:
    jsonl, wandb = make_trackers(["jsonl", "wandb"], tmp_path, project="p", run_name="r")
    assert vars(jsonl).items() >= {"folder": tmp_path, "project": "p", "run_name": "r"}.items()
    assert vars(wandb) == {"folder": tmp_path, "project": "p", "run_name": "r", "_run": None}
    wandb.finish()  # nothing was started


def test_a_line_that_the_disk_takes_in_part_is_taken_back_and_written_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real refusal in the middle of a write: no file may be longer than 20 bytes."""
    tracker = opened(tmp_path)
    tracker.log(1, {}, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        tracker.log(2, {}, {})
        left = (tmp_path / "metrics.jsonl").read_bytes()
        with pytest.raises(CheckpointError):
            tracker.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left == b'{"step": 1}\n'
    assert "the lines are kept, and written when the disk accepts them" in " ".join(capsys.readouterr().out.split())
    tracker.finish()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n{"step": 2}\n'
    assert tracker.offset()["metrics.jsonl"]["size"] == 24


def test_rows_are_read_up_to_one_that_was_not_written_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert list(read_rows(file)) == []
    file.write_text('{"step": 1, "text": "a\u2028b"}\n{"step": 2}\n{"step": 3}')
    assert [row["step"] for row in read_rows(file)] == [1, 2]
    for line in ("[]", "{}", '{"step": null}', '{"step": "x"}', "{", "3"):
        file.write_text(f'{{"step": 1}}\n{line}\n')
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl, row 2: no JSON object with a `step`"):
            list(read_rows(file))


def test_a_cut_log_goes_on_from_what_it_then_has(tmp_path: Path) -> None:
    """The hash is that of the file, also after lines of another process."""
    tracker = opened(tmp_path)
    for step in (1, 2):
        tracker.log(step, {}, {})
    marks = tracker.offset()
    other = opened(tmp_path)
    other.log(3, {}, {})
    tracker.truncate(marks)
    tracker.log(4, {}, {})
    content = (tmp_path / "metrics.jsonl").read_bytes()
    assert content == b'{"step": 1}\n{"step": 2}\n{"step": 4}\n'
    assert tracker.offset()["metrics.jsonl"]["sha256"] == hashlib.sha256(content).hexdigest()
