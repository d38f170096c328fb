"""Stages that a process of their own trains, and goes on with where it was killed."""

import os
from pathlib import Path

import yaml

from rung.config import parse_config, resolve
from rung.config.defaults import algorithm_of
from rung.distributed.ranks import Ranks
from rung.pipeline.stage_settings import stage_settings
from rung.pipeline.train_stage import train_stage
from rung.utils.signals import StopFlag

STEPS = 22

REWARD = '''
def many_a(completion: str) -> float:
    """Mixed rewards from a random model: the share of the letters a to m."""
    return sum("a" <= letter <= "m" for letter in completion) / max(len(completion), 1)
'''
STAGES = {
    "dapo": {
        "algorithm": {"name": "dapo", "num_generations": 4},
        "data": "prompts.jsonl",
        "rewards": ["./judge.py:many_a"],
        "rollout": {"batch_size": 4, "max_completion_length": 12},
        "updates": {"minibatches": 2, "epochs": 2},
    },
    "grpo": {
        "algorithm": {"name": "grpo", "num_generations": 4, "beta": 0.04},
        "data": "prompts.jsonl",
        "rewards": ["./judge.py:many_a"],
        "rollout": {"batch_size": 4, "max_completion_length": 12},
        "adapter": {"lora": {"r": 4}},
    },
    "ppo": {
        "algorithm": {"name": "ppo", "kl_target": 0.1, "kl_unit": "sequence_sum", "bootstrap_truncated": True},
        "data": "prompts.jsonl",
        "rewards": ["./judge.py:many_a"],
        "rollout": {"batch_size": 4, "max_completion_length": 12},
        "updates": {"minibatches": 2, "epochs": 3},
        "critic": "start",
    },
    "sft": {
        "algorithm": "sft",
        "data": "texts.jsonl",
        "batch_size": 4,
        "early_stopping": {"patience": 50},
        "eval_steps": 5,
    },
}


def train_or_resume(work: Path, stage: str, folder: Path) -> None:
    """Trains the stage, or what is left of it; exits with 75 where it was asked to stop."""
    raw = {
        "name": "test",
        "model": "tiny:llama",
        "stages": [{"name": stage, "max_steps": STEPS, "save_steps": 3, **STAGES[stage]}],
    }
    (work / "config.yaml").write_text(yaml.safe_dump(raw))
    config = resolve(parse_config(raw, source="test", base=work), "tiny")
    with StopFlag() as stop:
        done = train_stage(
            stage_settings(config.stages[0], config, algorithm_of(config.stages[0], work)),
            start="tiny:llama",
            reference=None,
            critic="tiny:llama" if config.stages[0].critic == "start" else None,
            folder=folder,
            ranks=Ranks(),
            stop=stop,
        )
    os._exit(0 if done else 75)
