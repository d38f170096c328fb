"""A small path of four stages on a random model: sums that are prompted, learnt, preferred and rewarded."""

from pathlib import Path

import yaml

from helpers.rows import write_rows

REWARD = '''
def digits(completions, **columns):
    """The share of digits in the answer."""
    texts = [turns[-1]["content"] for turns in completions]
    return [sum(char.isdigit() for char in text) / max(len(text), 1) for text in texts]
'''
CONFIG = {
    "name": "small",
    "model": "tiny:llama",
    "data": {"train": "train.jsonl", "preferences": "pairs.jsonl", "prompts": "prompts.jsonl"},
    "rewards": ["./reward.py:digits"],
    "evaluate": {
        "validation": {"path": "prompts.jsonl", "share": {"to": 0.5}},
        "test": {"path": "prompts.jsonl", "share": {"from": 0.5}},
        "metrics": ["./reward.py:digits"],
        "shots_from": "train",
        "max_completion_length": 4,
    },
    "gate": {"metric": "digits"},
    "stages": [
        {"name": "prompting", "algorithm": "prompt", "shots": [0, 2]},
        {"name": "sft", "algorithm": "sft", "data": "train", "batch_size": 8, "max_steps": 30},
        {
            "name": "dpo",
            "algorithm": "dpo",
            "data": "preferences",
            "max_steps": 1,
            "learning_rate": 1e-9,
            "gate": {"metric": "output_tokens"},
        },
        {
            "name": "grpo",
            "algorithm": {"name": "grpo", "num_generations": 2},
            "data": "prompts",
            "max_steps": 1,
            "rollout": {"batch_size": 2, "max_completion_length": 4},
        },
    ],
}


def write_small_path(folder: Path) -> Path:
    """Writes the config, its data and its reward into a folder; returns the config's file."""
    user = [[{"role": "user", "content": f"{number}+1?"}] for number in range(80)]
    right = [[{"role": "assistant", "content": str(number + 1)}] for number in range(80)]
    wrong = [[{"role": "assistant", "content": "no"}] for _ in range(80)]
    rows = {
        "train": [{"prompt": user[i], "completion": right[i]} for i in range(24)],
        "pairs": [{"prompt": user[i], "chosen": right[i], "rejected": wrong[i]} for i in range(24)],
        "prompts": [{"prompt": user[i], "answer": right[i][0]["content"]} for i in range(24, 80)],
    }
    write_rows(folder, rows)
    (folder / "reward.py").write_text(REWARD)
    (folder / "small.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder / "small.yaml"
