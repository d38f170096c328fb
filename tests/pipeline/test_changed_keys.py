"""What the message of a run that gave up advises is possible: the run goes on from its last step with that key."""

import json
from pathlib import Path

import pytest
import yaml

from helpers.commands import Command, Refusal
from helpers.rows import write_rows

JUDGE = '''
import os
import signal
from pathlib import Path


def calls() -> int:
    file = Path("n")
    number = int(file.read_text()) if file.exists() else 0
    file.write_text(str(number + 1))
    return number


def solved(completion: str) -> float:
    """Mixed at first; after 48 answers, for a while, all are right."""
    number = calls()
    return 1.0 if 48 < number < 90 else float(number % 2)


def judge(completion: str) -> float:
    """From call 40 on one in four fails."""
    number = calls()
    if number > 40 and number % 4 == 0:
        raise ConnectionError("judge: 503 Service Unavailable")
    return float(len(completion) % 2)


def stopping(completion: str) -> float:
    """Asks the run to stop in its fourth step."""
    if os.path.exists("stop") and calls() == 12:
        os.kill(os.getpid(), signal.SIGTERM)
    return float(len(completion) % 2)
'''
RUN = {
    "name": "run",
    "model": "tiny:llama",
    "algorithm": {"name": "grpo", "num_generations": 2, "beta": 0},
    "data": "prompts.jsonl",
    "rollout": {"batch_size": 2, "max_completion_length": 4},
    "updates": {"minibatches": 1},
    "max_steps": 20,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
}
IN_PROCESS = {"timeout_s": None}  # so that the process to which a reward sends a signal is that of training


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path, {"prompts": [{"prompt": f"{i}+1="} for i in range(8)]})
    (tmp_path / "judge.py").write_text(JUDGE)
    return tmp_path


def write(reward: str, **keys: object) -> None:
    Path("run.yaml").write_text(yaml.safe_dump({**RUN, "rewards": [f"./judge.py:{reward}"], **keys}))


def changes() -> list[dict]:
    return json.loads(Path("runs/run/lineage.json").read_text())["changes"]


def test_after_its_limit_of_generation_batches_a_run_goes_on_with_a_larger_one(
    work: Path, command: Command, refusal: Refusal
) -> None:
    dapo = {"name": "dapo", "num_generations": 2, "max_num_gen_batches": 2}
    write("solved", algorithm=dapo)
    what, remedy = refusal("run", "run.yaml")
    assert "were kept in 2 generation batches" in what
    assert remedy.endswith("or raise `max_num_gen_batches` to go on")
    done = len(Path("runs/run/dapo/metrics.jsonl").read_text().splitlines())
    assert done > 0
    assert command("run", "run.yaml", "algorithm.max_num_gen_batches=20") == 0
    (change,) = changes()
    assert change == {
        "key": "dapo.algorithm.max_num_gen_batches",
        "before": 2,
        "after": 20,
        "stage": "dapo",
        "step": done,
    }
    report = Path("runs/run/report.md").read_text()
    assert f"`dapo.algorithm.max_num_gen_batches` changed from 2 to 20 after step {done} of stage `dapo`." in report


def test_after_too_many_errors_a_run_goes_on_with_a_higher_rate(work: Path, command: Command, refusal: Refusal) -> None:
    write("judge")
    what, remedy = refusal("run", "run.yaml")
    assert "judge: 503 Service Unavailable" in what
    assert remedy == (
        "fix the reward, or raise `max_error_rate` or its timeout (in `reward_policy`); "
        "go on with a changed reward by `--allow-drift`"
    )
    done = len(Path("runs/run/grpo/metrics.jsonl").read_text().splitlines())
    assert command("run", "run.yaml", "reward_policy.max_error_rate=0.5") == 0
    assert [(change["key"], change["step"]) for change in changes()] == [("reward_policy.max_error_rate", done)]
    assert len(Path("runs/run/grpo/metrics.jsonl").read_text().splitlines()) == 20


def test_a_run_that_was_made_longer_is_the_longer_run_to_the_last_byte(work: Path, command: Command) -> None:
    """With a constant learning rate; stopped in step 4 of 6, and gone on with to 12."""
    write("stopping", max_steps=6, save_steps=50, reward_policy=IN_PROCESS)
    Path("stop").touch()
    assert command("run", "run.yaml") == 75
    Path("stop").unlink()
    assert command("run", "run.yaml", "max_steps=12", "save_steps=3") == 0
    assert command("run", "run.yaml", "max_steps=12", "name=whole") == 0
    for file in ("metrics.jsonl", "completions.jsonl", "model/model.safetensors"):
        assert Path("runs/run/grpo", file).read_bytes() == Path("runs/whole/grpo", file).read_bytes()
    assert [change["key"] for change in changes()] == ["grpo.max_steps", "grpo.save_steps"]


def test_a_schedule_that_decays_is_that_of_the_longer_run_from_then_on(work: Path, command: Command) -> None:
    """1e-3 x (1 - i / 6) up to the stop after step 4, then 1e-3 x (1 - i / 12)."""
    write("stopping", max_steps=6, lr_scheduler_type="linear", reward_policy=IN_PROCESS)
    Path("stop").touch()
    assert command("run", "run.yaml") == 75
    Path("stop").unlink()
    assert command("run", "run.yaml", "max_steps=12") == 0
    rates = [json.loads(line)["learning_rate"] for line in Path("runs/run/grpo/metrics.jsonl").read_text().splitlines()]
    expected = [1e-3 * (1 - i / (6 if i < 4 else 12)) for i in range(12)]
    assert rates == pytest.approx(expected)


def test_a_finished_stage_cannot_be_made_longer(work: Path, command: Command, refusal: Refusal) -> None:
    write("stopping", max_steps=2)
    assert command("run", "run.yaml") == 0
    what, remedy = refusal("run", "run.yaml", "max_steps=4")
    assert what.endswith("changed: grpo.max_steps (the run has finished)")
    assert "--new" in remedy
