"""A run that learns nothing says so on the terminal, once, and in its report."""

from pathlib import Path

import pytest
import yaml

from helpers.commands import Command
from helpers.rows import write_rows

JUDGE = """
def zero(completions, **kw):
    return [0.0] * len(completions)


def nones(completions, **kw):
    return [None] * len(completions)
"""


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ("zero", "every answer had the reward 0, which teaches nothing. Use easier prompts"),
        ("nones", "steps 1 to 5: nothing to train; "),
    ],
)
def test_a_reward_without_a_signal_is_told_while_the_run_goes_on_and_in_its_report(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    reward: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path, {"prompts": [{"prompt": f"{i}+1="} for i in range(8)]})
    (tmp_path / "judge.py").write_text(JUDGE)
    config = {
        "name": "run",
        "model": "tiny:llama",
        "algorithm": {"name": "grpo", "num_generations": 4, "beta": 0},
        "data": "prompts.jsonl",
        "rewards": [f"./judge.py:{reward}"],
        "rollout": {"batch_size": 4, "max_completion_length": 12},
        "max_steps": 7,
    }
    Path("run.yaml").write_text(yaml.safe_dump(config))
    assert command("run", "run.yaml") == 0
    out = capsys.readouterr().out
    before, _, after = out.partition("grpo: trained")
    assert before.count(f"grpo, steps 1 to 5: {said.removeprefix('steps 1 to 5: ')}") == 1
    assert "Warnings" in after
    report = Path("runs/run/report.md").read_text()
    assert said in report
    assert "Warnings" in Path("runs/run/report.html").read_text()
