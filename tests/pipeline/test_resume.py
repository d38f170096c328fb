"""A stage that is killed anywhere ends with the same bytes: weights, metrics and completions."""

import os
import signal
import time
from collections.abc import Callable
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from helpers.certificate import Certify
from helpers.resumable_stage import REWARD, STAGES, STEPS, train_or_resume
from helpers.rows import write_rows

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    (folder / "judge.py").write_text(REWARD)
    prompts = [{"prompt": f"number {i}"} for i in range(11)]
    texts = [{"prompt": f"number {i}", "completion": f"{i * i}"} for i in range(40)]
    write_rows(folder, {"prompts": prompts, "texts": texts})
    return folder


@pytest.fixture(scope="module")
def whole(work: Path, processes: ForkServerContext) -> Callable[[str], Path]:
    """Trains a stage that nothing stops, once, whoever asks."""

    @cache
    def trained(stage: str) -> Path:
        folder = work / f"{stage}-whole"
        assert run(processes, work, stage, folder, None, signal.SIGKILL) == 0
        return folder

    return trained


def run(processes: ForkServerContext, work: Path, stage: str, folder: Path, kill_at: int | None, number: int) -> int:
    """One process; sent a signal once so many steps are logged. Returns its exit code."""
    process = processes.Process(target=train_or_resume, args=(work, stage, folder))
    process.start()
    log = folder / "metrics.jsonl"
    while process.is_alive():
        if kill_at is not None and log.exists() and log.read_bytes().count(b"\n") >= kill_at:
            assert process.pid
            os.kill(process.pid, number)
            break
        time.sleep(0.002)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def outcome(folder: Path) -> dict[str, bytes]:
    """What a stage left; the last checkpoint also holds what it does not hand over: a critic, the optimizer."""
    last = max((folder / "checkpoints").iterdir()).relative_to(folder)
    files = ["metrics.jsonl", "completions.jsonl", "model/model.safetensors", f"{last}/state.safetensors"]
    return {name: (folder / name).read_bytes() for name in files if (folder / name).exists()}


@pytest.mark.parametrize("stage", STAGES)
def test_killed_ten_times_a_stage_ends_with_the_same_bytes(
    stage: str, work: Path, whole: Callable[[str], Path], processes: ForkServerContext, certify: Certify
) -> None:
    killed = work / f"{stage}-killed"
    for at in range(2, STEPS, 2):
        assert run(processes, work, stage, killed, at, signal.SIGKILL) in (-signal.SIGKILL, 0)
    assert run(processes, work, stage, killed, None, signal.SIGKILL) == 0
    expected = outcome(whole(stage))
    assert expected.keys() >= {"metrics.jsonl", "model/model.safetensors"}
    assert outcome(killed) == expected
    assert expected["metrics.jsonl"].count(b"\n") == STEPS
    certify(stage, "resume", float(outcome(killed) != expected), of="killed")


def test_a_stage_that_is_asked_to_stop_saves_and_goes_on(
    work: Path, whole: Callable[[str], Path], processes: ForkServerContext
) -> None:
    stopped = work / "stopped"
    assert run(processes, work, "dapo", stopped, 7, signal.SIGTERM) == 75
    saved = sorted(path.name for path in (stopped / "checkpoints").iterdir())
    logged = (stopped / "metrics.jsonl").read_bytes().count(b"\n")
    assert f"step-{logged:06d}" in saved, "the step that was under way is finished and saved"
    assert run(processes, work, "dapo", stopped, None, signal.SIGTERM) == 0
    assert outcome(stopped) == outcome(whole("dapo"))
