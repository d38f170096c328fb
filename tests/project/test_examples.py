"""The examples do what they say, and an algorithm of one's own needs no edit of the engine."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from helpers.commands import Command, Refusal
from helpers.repository import ROOT
from helpers.rows import read_rows, write_rows

EXAMPLES = ROOT / "examples"
JUDGE = '''
def lower(completions, **columns):
    """The share of lower-case letters."""
    return [sum("a" <= letter <= "z" for letter in text) / max(len(text), 1) for text in completions]
'''
THIRD_PARTY = '''
"""Rewards as advantages, in a package of somebody else."""
from dataclasses import replace
from typing import ClassVar

from rung.algorithm import Algorithm, State
from rung.batch import Batch, Loss, Outputs
from rung.maths.advantages import centre
from rung.maths.tensors import masked_sum


class Reinforce(Algorithm):
    """Log-probs weighed by the centred reward."""

    name: ClassVar = "third_party_reinforce"

    num_generations: int = 4

    def data_kind(self) -> str:
        return "prompts"

    def terms(self) -> dict[str, str]:
        return {"policy": "rows"}

    def samples_per_prompt(self) -> int:
        return self.num_generations

    def credit(self, rollout: Batch, state: State) -> tuple[Batch, State]:
        advantages = centre(rollout.rewards, rollout.group_of)[:, None]
        return replace(rollout, advantages=advantages * rollout.loss_mask), state

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        return Loss({"policy": -masked_sum(outputs.logps * batch.advantages, batch.loss_mask).sum()})
'''


def write_config(folder: Path, algorithm: object, steps: int) -> str:
    """Writes a config that names the algorithm, its data and its reward; the file."""
    (folder / "judge.py").write_text(JUDGE)
    write_rows(folder, {"prompts": [{"prompt": f"number {i}"} for i in range(16)]})
    config = {
        "name": "own",
        "model": "tiny:llama",
        "stages": [
            {
                "name": "own",
                "algorithm": algorithm,
                "data": "prompts.jsonl",
                "rewards": ["./judge.py:lower"],
                "rollout": {"batch_size": 8, "max_completion_length": 8},
                "learning_rate": 3e-3,
                "max_steps": steps,
            }
        ],
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(config))
    return str(folder / "own.yaml")


def rewards_of(folder: Path, command: Command, algorithm: object) -> list[float]:
    """The mean reward of each step of `rung run`."""
    allowed = ("--allow-code", str(folder), "--allow-code", str(EXAMPLES))
    assert command("run", write_config(folder, algorithm, steps=32), f"output={folder / 'runs'}", *allowed) == 0
    return [row["reward"] for row in read_rows(folder / "runs/own/own/metrics.jsonl")]


def rises(rewards: list[float]) -> bool:
    """Whether the last quarter has twice the reward of the first steps."""
    quarter = len(rewards) // 4
    return sum(rewards[-quarter:]) / quarter > 2 * sum(rewards[:3]) / 3


def test_the_example_algorithm_is_used_by_its_path_and_learns(tmp_path: Path, command: Command) -> None:
    algorithm = {"name": f"{EXAMPLES}/mine.py:BestOfGroup", "num_generations": 6}
    assert rises(rewards_of(tmp_path, command, algorithm))


def test_the_example_algorithm_is_refused_a_setting_that_it_does_not_have(tmp_path: Path, refusal: Refusal) -> None:
    algorithm = {"name": f"{EXAMPLES}/mine.py:BestOfGroup", "num_generation": 6}
    lines = refusal("run", write_config(tmp_path, algorithm, steps=1), "--allow-code", str(EXAMPLES))
    assert "unknown key `num_generation`" in lines[0]
    assert "`num_generations`" in lines[1]


def test_an_algorithm_by_entry_point_is_known_by_its_name_and_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    site = tmp_path / "site"
    info = site / "third_party-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "third_party_rl.py").write_text(THIRD_PARTY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rung.algorithms]\nreinforce = third_party_rl:Reinforce\n")
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    try:
        assert rises(rewards_of(tmp_path, command, "third_party_reinforce"))
    finally:
        sys.modules.pop("third_party_rl", None)


def test_the_loop_on_one_screen_learns(capsys: pytest.CaptureFixture[str]) -> None:
    first = float(loop_example().main(num_steps=1))
    last = float(loop_example().main(num_steps=24))
    assert last > 2 * first
    assert "step 24: reward" in capsys.readouterr().out


def loop_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_loop", EXAMPLES / "loop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
