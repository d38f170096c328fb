"""A stage in its folder: when it is evaluated, what its lines hold, when it saves and where it goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.edges import TEXTS, one_stage
from rung.config.algorithms import make_algorithm
from rung.distributed.ranks import Ranks
from rung.models.load import load_model
from rung.pipeline.stage_settings import stage_settings
from rung.pipeline.train_stage import train_stage
from rung.utils.signals import StopFlag

SFT = {"algorithm": "sft", "data": "rows.jsonl", "batch_size": 2, "learning_rate": 0.01}


def fitted(work: Path, *, stop: bool = False, rank: int = 0, **settings: Any) -> tuple[bool, list[dict[str, Any]]]:
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TEXTS))
    config, path = one_stage(work, {**SFT, **settings})
    flag = StopFlag()
    flag.requested = stop
    done = train_stage(
        stage_settings(config, path, make_algorithm(config.algorithm)),
        start="tiny:llama",
        reference=None,
        critic=None,
        folder=work / "only",
        ranks=Ranks(rank),
        stop=flag,
    )
    lines = (work / "only" / "metrics.jsonl").read_text().splitlines()
    return done, [json.loads(line) for line in lines]


def test_the_last_step_is_evaluated_where_the_interval_does_not_divide(tmp_path: Path) -> None:
    done, lines = fitted(tmp_path, max_steps=5, eval_steps=2, early_stopping={"patience": 9})
    assert done
    assert [line["step"] for line in lines if "eval_loss" in line] == [2, 4, 5]


def test_without_an_interval_every_epoch_is_evaluated(tmp_path: Path) -> None:
    """2 of 6 rows at most are held out: 2 to 3 steps an epoch."""
    _, lines = fitted(tmp_path, max_steps=6, early_stopping={"patience": 9})
    every = next(line["step"] for line in lines if "eval_loss" in line)
    assert every in (2, 3)
    assert [line["step"] for line in lines if "eval_loss" in line] == [s for s in range(1, 7) if s % every == 0]


def test_it_stops_after_its_patience_and_keeps_the_best(tmp_path: Path) -> None:
    """A rate of 1 throws the loss up, so that the first evaluation stays the best: steps 1, 2 and 3."""
    settings = {"learning_rate": 1.0, "warmup_steps": 0, "lr_scheduler_type": "constant", "eval_steps": 1}
    done, lines = fitted(tmp_path, max_steps=9, early_stopping={"patience": 2}, **settings)
    losses = [line["eval_loss"] for line in lines]
    best = losses.index(min(losses))
    assert done
    assert len(losses) == best + 3 < 9
    one = tmp_path / "one"
    one.mkdir()
    fitted(one, max_steps=best + 1, early_stopping={"patience": 99}, **settings)
    kept, expected = (load_model(str(work / "only" / "model"))[0].state_dict() for work in (tmp_path, one))
    assert all(torch.equal(kept[name], weight) for name, weight in expected.items())


def test_a_line_tells_the_epoch_and_all_tokens_so_far(tmp_path: Path) -> None:
    """6 rows in batches of 2: a third of an epoch each."""
    _, lines = fitted(tmp_path, max_steps=4)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line["epoch"] for line in lines] == [0.3333, 0.6667, 1.0, 1.3333]
    tokens = [line["num_tokens"] for line in lines]
    assert tokens[2] == sum(len(row["completion"]) + 1 for row in TEXTS)
    assert tokens[3] > tokens[2] > tokens[1] > tokens[0] > 0
    assert all("skipped_step" not in line for line in lines)
    assert all("loss/nll" not in line for line in lines)


def test_the_clock_is_read_beside_the_numbers(tmp_path: Path) -> None:
    _, lines = fitted(tmp_path, max_steps=1)
    (timing,) = [json.loads(line) for line in (tmp_path / "only" / "timing.jsonl").read_text().splitlines()]
    assert timing["step"] == 1
    assert timing["tokens_per_second"] * timing["step_time"] == pytest.approx(lines[0]["num_tokens"])
    assert "step_time" not in lines[0]


def test_progress_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(tmp_path, max_steps=2)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("only 2/2  loss ")]


def test_a_rank_other_than_0_shows_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rank 1 of a group of one: its collectives are its own. A loss that stays for 20 steps would be told."""
    (tmp_path / "same.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 6)
    log = tmp_path / "only" / "metrics.jsonl"
    log.parent.mkdir()
    log.write_text('{"step": 7}\n')
    settings: dict[str, Any] = {"data": "same.jsonl", "learning_rate": 1e-12, "max_steps": 20, "save_steps": 10}
    done, lines = fitted(tmp_path, rank=1, **settings)
    assert done
    assert capsys.readouterr().out == ""
    assert [file.name for file in log.parent.iterdir()] == ["metrics.jsonl"]
    assert lines == [{"step": 7}]
    fitted(tmp_path, **settings)
    assert "the loss stays at" in capsys.readouterr().out


def test_completions_of_the_last_step_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(tmp_path, max_steps=1)
    assert "completions of the last step" not in capsys.readouterr().out
    work = tmp_path / "sampled"
    work.mkdir()
    (work / "judge.py").write_text("def odd(completions, **_):\n    return [i % 2 for i in range(len(completions))]\n")
    grpo: dict[str, Any] = {"algorithm": {"name": "grpo", "num_generations": 2}, "batch_size": "auto"}
    grpo["rollout"] = {"batch_size": 2, "max_completion_length": 2}
    fitted(work, max_steps=1, rewards=["./judge.py:odd"], updates={"minibatches": 1, "epochs": 1}, **grpo)
    assert "only: completions of the last step" in capsys.readouterr().out
    assert len((work / "only" / "completions.jsonl").read_text().splitlines()) == 4


def test_checkpoints_lie_at_the_interval_and_none_at_the_end(tmp_path: Path) -> None:
    fitted(tmp_path, max_steps=6, save_steps=2)
    assert sorted(path.name for path in (tmp_path / "only" / "checkpoints").iterdir()) == ["step-000002", "step-000004"]


def test_asked_to_stop_it_saves_the_step_and_goes_on_behind_it(tmp_path: Path) -> None:
    done, lines = fitted(tmp_path, stop=True, max_steps=3)
    assert (done, len(lines)) == (False, 1)
    assert not (tmp_path / "only" / "model").exists()
    assert [path.name for path in (tmp_path / "only" / "checkpoints").iterdir()] == ["step-000001"]
    done, lines = fitted(tmp_path, max_steps=3)
    assert done
    assert [line["step"] for line in lines] == [1, 2, 3]


def test_asked_to_stop_at_the_last_step_it_is_done(tmp_path: Path) -> None:
    done, lines = fitted(tmp_path, stop=True, max_steps=1)
    assert (done, len(lines)) == (True, 1)
    assert (tmp_path / "only" / "model").is_dir()


def test_lines_behind_the_checkpoint_are_written_anew(tmp_path: Path) -> None:
    fitted(tmp_path, stop=True, max_steps=3)
    file = tmp_path / "only" / "metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 99}\n')
    _, lines = fitted(tmp_path, max_steps=3)
    assert [line["step"] for line in lines] == [1, 2, 3]


def test_a_stopped_stage_counts_its_misses_on(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "learning_rate": 1.0,
        "warmup_steps": 0,
        "lr_scheduler_type": "constant",
        "eval_steps": 1,
        "max_steps": 9,
        "early_stopping": {"patience": 3},
    }
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for each in (whole, broken):
        each.mkdir()
    _, expected = fitted(whole, **settings)
    for _ in range(len(expected) - 1):
        assert fitted(broken, stop=True, **settings)[0] is False
    done, lines = fitted(broken, stop=True, **settings)
    assert done
    assert [line["eval_loss"] for line in lines] == pytest.approx([line["eval_loss"] for line in expected])
