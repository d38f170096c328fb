"""Two runs of one config, in two processes and two folders, write the same bytes into every file but the clock's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.equal_run import run_path

CLOCK = "timing.jsonl"


@pytest.mark.process
def test_every_file_of_two_runs_is_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters, a reward model, checkpoints, lineage and report; the order of sets differs between the processes.

    timing.jsonl has the same size, since a checkpoint contains the sizes of the logs.
    """
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-m", "helpers.equal_run"]
    other = subprocess.Popen(command, env=environment, cwd=tmp_path / "other", stdout=subprocess.DEVNULL)
    monkeypatch.chdir(tmp_path / "one")
    run_path()
    assert other.wait(120) == 0
    one, two = (tmp_path / name / "runs" / "small" for name in ("one", "other"))
    names = {file.relative_to(one) for file in one.rglob("*") if file.is_file()}
    assert names == {file.relative_to(two) for file in two.rglob("*") if file.is_file()}
    written = {str(name) for name in names}
    assert {"sft/adapter/adapter_config.json", "rm/adapter/README.md", "lineage.json", "report.html"} <= written
    sizes = [[(run / name).stat().st_size for name in sorted(names)] for run in (one, two)]
    assert sizes[0] == sizes[1]
    differ = [name for name in sorted(names) if (one / name).read_bytes() != (two / name).read_bytes()]
    assert [name for name in differ if name.name != CLOCK] == []
