"""A run goes on when its output is refused; on real processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.rows import write_rows

pytestmark = pytest.mark.process
RUN = f"{sys.executable} -m rung run short.yaml"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path, {"rows": [{"prompt": "1+1?", "completion": "2"}]})
    (tmp_path / "short.yaml").write_text(
        "name: short\nmodel: tiny:llama\nalgorithm: sft\ndata: rows.jsonl\nbatch_size: 1\nmax_steps: 2\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("shell", "told"),
    [
        (f"{RUN} > /dev/full", "warning: the output is dropped: No space left on device"),
        (f"{RUN} >&- 2>&-", ""),
        (f"set -o pipefail; {RUN} | true", ""),
    ],
)
def test_output_that_is_refused_does_not_end_a_run(work: Path, shell: str, told: str) -> None:
    ended = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.strip()) == (0, told)
    assert (work / "runs" / "short" / "DONE").exists()
    written = [file.read_bytes() for file in (work / "runs").rglob("*.json*")]
    assert not any(b"reading the config" in raw for raw in written)


def test_a_disk_that_refuses_everything_is_told_in_two_lines(work: Path) -> None:
    (work / "runs").write_text("a file where the folder of runs would be")
    ended = subprocess.run(["bash", "-c", RUN], capture_output=True, text=True)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 2
    assert "runs" in ended.stderr
