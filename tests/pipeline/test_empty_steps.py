"""Steps with nothing to train: they are left out and counted, and a run goes on past them, also after a restart."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from helpers.commands import Command, Refusal
from helpers.rows import write_rows
from rung.config import parse_config, resolve
from rung.config.defaults import algorithm_of
from rung.distributed.ranks import Ranks
from rung.pipeline.stage_settings import stage_settings
from rung.pipeline.train_stage import train_stage
from rung.utils.signals import StopFlag

EMPTY = "filter/empty_steps"
JUDGE = '''
def checked(completions, gold, **kwargs):
    """None where the gold answer cannot be parsed."""
    return [None if answer == "?" else float(len(text) % 2) for text, answer in zip(completions, gold)]


def flaky(completion: str, gold: str) -> float:
    if gold == "?":
        raise ValueError("cannot parse the gold answer")
    return float(len(completion) % 2)


def never(completions, **kwargs):
    return [None] * len(completions)
'''
ONE_A_STEP = {  # one prompt a step: row 8 cannot be judged
    "name": "run",
    "model": "tiny:llama",
    "algorithm": {"name": "grpo", "num_generations": 4, "beta": 0},
    "data": "one.jsonl",
    "rewards": ["./judge.py:checked"],
    "rollout": {"batch_size": 1, "max_completion_length": 4},
    "max_steps": 14,
    "save_steps": 1,
}
MINIBATCHES = {  # a prompt is a minibatch: rows 3 and 6 cannot be judged
    **ONE_A_STEP,
    "algorithm": {"name": "grpo", "num_generations": 2, "beta": 0.04},
    "data": "two.jsonl",
    "rollout": {"batch_size": 3, "max_completion_length": 4},
    "updates": {"minibatches": 3, "epochs": 2},
}
TWO_A_STEP = {  # half of the prompts cannot be judged
    **ONE_A_STEP,
    "data": "half.jsonl",
    "rollout": {"batch_size": 2, "max_completion_length": 4},
    "max_steps": 8,
}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    unread = {"one": (12, [7]), "two": (6, [2, 5]), "half": (8, [0, 1, 2, 3])}
    rows = {
        name: [{"prompt": f"{i}+0=", "gold": "?" if i in bad else str(i)} for i in range(count)]
        for name, (count, bad) in unread.items()
    }
    write_rows(tmp_path, rows)
    (tmp_path / "judge.py").write_text(JUDGE)
    return tmp_path


def write(config: dict, **keys: object) -> None:
    Path("run.yaml").write_text(yaml.safe_dump({**config, **keys}))


def lines(folder: str = "runs/run/grpo") -> list[dict]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("config", "empty"), [(ONE_A_STEP, 1), (MINIBATCHES, 4)])
def test_a_run_goes_on_past_steps_with_nothing_to_train_and_counts_them(
    work: Path, command: Command, config: dict, empty: int
) -> None:
    """12 prompts of which one cannot be judged, 14 steps; 3 minibatches in 2 epochs, one of 3 empty: 4 or 5 of 14."""
    write(config)
    assert command("run", "run.yaml") == 0
    told = lines()
    left_out = [line for line in told if EMPTY in line]
    assert len(told) == 14
    assert empty <= len(left_out) <= empty + 1
    for line in left_out:
        assert (line[EMPTY], line["loss"], line["grad_norm"]) == (1.0, 0.0, 0.0)
        assert "skipped_step" not in line


@pytest.mark.parametrize("config", [ONE_A_STEP, MINIBATCHES])
def test_a_run_with_empty_steps_that_is_stopped_after_each_step_ends_with_the_same_bytes(
    work: Path, config: dict
) -> None:
    for folder, by_step in (("whole", False), ("stopped", True)):
        path = resolve(parse_config(config, source="test", base=work), "tiny")
        stop = StopFlag()
        stop.requested = by_step  # asked before it begins: it takes one step and saves
        for _ in range(config["max_steps"] if by_step else 1):
            train_stage(
                stage_settings(path.stages[0], path, algorithm_of(path.stages[0], work)),
                start="tiny:llama",
                reference=None,
                critic=None,
                folder=work / folder,
                ranks=Ranks(),
                stop=stop,
            )
    assert any(EMPTY in line for line in lines("whole"))
    for file in ("metrics.jsonl", "completions.jsonl", "model/model.safetensors"):
        assert (work / "stopped" / file).read_bytes() == (work / "whole" / file).read_bytes()


def test_too_many_in_a_row_end_the_run_with_rows_and_reasons(work: Path, refusal: Refusal) -> None:
    write({**ONE_A_STEP, "rewards": ["./judge.py:never"]}, max_empty_steps=3)
    what, remedy = refusal("run", "run.yaml")
    assert "step 3: nothing to train in 3 consecutive steps; the denominator of `policy` is 0" in what
    assert what.count("reward `never` abstained") == 3
    assert "one.jsonl:" in what
    assert "raise `max_empty_steps`" in remedy


def test_the_exception_of_a_reward_in_a_young_run_is_told(work: Path, refusal: Refusal) -> None:
    """Row 8 comes among the first fifty calls, which do not count as a rate of failures."""
    write({**ONE_A_STEP, "rewards": ["./judge.py:flaky"]}, max_empty_steps=1)
    what, _ = refusal("run", "run.yaml")
    assert "one.jsonl:8: reward `flaky` failed (ValueError: cannot parse the gold answer (" in what


def test_a_limit_that_was_reached_can_be_raised(work: Path, command: Command, refusal: Refusal) -> None:
    """The run goes on after its empty step and ends as one that had the limit from the start."""
    write(ONE_A_STEP, max_empty_steps=1)
    refusal("run", "run.yaml")
    assert command("run", "run.yaml", "max_empty_steps=2") == 0
    assert command("run", "run.yaml", "max_empty_steps=2", "name=whole") == 0
    for file in ("metrics.jsonl", "completions.jsonl", "model/model.safetensors"):
        assert Path("runs/run/grpo", file).read_bytes() == Path("runs/whole/grpo", file).read_bytes()


@pytest.mark.process
def test_two_ranks_leave_out_the_same_steps(work: Path, command: Command) -> None:
    """Two prompts a step, one a rank: a step is left out where neither can be judged, on both ranks together."""
    write(TWO_A_STEP, name="two")
    ranked = [sys.executable, "-m", "rung", "run", "run.yaml", "--nproc", "2"]
    done = subprocess.run(ranked, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert command("run", "run.yaml", "name=one") == 0
    left_out = [[line["step"] for line in lines(f"runs/{name}/grpo") if EMPTY in line] for name in ("one", "two")]
    assert left_out[0] == left_out[1]
    assert 0 < len(left_out[0]) < 8
