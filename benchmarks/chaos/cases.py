"""The runs that are attacked: one stage of each main algorithm, and a path of three stages with gates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SAVE_STEPS = 3  # in the middle of a rollout, which is used in two steps
STEPS = 7
REWARD = '''
def small_letters(completion: str) -> float:
    """The share of the letters a to m, so that the answers of a random model differ."""
    return sum("a" <= letter <= "m" for letter in completion) / max(len(completion), 1)
'''
LETTERS = "./judge.py:small_letters"
HEAD: Mapping[str, Any] = {
    "name": "run",
    "date": "2026-01-01",
    "model": "tiny:llama",
    "reward_policy": {"timeout_s": None},  # the reward is called in the process of the run, which is faster
}
OFFLINE: Mapping[str, dict[str, Any]] = {
    "sft": {"algorithm": "sft", "data": "texts.jsonl"},
    "dpo": {"algorithm": "dpo", "data": "pairs.jsonl"},
    "reward_model": {"algorithm": "reward_model", "data": "pairs.jsonl"},
}
SAMPLED: Mapping[str, dict[str, Any]] = {
    "ppo": {"algorithm": {"name": "ppo", "kl_target": 0.1, "kl_unit": "sequence_sum"}, "critic": "start"},
    "grpo": {"algorithm": {"name": "grpo", "num_generations": 2, "beta": 0.04}, "adapter": {"lora": {"r": 4}}},
    "dapo": {"algorithm": {"name": "dapo", "num_generations": 2}},
    "gspo": {"algorithm": {"name": "gspo", "num_generations": 2}},
}
ALGORITHMS = (*OFFLINE, *SAMPLED)


@dataclass(frozen=True, slots=True)
class Case:
    """A run that can be written into any folder: its config and the files that it reads. Its name is `run`."""

    name: str
    config: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Writes `run.yaml`, the data and the reward into a folder."""
        for name, several in rows().items():
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in several))
        (folder / "judge.py").write_text(REWARD)
        (folder / "run.yaml").write_text(yaml.safe_dump(dict(self.config), sort_keys=False))


def rows() -> dict[str, list[dict[str, Any]]]:
    """The rows of the data of all cases, by the name of their file."""
    numbers = range(12)
    return {
        "texts": [{"prompt": f"number {i}", "completion": f"it is {i}"} for i in numbers],
        "pairs": [{"prompt": f"number {i}", "chosen": f"it is {i}", "rejected": "no"} for i in numbers],
        "prompts": [{"prompt": f"number {i}", "answer": f"it is {i}"} for i in range(40)],
    }


def _sampled(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "data": "prompts.jsonl",
        "rewards": [LETTERS],
        "rollout": {"batch_size": 4, "max_completion_length": 4},
        "updates": {"minibatches": 2, "epochs": 1},
        **stage,
    }


def _stage(name: str) -> dict[str, Any]:
    stage = {"batch_size": 2, **OFFLINE[name]} if name in OFFLINE else _sampled(SAMPLED[name])
    return {"name": name, "max_steps": STEPS, "save_steps": SAVE_STEPS, "learning_rate": 1e-2, **stage}


def single(name: str) -> Case:
    """A run of one stage with one of the main algorithms, without evaluation."""
    return Case(name, {**HEAD, "stages": [_stage(name)]})


def path() -> Case:
    """A path of three stages (sft with early stopping, dpo, grpo) with two gates, evaluation, test set and report."""
    gate = {"metric": "small_letters"}
    stages = [
        {**_stage("sft"), "early_stopping": {"patience": 5}, "eval_steps": 2, "gate": gate},
        {**_stage("dpo"), "max_steps": 4},
        {**_stage("grpo"), "max_steps": 4, "gate": gate},
    ]
    halves = ({"to": 0.5}, {"from": 0.5})
    validation, test = ({"path": "prompts.jsonl", "share": half} for half in halves)
    evaluate = {
        "validation": validation,
        "test": test,
        "metrics": [LETTERS],
        "max_completion_length": 4,
    }
    return Case("path", {**HEAD, "evaluate": evaluate, "stages": stages})


def user_reward() -> Case:
    """A run of GRPO whose reward is called in a worker process, as it is by default."""
    config = {key: value for key, value in single("grpo").config.items() if key != "reward_policy"}
    return Case("grpo, reward in a worker", config)


def every() -> dict[str, Case]:
    """All cases by their names."""
    cases = [*(single(name) for name in ALGORITHMS), path(), user_reward()]
    return {case.name: case for case in cases}
