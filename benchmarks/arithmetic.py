"""GRPO, DAPO, GSPO and PPO from one SFT model, with as many sampled completions, over several seeds.

    python benchmarks/arithmetic.py --seeds 0 1 2 --output runs --curves docs/images/arithmetic.svg

Each branch is the last stage of the shipped path of its name. Prints Markdown: the gain on the test set of each seed,
paired and pooled, and the completions that each branch sampled. Draws the mean reward of the seeds over what was
sampled.
"""

import argparse
import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from rung.config import PathConfig, find_config, load_config, parse_config
from rung.evaluation.comparison import compare, paired_scores
from rung.evaluation.evaluate import Evaluation
from rung.evaluation.statistics import paired_bootstrap
from rung.pipeline.runner import run_path
from rung.report.curves import Line, Panel
from rung.report.plot import figures
from rung.report.svg import alone

BRANCHES = {"grpo": "arithmetic", "dapo": "arithmetic-dapo", "gspo": "arithmetic-gspo", "ppo": "arithmetic-ppo"}
METRIC = "final_number"
POINTS = 40  # of a curve


def branched(seed: int, output: Path) -> PathConfig:
    """The shipped path with the last stages of its variants beside each other, all from `sft`."""
    raw: dict[str, Any] = yaml.safe_load(find_config("arithmetic").read_text())
    stages = [load_config(config).dump()["stages"][-1] | {"from": "sft"} for config in BRANCHES.values()]
    raw |= {"name": f"arithmetic-branches-{seed}", "seed": seed, "output": str(output)}
    raw["stages"] = [*raw["stages"][:-1], *stages]
    return parse_config(raw, source="arithmetic", base=Path.cwd())


def measured(config: PathConfig) -> dict[str, Evaluation]:
    """Runs the path of a seed and gives the test evaluation of each stage."""
    folder = run_path(config).folder
    return {stage.name: Evaluation.load(folder / stage.name / "test.json") for stage in config.stages}


def practised(folder: Path, num_generations: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Completions sampled so far and the mean reward of a rollout, both (rollouts,), from the log of a stage."""
    steps = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    rollouts = [step for step in steps if "reward" in step]
    sampled = np.cumsum([step["filter/sampled_groups"] * num_generations for step in rollouts])
    return sampled, np.array([step["reward"] for step in rollouts])


def gains(evaluations: list[dict[str, Evaluation]], branch: str) -> list[str]:
    """What a branch gained over SFT: on each seed, and over all items with a question met again as one cluster."""
    told = []
    for each in evaluations:
        found = compare(each["sft"], each[branch], METRIC, {METRIC: "max"})
        told.append(f"{found.gain:+.3f} [{found.low:+.3f}, {found.high:+.3f}]")
    pooled = chain.from_iterable(paired_scores(each["sft"], each[branch], METRIC) for each in evaluations)
    before, after, clusters = zip(*pooled, strict=True)
    whole = paired_bootstrap(before, after, clusters)
    return [*told, f"{whole.value:+.3f} [{whole.interval.low:+.3f}, {whole.interval.high:+.3f}]"]


def panel(logs: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]]) -> Panel:
    """The mean reward of the seeds over the completions that were sampled."""
    last = min(float(sampled[-1]) for several in logs.values() for sampled, _ in several)
    at = np.linspace(0, last, POINTS)
    lines = [
        Line(name, at, np.mean([np.interp(at, sampled, reward) for sampled, reward in several], axis=0))
        for name, several in logs.items()
    ]
    return Panel("reward", "share right, over completions sampled", tuple(lines))


def main() -> None:
    """Runs, or reads finished runs, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs"))
    parser.add_argument("--curves", type=Path)
    arguments = parser.parse_args()
    configs = [branched(seed, arguments.output) for seed in arguments.seeds]
    evaluations = [measured(config) for config in configs]
    each = {stage.name: stage.algorithm.get("num_generations", 1) for stage in configs[0].stages}
    logs = {
        branch: [practised(arguments.output / config.name / branch, each[branch]) for config in configs]
        for branch in BRANCHES
    }
    seeds = " | ".join(f"seed {seed}" for seed in arguments.seeds)
    print(f"\n| stage | right | completions sampled | {seeds} | pooled |")
    print("|---" * (4 + len(configs)) + "|")
    for stage in evaluations[0]:
        share = np.mean([seed[stage].metrics[METRIC].value or 0.0 for seed in evaluations])
        drawn = np.mean([sampled[-1] for sampled, _ in logs[stage]]) if stage in logs else 0
        told = gains(evaluations, stage) if stage in BRANCHES else [""] * (len(configs) + 1)
        print(f"| {stage} | {share:.3f} | {f'{drawn:,.0f}' if drawn else ''} | {' | '.join(told)} |")
    if arguments.curves:
        about = "arithmetic: reward over completions sampled"
        arguments.curves.write_text(alone(figures([panel(logs)], about), 1, about))


if __name__ == "__main__":
    main()
