"""A reward model on the labelled GSM8K solutions: does it order pairs of questions that it never saw?

    RUNG_DATA=FOLDER python benchmarks/gsm8k_judge.py --output runs

Trains `tiny:base` whole and with LoRA on the pairs of four fifths of the questions and judges those of the others,
beside a judge that reads the length alone: the sign of its preference is taken from the training pairs. Intervals are
over resampled questions. Prints Markdown.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rung.config import parse_config
from rung.data.encode import encode
from rung.data.load import load_examples
from rung.data.records import Encoded
from rung.evaluation.statistics import mean_interval, paired_bootstrap
from rung.models.load import load_tokenizer
from rung.models.reward_model import load_reward_model, score_rows
from rung.pipeline.runner import run_path

MAX_LENGTH = 768
HELD_OUT_FROM = 0.8
LORA = {"lora": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}}


def stages(seed: int, epochs: float) -> list[dict[str, Any]]:
    """The whole model, and an adapter on it; a higher learning rate for LoRA."""
    common = {
        "algorithm": {"name": "reward_model", "center_rewards_coefficient": 0.01},
        "data": "pairs",
        "num_train_epochs": epochs,
        "batch_size": 16,
        "max_length": MAX_LENGTH,
        "max_prompt_length": MAX_LENGTH,
        "warmup_steps": 10,
        "seed": seed,
    }
    full = {"name": "full", "learning_rate": 3.0e-4, "weight_decay": 0.1}
    lora = {"name": "lora", "learning_rate": 1.0e-3, "adapter": LORA}
    return [{**common, **full}, {**common, **lora}]


def pairs(file: Path, share: dict[str, float]) -> list[Encoded]:
    """The pairs of a share of the questions, as the stages see them."""
    examples, report = load_examples({"path": str(file), "share": share})
    tokenizer = load_tokenizer("tiny:base")
    return encode(examples, tokenizer, max_prompt_length=MAX_LENGTH, max_length=MAX_LENGTH, report=report)


def margins(model: str, encoded: Sequence[Encoded]) -> np.ndarray:
    """(n,) scores of the right solution less those of the wrong one."""
    judge, _ = load_reward_model(model)
    rows = [[*pair.prompt_ids, *answer.ids] for pair in encoded for answer in pair.answers]
    scores = np.array(score_rows(judge, rows, token_budget=8192)).reshape(-1, 2)
    return scores[:, 0] - scores[:, 1]


def longer(encoded: Sequence[Encoded]) -> np.ndarray:
    """(n,) tokens of the right solution less those of the wrong one."""
    return np.array([len(pair.answers[0].ids) - len(pair.answers[1].ids) for pair in encoded])


def right(margin: np.ndarray) -> np.ndarray:
    """(n,) 1 where the right solution is ahead, 0 where it is behind, a half for a tie."""
    return (np.sign(margin) + 1) / 2


def table(judged: dict[str, np.ndarray], questions: Sequence[str]) -> Iterator[str]:
    """Markdown: pair accuracy of each judge with its interval, and what it has over the length alone."""
    yield "| judge | held-out pairs in order | over length alone |"
    yield "|---|---|---|"
    for name, correct in judged.items():
        low, high = mean_interval(correct, questions) or (float("nan"), float("nan"))
        gain = paired_bootstrap(judged["length alone"], correct, questions)
        over = f"{gain.value:+.3f} [{gain.interval.low:+.3f}, {gain.interval.high:+.3f}]"
        yield f"| {name} | {correct.mean():.3f} [{low:.3f}, {high:.3f}] | {'' if name == 'length alone' else over} |"


def main() -> None:
    """Trains, judges, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("RUNG_DATA"))
    parser.add_argument("--output", default="runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=2.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    file = Path(arguments.data) / "gsm8k" / "example_model_solutions.jsonl"
    raw = {
        "name": f"gsm8k-judge-{arguments.seed}",
        "model": "tiny:base",
        "output": arguments.output,
        "data": {"pairs": {"path": str(file), "share": {"to": HELD_OUT_FROM}}},
        "stages": stages(arguments.seed, arguments.epochs),
    }
    folder = run_path(parse_config(raw, source="gsm8k-judge", base=Path.cwd())).folder
    seen, held_out = pairs(file, {"to": HELD_OUT_FROM}), pairs(file, {"from": HELD_OUT_FROM})
    questions = [str(pair.prompt_ids) for pair in held_out]
    assert not set(questions) & {str(pair.prompt_ids) for pair in seen}, "a question is on both sides"
    sign = 1 if right(longer(seen)).mean() > 0.5 else -1
    judged = {"length alone": right(sign * longer(held_out))}
    judged |= {name: right(margins(str(folder / name / "model"), held_out)) for name in ("full", "lora")}
    print(f"\n{len(seen)} pairs of {len({str(pair.prompt_ids) for pair in seen})} questions trained, ", end="")
    print(f"{len(held_out)} pairs of {len(set(questions))} questions held out\n")
    print("\n".join(table(judged, questions)))


if __name__ == "__main__":
    main()
