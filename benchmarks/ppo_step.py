"""CPU seconds of a PPO update over those of our own plain padded layout with a pass of its own for each quantity.

    python benchmarks/ppo_step.py --prompts 8 --k 4 --prompt-length 512 --limit 64

Both do what PPO does between two rollouts: values and log-probs under the old weights and the reference, then one
update of policy and value head. The plain one pads every row to the longest prompt with the longest completion, and
runs the model once for the policy and once more for the values. Same weights, same rows, alternating in one process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rung.algorithms.ppo import PPO
from rung.batch import Batch, count_denominators
from rung.forward.planner import Block, Part
from rung.forward.policy import Policy
from rung.models.heads import zero_head


@dataclass
class Plain(Policy):
    """Rows of one width in the order given; its critic is the model itself, run once more."""

    rows_a_part: int = 8

    def plan(self, batch: Batch, unit: str, token_budget: int | None = None) -> tuple[Block, ...]:
        """As many rows at a time as fit the budget."""
        rows = range(batch.num_rows)
        pieces = [tuple(rows[i : i + self.rows_a_part]) for i in range(0, len(rows), self.rows_a_part)]
        return tuple(Block("plain", (Part(piece),)) for piece in pieces)


def toy() -> Qwen3ForCausalLM:
    """A random model of 4 layers and hidden size 256."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=8000,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).eval()


def rollout(prompts: int, k: int, prompt_length: int, limit: int) -> Batch:
    """Random rows with advantages to come: prompts and completions of half to the full length."""
    draw = torch.Generator().manual_seed(0)
    n = prompts * k
    prompt_lengths = torch.randint(prompt_length // 2, prompt_length + 1, (prompts,), generator=draw)
    lengths = torch.randint(limit // 2, limit + 1, (n,), generator=draw)
    mask = torch.arange(limit) < lengths[:, None]
    return Batch(
        prompt_ids=torch.randint(3, 8000, (prompts, prompt_length), generator=draw),
        prompt_mask=torch.arange(prompt_length) >= prompt_length - prompt_lengths[:, None],
        prompt_of=torch.arange(prompts).repeat_interleave(k),
        group_of=torch.arange(prompts).repeat_interleave(k),
        completion_ids=torch.randint(3, 8000, (n, limit), generator=draw) * mask,
        completion_mask=mask,
        loss_mask=mask,
        row_ids=tuple(str(i) for i in range(n)),
        max_completion_length=limit,
        truncated=lengths == limit,
        rewards=torch.rand(n, generator=draw),
    )


def seconds(policy: Policy, algorithm: PPO, batch: Batch) -> float:
    """CPU seconds of what lies between a rollout and the optimizer's step; the gradient is left on the weights."""
    start = time.process_time()
    batch = algorithm.prepare(batch, policy)
    batch, _ = algorithm.credit(batch, algorithm.initial_state())
    denominators = count_denominators(algorithm.terms(), batch)
    for parameter in policy.parameters:
        parameter.grad = None
    for part, outputs in policy.parts(batch, algorithm):
        algorithm.loss(part, outputs).over(denominators).backward()
    return time.process_time() - start


def main() -> None:
    """Time pairs of updates and print the median ratio with its range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("prompts", 8), ("k", 4), ("prompt-length", 512), ("limit", 64), ("pairs", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, algorithm = toy(), PPO()
    head = zero_head(model)
    torch.nn.init.normal_(head.weight, std=0.05)
    reference = toy().requires_grad_(False)
    ours = Policy(model, value_head=head, reference=reference)
    plain = Plain(model, value_head=head, reference=reference, critic=model)
    batch = rollout(args.prompts, args.k, args.prompt_length, args.limit)

    gradients = []
    for policy in (plain, ours):
        seconds(policy, algorithm, batch)  # warms up
        gradients.append(torch.cat([p.grad.flatten() for p in ours.parameters if p.grad is not None]))
    apart = float((gradients[0] - gradients[1]).norm() / gradients[0].norm())
    pairs = [(seconds(ours, algorithm, batch), seconds(plain, algorithm, batch)) for _ in range(args.pairs)]
    ratios = sorted(mine / theirs for mine, theirs in pairs)
    print(f"torch {torch.__version__}, fp32, 1 thread, {vars(args)}; gradients apart by {apart:.1e} of their norm")
    for name, runs in (("rung", [p[0] for p in pairs]), ("plain", [p[1] for p in pairs])):
        print(f"{name}: median {statistics.median(runs):.2f} CPU s, {min(runs):.2f} to {max(runs):.2f}")
    print(
        f"ratio: median {statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f} over {len(ratios)} pairs"
    )


if __name__ == "__main__":
    main()
