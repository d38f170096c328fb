"""A run with rewards as people bring them: child processes, a changed working folder, verdicts and rare failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import rung
from helpers.rows import write_rows

REWARDS = '''
import multiprocessing, os, tempfile, time
from rung.reward import Verdict
from tools import distinct


def forked(completions, trainer_state, log_extra, **columns):
    """Checks in a pool of forked processes, which the end of `with` terminates."""
    state = [trainer_state.global_step, trainer_state.max_steps, trainer_state.epoch]
    log_extra("state", [state] * len(completions))
    assert columns["tests"] == [[1, 2]] * len(completions)
    [tests.pop() for tests in columns["tests"]]
    os.chdir(tempfile.mkdtemp())
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(distinct, completions)


def hangs():
    while True:
        time.sleep(0.1)


def terminated(completion: str) -> float:
    """The usual time limit: terminates a child that hangs."""
    child = multiprocessing.get_context("fork").Process(target=hangs)
    child.start()
    child.terminate()
    child.join()
    return float(child.exitcode)


def judged(completion: str, answer: str, n_tokens: int) -> Verdict:
    return Verdict(len(completion), parts={"length": n_tokens}, note="counted", cost=0.5)


calls = []


def rare(completion: str) -> float:
    calls.append(1)
    if len(calls) == 18:
        raise ZeroDivisionError("no tokens after </think>")
    return 1.0
'''


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("run")
    write_rows(home, {"p": [{"prompt": f"{i}+1=", "answer": str(i + 1), "tests": [1, 2]} for i in range(10)]})
    (home / "rewards.py").write_text(REWARDS)
    (home / "tools.py").write_text("def distinct(text): return float(len(set(text)))\n")
    config = {
        "name": "rude",
        "model": "tiny:llama",
        "algorithm": {"name": "grpo", "num_generations": 2},
        "data": "p.jsonl",
        "rewards": [f"./rewards.py:{name}" for name in ("forked", "terminated", "judged")]
        + [{"name": "./rewards.py:rare", "role": "metric"}],
        "evaluate": {"validation": "p.jsonl", "metrics": ["./rewards.py:judged"], "max_completion_length": 2},
        "rollout": {"batch_size": 10, "max_completion_length": 2},
        "max_steps": 2,
        "trackers": ["jsonl"],
    }
    (home / "rude.yaml").write_text(yaml.safe_dump(config))
    assert rung.run(home / "rude.yaml", f"output={home / 'runs'}", allow_code=[str(home)]).finished
    return home / "runs" / "rude"


def test_children_are_terminated_and_sibling_files_are_found(run: Path) -> None:
    rows = lines(run / "grpo" / "completions.jsonl")
    assert all(row["rewards"]["forked"] == len(set(row["completion"])) for row in rows)
    assert all(row["rewards"]["terminated"] == -15 for row in rows)


def test_verdicts_are_logged_with_row_gold_answer_and_as_metrics(run: Path) -> None:
    first, *_ = lines(run / "grpo" / "completions.jsonl")
    number = int(first["row_id"].rpartition(":")[2])
    assert first["columns"] == {"answer": str(number)}
    assert first["details"]["judged"]["note"] == "counted"
    metrics = lines(run / "grpo" / "metrics.jsonl")[0]
    assert metrics["rewards/judged/cost"] == 10.0
    assert metrics["rewards/judged/parts/length"] == metrics["completions/mean_length"]
    evaluated, *_ = lines(run / "grpo" / "evaluation.jsonl")
    assert evaluated["details"]["judged"] == {
        "parts": {"length": evaluated["scores"]["output_tokens"]},
        "note": "counted",
        "cost": 0.5,
    }


def test_a_failure_beyond_the_logged_rows_is_logged_with_its_reason(run: Path) -> None:
    rows = [row for row in lines(run / "grpo" / "completions.jsonl") if row["step"] == 1]
    assert len(rows) == 17
    (failed,) = [row for row in rows if "rare" in row["details"]]
    assert failed["details"]["rare"]["error"].startswith("ZeroDivisionError: no tokens after </think> (")


def test_trainer_state_counts_the_steps_and_epochs_of_the_stage(run: Path) -> None:
    rows = lines(run / "grpo" / "completions.jsonl")
    assert sorted({tuple(row["state"]) for row in rows}) == [(0, 2, 0.0), (1, 2, 1.0)]
