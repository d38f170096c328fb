"""The pharmacy path over several seeds, with its controls: what each stage is worth on test, paired and pooled.

    python benchmarks/pharmacy.py --seeds 0 1 2 --output runs

Each seed has its own data and its own test set, which is read once, when all of its stages have been trained. The
controls start where SFT starts: SFT for twice the epochs, and SFT on the labels plus the preferred texts of the pairs.
Prints Markdown.
"""

import argparse
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from rung.artifacts.lineage import Lineage
from rung.config import PathConfig, find_config, parse_config
from rung.evaluation.comparison import Comparison, compare, paired_scores, pooled_ratio
from rung.evaluation.evaluate import Evaluation
from rung.evaluation.statistics import paired_bootstrap
from rung.pipeline.runner import run_path

METRICS = {"correct": "max", "dangerous": "min", "harmless": "min", "unparseable": "min", "house_style": "max"}
QUESTIONS = (
    ("correct", "prompting", "sft"),
    ("correct", "sft", "last promoted"),
    ("house_style", "sft", "dpo"),
    ("correct", "sft", "sft-twice"),
    ("house_style", "sft-chosen", "dpo"),
    ("correct", "sft-twice", "dapo"),
    ("correct", "sft-chosen", "dapo"),
)


def with_controls(seed: int, output: Path) -> PathConfig:
    """The shipped path with two more stages at its end, which nothing builds on."""
    raw: dict[str, Any] = yaml.safe_load(find_config("pharmacy").read_text())
    sft = next(stage for stage in raw["stages"] if stage["name"] == "sft")
    twice = {**sft, "name": "sft-twice", "from": "prompting", "num_train_epochs": 2 * sft["num_train_epochs"]}
    chosen = {**sft, "name": "sft-chosen", "from": "prompting", "data": "task:pharmacy/sft-and-chosen"}
    raw |= {"name": f"pharmacy-controls-{seed}", "seed": seed, "output": str(output)}
    raw["stages"] = [*raw["stages"], twice, chosen]
    return parse_config(raw, source="pharmacy", base=Path.cwd())


def measured(seeds: list[int], output: Path) -> Iterator[dict[str, Evaluation]]:
    """The test evaluations of each seed by stage, `last promoted` among them."""
    for seed in seeds:
        config = with_controls(seed, output)
        folder = run_path(config).folder
        controls = ("sft-twice", "sft-chosen")
        evaluations = {stage.name: Evaluation.load(folder / stage.name / "test.json") for stage in config.stages}
        climbed = [record for record in Lineage.load(folder / "lineage.json").stages if record.stage not in controls]
        accepted = [record.stage for record in climbed if record.accepted]
        print(f"\nseed {seed}: accepted {', '.join(accepted)}", flush=True)
        yield {**evaluations, "last promoted": evaluations[accepted[-1]]}


def table(runs: list[dict[str, Evaluation]]) -> Iterator[str]:
    """Mean over seeds of every metric, and output tokens."""
    yield "| stage | " + " | ".join(METRICS) + " | output tokens |"
    yield "|---|" + "---|" * (len(METRICS) + 1)
    for stage in runs[0]:
        values = [sum(run[stage].metrics[name].value or 0 for run in runs) / len(runs) for name in METRICS]
        tokens = sum(run[stage].output_tokens.mean for run in runs) / len(runs)
        yield f"| {stage} | " + " | ".join(f"{value:.3f}" for value in values) + f" | {tokens:.1f} |"


def told(comparison: Comparison) -> str:
    """A gain with its interval."""
    return f"{comparison.gain:+.3f} [{comparison.low:+.3f}, {comparison.high:+.3f}]"


def answers(seeds: list[int], runs: list[dict[str, Evaluation]]) -> Iterator[str]:
    """Paired gains of each question, by seed and pooled; items of one group are drawn together."""
    yield "| metric | from | to | " + " | ".join(f"seed {seed}" for seed in seeds) + " | pooled |"
    yield "|---|---|---|" + "---|" * (len(seeds) + 1)
    for metric, before, after in QUESTIONS:
        each = [told(compare(run[before], run[after], metric, METRICS)) for run in runs]  # type: ignore[arg-type]
        pairs = list(chain.from_iterable(paired_scores(run[before], run[after], metric) for run in runs))
        old, new, groups = zip(*pairs, strict=True)
        pooled = paired_bootstrap(old, new, groups)
        interval = f"{pooled.value:+.3f} [{pooled.interval.low:+.3f}, {pooled.interval.high:+.3f}]"
        yield f"| {metric} | {before} | {after} | " + " | ".join(each) + f" | {interval} |"


def main() -> None:
    """Runs, or goes on with, every seed, then prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    runs = list(measured(arguments.seeds, arguments.output))
    for line in ("", *table(runs), "", *answers(arguments.seeds, runs)):
        print(line)
    ratio = pooled_ratio([(run["sft"], run["last promoted"]) for run in runs], "dangerous")
    if ratio is not None:
        low, high = ratio.interval
        print(f"\ndangerous, last promoted over SFT, pooled: {ratio.value:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
