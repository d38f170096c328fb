"""Settings for every test: one thread, offline, no telemetry; and the fixtures that several folders use."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from helpers.commands import Command, Refusal

pytest_plugins = ("helpers.certificate", "pytester")
pytest.register_assert_rewrite("helpers")  # before any of them is imported

HERE = Path(__file__).parent
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that waits leaves its core to the others
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A process that a test starts imports this checkout and these helpers.
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent / "src"), str(HERE), os.environ.get("PYTHONPATH", "")])


@pytest.fixture
def small_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the small path, its data and its reward, where the test then is."""
    from helpers.small_path import write_small_path

    write_small_path(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Installs a distribution with one module `plugged` and the given entry points."""

    def install(text: str, entry_points: str) -> None:
        (tmp_path / "plugged.py").write_text(text)
        info = tmp_path / "plugged-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entry_points)
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    sys.modules.pop("plugged", None)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> "Command":
    """The real command in this process: `command("check", "path.yaml")` gives its exit code."""
    from rung.cli.main import main

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["rung", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0)

    return run


@pytest.fixture
def refusal(command: "Command", capsys: pytest.CaptureFixture[str]) -> "Refusal":
    """The two lines on stderr of a command that cannot work, after warnings; its exit code is checked here."""

    def run(*arguments: str) -> list[str]:
        assert command(*arguments) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
        assert len(lines) == 2, lines
        return lines

    return run


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Processes that start with everything imported, each in a state of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["rung.pipeline.runner", "rung.models.load.reward_model", "helpers.ranked_run", "helpers.resumable_stage"]
    )
    return context
