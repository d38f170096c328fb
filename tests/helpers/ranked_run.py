"""A path of four stages that processes of their own run, as the ranks of one run."""

import os
from pathlib import Path

import torch

from helpers.rows import write_rows
from rung.config import load_config
from rung.errors import UserError
from rung.pipeline.runner import run_path

CONFIG = """
model: tiny:llama
data: {prompts: prompts.jsonl, texts: texts.jsonl}
rewards: ["./judge.py:many_a"]
stages:
  - {name: sft, algorithm: sft, data: texts, batch_size: 4, max_steps: 4, early_stopping: {patience: 9}, eval_steps: 2}
  - name: rm
    algorithm: reward_model
    data: {path: pairs.jsonl}
    batch_size: 4
    max_steps: 2
  - name: ppo
    from: sft
    algorithm: ppo
    critic: rm
    data: prompts
    rollout: {batch_size: 4, max_completion_length: 12}
    updates: {minibatches: 2, epochs: 2}
    max_steps: 4
  - name: dapo
    from: sft
    algorithm: {name: dapo, num_generations: 4, beta: 0.04}
    data: prompts
    adapter: {lora: {r: 4, init_lora_weights: pissa}}
    rollout: {batch_size: 4, max_completion_length: 12}
    updates: {minibatches: 2, epochs: 2}
    max_steps: 8
    save_steps: 3
    optimizer: muon
"""
REWARD = '''
def many_a(completion: str) -> float:
    """1 or 0, so that groups where all are alike are drawn anew: whether two letters a to m are there."""
    return float(sum("a" <= letter <= "m" for letter in completion) >= 2)
'''


def write_path(work: Path) -> None:
    """Writes the config, its data and its reward."""
    (work / "path.yaml").write_text(CONFIG)
    (work / "judge.py").write_text(REWARD)
    numbers = range(11)
    rows = {
        "prompts": [{"prompt": f"number {i}"} for i in numbers],
        "texts": [{"prompt": f"number {i}", "completion": f"{i * i}"} for i in range(40)],
        "pairs": [{"prompt": f"number {i}", "chosen": f"{i * i}", "rejected": "none"} for i in numbers],
    }
    write_rows(work, rows)


def run_rank(work: Path, name: str, rank: int, world: int, port: int, fully_shard: bool, *overrides: str) -> None:
    """One rank of a run; exits with its code."""
    os.chdir(work)
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {key: str(value) for key, value in place.items()}
    try:
        run = run_path(load_config("path.yaml", [f"name={name}", *overrides]), fully_shard=fully_shard)
    except UserError as error:
        print(error)
        os._exit(2)
    os._exit(run.exit_code(strict=False))
