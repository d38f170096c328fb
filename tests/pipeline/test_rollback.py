"""A stage with rows whose loss is NaN: it goes back to a checkpoint once, also over a kill, and then stops."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.edges import one_stage
from rung.algorithms.sft import SFT
from rung.batch import Batch, Loss, Outputs
from rung.config.algorithms import make_algorithm
from rung.data.batches import order
from rung.distributed.ranks import Ranks
from rung.errors import NonFiniteError
from rung.pipeline.rollback import candidates, tell_skipped
from rung.pipeline.stage_settings import stage_settings
from rung.pipeline.train_stage import step_timing, train_stage
from rung.training.skipped_steps import SkippedSteps
from rung.training.trackers import JsonLines
from rung.utils.signals import StopFlag

NUM_ROWS = 40
ROWS = [{"prompt": f"number {i}", "completion": f" it is {i * i}"} for i in range(NUM_ROWS)]
REAL_LOSS = SFT.loss


def train(work: Path, **settings: Any) -> bool:
    """Trains a stage of 12 steps, a row each, or what is left of it."""
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    stage = {"algorithm": "sft", "data": "rows.jsonl", "batch_size": 1, "learning_rate": 1e-2}
    config, path = one_stage(work, {**stage, "max_steps": 12, "save_steps": 2, **settings})
    return train_stage(
        stage_settings(config, path, make_algorithm(config.algorithm)),
        start="tiny:llama",
        reference=None,
        critic=None,
        folder=work / "only",
        ranks=Ranks(),
        stop=StopFlag(),
    )


def spoil(monkeypatch: pytest.MonkeyPatch, steps: Sequence[int]) -> None:
    """The rows that these steps visit have a loss of NaN."""
    visited = order(42, 0, NUM_ROWS)
    names = [f"rows.jsonl:{visited[step - 1] + 1}" for step in steps]

    def loss(self: SFT, batch: Batch, outputs: Outputs) -> Loss:
        whole = REAL_LOSS(self, batch, outputs)
        factor = torch.nan if batch.row_ids[0].endswith(tuple(names)) else 1.0
        return Loss({"nll": whole.terms["nll"] * factor}, whole.metrics)

    monkeypatch.setattr(SFT, "loss", loss)


def metrics(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / "only" / "metrics.jsonl").read_text().splitlines()]


def folder(name: str, work: Path) -> Path:
    made = work / name
    made.mkdir()
    return made


def final(work: Path) -> Mapping[str, torch.Tensor]:
    return load_file(work / "only" / "model" / "model.safetensors")


def test_it_goes_back_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps 6 to 8 fail. Step 5 was the last update: the weights of step 4 have given a finite loss."""
    spoil(monkeypatch, [6, 7, 8])
    assert train(tmp_path)
    lines = metrics(tmp_path)
    assert [line.get("skipped_steps") for line in lines] == [None] * 5 + [1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    told = capsys.readouterr().out
    assert "only, step 6 is skipped, because its loss or gradient is not finite" in told
    assert "went back to the weights of step 4, and goes on with the next data" in told
    assert "only: 3 of 12 steps were skipped, because the loss or gradient was not finite, and the weights were" in told


@pytest.mark.parametrize("killed_at", [7, 8, 9, 11])
def test_a_kill_around_a_rollback_changes_no_byte(
    killed_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, [6, 7, 8])
    whole, killed = folder("whole", tmp_path), folder("killed", tmp_path)
    train(whole)
    log = JsonLines.log

    def killing(self: JsonLines, step: int, *args: Any) -> None:
        log(self, step, *args)
        if step == killed_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(JsonLines, "log", killing)
    with pytest.raises(KeyboardInterrupt):
        train(killed)
    monkeypatch.setattr(JsonLines, "log", log)
    train(killed)
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (killed / "only" / name).read_bytes() == (whole / "only" / name).read_bytes(), name


def test_the_second_time_it_stops_in_two_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, [4, 6, 7, 9, 10, 11])
    with pytest.raises(NonFiniteError) as caught:
        train(tmp_path)
    assert caught.value.what == (
        "stage `only`, step 11: no finite loss and gradient in 3 consecutive steps, "
        "for the second time: the stage was rolled back before"
    )
    assert "`learning_rate`" in caught.value.remedy
    assert not (tmp_path / "only" / "model").exists()
    with pytest.raises(NonFiniteError, match="step 11"):
        train(tmp_path)


def test_without_a_checkpoint_it_stops_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, [2, 3, 4])
    with pytest.raises(NonFiniteError, match="with a lower `save_steps` there is a checkpoint to go back to"):
        train(tmp_path, save_steps=50)


def test_single_skipped_steps_need_no_rollback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, [5, 9])
    assert train(tmp_path)
    told = capsys.readouterr().out
    assert "went back" not in told
    assert "only: 2 of 12 steps were skipped, because the loss or gradient was not finite\n" in told


def test_damaged_checkpoints_and_those_with_infinite_weights_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint of step 4 is damaged after it was written, so that the one of step 2 is taken."""
    spoil(monkeypatch, [6, 7, 8])
    log = JsonLines.log

    def damaging(self: JsonLines, step: int, *args: Any) -> None:
        log(self, step, *args)
        if step == 7:
            file = self.folder / "checkpoints" / "step-000004" / "state.safetensors"
            file.write_bytes(file.read_bytes()[:-1])

    monkeypatch.setattr(JsonLines, "log", damaging)
    assert train(tmp_path)
    assert "went back to the weights of step 2," in capsys.readouterr().out
    assert all(weight.isfinite().all() for weight in final(tmp_path).values())


def test_weights_that_gave_a_finite_loss_are_tried_first(tmp_path: Path) -> None:
    """Then those at multiples of `save_steps`, which do not depend on when the run was stopped; then the newest."""
    for name in ("step-000100", "step-000110", "step-000200", "step-000205", "step-000300.bad", ".tmp-1"):
        (tmp_path / name).mkdir()
    assert candidates(tmp_path, last_updated=201, save_steps=100) == [200, 100, 110, 205]
    assert candidates(tmp_path, last_updated=150, save_steps=100) == [100, 110, 200, 205]
    assert candidates(tmp_path / "none", last_updated=150, save_steps=100) == []


@pytest.mark.parametrize("seconds", [0.0, -3.0])
def test_a_clock_that_stands_still_or_goes_back_gives_no_speed(seconds: float) -> None:
    assert step_timing(100, seconds) == {"step_time": 0.0}


def test_a_run_under_a_frozen_clock_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.perf_counter", lambda: 5.0)
    monkeypatch.setattr("time.monotonic", lambda: 5.0)
    assert train(tmp_path, max_steps=3)


def test_skipped_steps_are_told_by_one_rank(capsys: pytest.CaptureFixture[str]) -> None:
    def told(rank: int, **counted: int) -> str:
        stage = SimpleNamespace(name="sft", step=9, ranks=Ranks(rank, 2), skipped=SkippedSteps(**counted))
        tell_skipped(stage)  # type: ignore[arg-type]
        return capsys.readouterr().out

    assert "sft: 2 of 9 steps were skipped" in told(0, total=2)
    assert told(0) == told(1, total=2) == ""
