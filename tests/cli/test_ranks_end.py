"""How a process of a run with several processes ends, and what is told once."""

import os
import subprocess
import sys

import pytest

ENDS = """
import atexit, sys
from rung.cli.main import main
atexit.register(print, "registered")
sys.argv = ["rung", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize("size", ["1", "2"])
@pytest.mark.parametrize(("arguments", "code"), [(["list", "samplers"], 0), (["list", "nothing"], 2)])
def test_a_process_ends_with_its_code_after_what_was_registered(size, arguments, code) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS, *arguments],
        env={**os.environ, "WORLD_SIZE": size},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code
    assert done.stdout.splitlines()[-1] == "registered"


def test_a_mistake_in_the_config_is_told_once_by_several_processes(tmp_path, command, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("{name: a, model: tiny:llama, algorithm: sft, data: x.csv, sead: 1}")
    assert command("run", "a.yaml", "--nproc", "2") == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
