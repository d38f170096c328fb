"""CPU seconds of an SFT step on raw text: the planner's choice against plain rows and padded ones, alternating.

    python benchmarks/packing.py --rows 32 --median 50 --sigma 1.2

`plain` rows are sorted by length and cut where it costs least, as the planner does where nothing is packed; `padded`
rows are taken eight at a time in their order. Lengths are log-normal: 50 and 1.2 are those of paragraphs in financial
reports (TAT-QA), 64 and 0.5 those of worked solutions (GSM8K). Random Llama (grouped queries 2:1), fp32, one thread.
Each round has its own lengths and gives one ratio. Seconds are CPU time and include planning.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from rung.algorithms.sft import SFT
from rung.batch import Batch, count_denominators
from rung.forward.passes import WorkCounter
from rung.forward.planner import Block, Part
from rung.forward.policy import Policy

Plan = Callable[[Batch, str], tuple[Block, ...]]


def toy(vocabulary: int, hidden: int, layers: int) -> LlamaForCausalLM:
    """A random decoder with 32 dimensions a head."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 43 // 16,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def raw_text(lengths: torch.Tensor, vocabulary: int) -> Batch:
    """Documents of `lengths` (N,) tokens; each one's first token is its prompt."""
    rows, rest = len(lengths), lengths - 1
    mask = torch.arange(int(rest.max())) < rest[:, None]
    return Batch(
        prompt_ids=torch.randint(5, vocabulary, (rows, 1)),
        prompt_mask=torch.ones(rows, 1, dtype=torch.bool),
        prompt_of=torch.arange(rows),
        group_of=torch.arange(rows),
        completion_ids=torch.randint(5, vocabulary, mask.shape) * mask,
        completion_mask=mask,
        loss_mask=mask,
        row_ids=tuple(map(str, range(rows))),
    )


def in_order(batch: Batch, unit: str) -> tuple[Block, ...]:
    """Eight rows a part, as they come."""
    rows = range(batch.num_rows)
    return tuple(Block("plain", (Part(tuple(rows[i : i + 8])),)) for i in range(0, batch.num_rows, 8))


def step(policy: Policy, batch: Batch, plan: Plan) -> tuple[float, WorkCounter, torch.Tensor]:
    """CPU seconds of one forward and backward as planned, the work counted, and the gradient."""
    policy.plan = plan  # type: ignore[method-assign]
    policy.work = WorkCounter()
    policy.model.zero_grad()
    algorithm = SFT()
    start = time.process_time()
    for part, outputs in policy.parts(batch, algorithm):
        algorithm.loss(part, outputs).over(count_denominators(algorithm.terms(), batch)).backward()
    seconds = time.process_time() - start
    return seconds, policy.work, torch.cat([p.grad.flatten() for p in policy.parameters if p.grad is not None])


def main() -> None:
    """Time the steps in turn and print the median ratios with their range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"rows": 32, "median": 50, "longest": 512, "hidden": 128, "layers": 4, "vocabulary": 1000, "rounds": 7}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--sigma", type=float, default=1.2, help="of the logarithm of the lengths")
    args = parser.parse_args()
    torch.set_num_threads(1)

    model = toy(args.vocabulary, args.hidden, args.layers)
    policy, alone = Policy(model), Policy(model)
    alone.layouts = lambda: ("plain",)  # type: ignore[method-assign]
    plans: dict[str, Plan] = {"chosen": policy.plan, "plain": alone.plan, "padded": in_order}
    rounds, tokens = [], []
    for _ in range(args.rounds + 1):
        lengths = (args.median * torch.exp(args.sigma * torch.randn(args.rows))).clamp(4, args.longest).long()
        batch = raw_text(lengths, args.vocabulary)
        rounds.append({name: step(policy, batch, plan) for name, plan in plans.items()})
        tokens.append(int(lengths.sum()))
    rounds = rounds[1:]  # the first one warms up

    print(f"torch {torch.__version__}, transformers {transformers.__version__}, fp32, 1 thread, {vars(args)}")
    print(f"median tokens {statistics.median(tokens[1:]):.0f}")
    for name in plans:
        seconds, counted, gradients = zip(*(each[name] for each in rounds), strict=True)
        ratios = sorted(each[name][0] / each["chosen"][0] for each in rounds)
        apart = max(
            float((gradient - each["chosen"][2]).norm() / gradient.norm())
            for gradient, each in zip(gradients, rounds, strict=True)
        )
        print(
            f"{name}: median {statistics.median(seconds):.2f} s, "
            f"{statistics.median(work.positions for work in counted):.0f} positions, "
            f"{statistics.median(work.calls for work in counted):.0f} calls; over chosen: median "
            f"{statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f}; gradients apart by {apart:.0e}"
        )


if __name__ == "__main__":
    main()
