"""A path with a stage of each kind that writes files of its own; as a program, it runs in the working folder."""

from pathlib import Path

import yaml

import rung
from helpers.small_path import CONFIG, write_small_path

LORA = {"adapter": {"lora": {"r": 4}}}
STAGES = [
    {"name": "sft", "algorithm": "sft", "data": "train", "max_steps": 3, "early_stopping": {"patience": 9}, **LORA},
    {"name": "rm", "algorithm": "reward_model", "data": "preferences", "max_steps": 2, **LORA},
    {"name": "dpo", "algorithm": "dpo", "data": "preferences", "max_steps": 3, "save_steps": 2},
    CONFIG["stages"][-1],
]


def run_path() -> None:
    """Writes the path into the working folder and runs it there."""
    config = write_small_path(Path.cwd())
    config.write_text(yaml.safe_dump({**CONFIG, "stages": STAGES}))
    rung.run(config.name)


if __name__ == "__main__":
    run_path()
