"""Tokens per second of the local sampler over those of transformers' `generate`, in one process, alternating.

    python benchmarks/sampler.py --prompts 4 --k 8 --prompt-length 64 --limit 64

Both draw from the same random Llama (4 layers, hidden 256, grouped queries 2:1) in fp32 on one thread, untruncated, and
stop at the same EOS tokens, which make up the given share of the vocabulary, so that lengths are uneven. The sampler
also returns log-probs; `generate` does not. Seconds are CPU time. A pair of runs gives one ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from rung.rollout.philox import Key
from rung.rollout.samplers import LocalSampler
from rung.sampling import Sampling
from rung.tiny.tokenizers import byte


@dataclass(frozen=True)
class Timed:
    """One run: completion tokens drawn and CPU seconds spent."""

    tokens: int
    cpu_s: float

    @property
    def rate(self) -> float:
        """Tokens per CPU second."""
        return self.tokens / self.cpu_s


def toy(vocabulary: int, eos_share: float) -> LlamaForCausalLM:
    """The random model; the last tokens of its vocabulary are EOS."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        eos_token_id=list(range(vocabulary - int(vocabulary * eos_share), vocabulary)) or None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def timed(run: Callable[[], int]) -> Timed:
    """Run once, count the tokens that `run` returns."""
    start = time.process_time()
    tokens = run()
    return Timed(tokens, time.process_time() - start)


def stock(model: Any, prompts: torch.Tensor, k: int, limit: int) -> int:
    """Draw with `generate`; the tokens up to and with each row's EOS."""
    settings = {"do_sample": True, "top_k": 0, "max_new_tokens": limit, "num_return_sequences": k}
    mask = torch.ones_like(prompts)
    with torch.no_grad():
        rows = model.generate(prompts, attention_mask=mask, disable_compile=True, **settings)[:, prompts.shape[1] :]
    ended = torch.isin(rows, torch.tensor(model.generation_config.eos_token_id or [-1]))
    return int((ended.cumsum(1) - ended.int() == 0).sum())


def main() -> None:
    """Time pairs of runs and print the median ratio with its range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("prompts", 4), ("k", 8), ("prompt-length", 64), ("limit", 64), ("vocabulary", 8000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--eos-share", type=float, default=0.05, help="of the vocabulary; 0: no row ends early")
    parser.add_argument("--pairs", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)

    model = toy(args.vocabulary, args.eos_share)
    tokenizer = byte()
    tokenizer.eos_token = None  # the model's EOS tokens alone, as `generate` has it
    sampler = LocalSampler(model, tokenizer)
    ids = torch.randint(3, args.vocabulary, (args.prompts, args.prompt_length))
    prompts = [tuple(row) for row in ids.tolist()]
    sampling = Sampling(max_completion_length=args.limit)

    def ours(visit: int) -> int:
        key = Key(0, "benchmark", "rollout")
        groups = sampler.sample(prompts, args.k, visits=[visit] * len(prompts), key=key, sampling=sampling)
        return sum(len(row.ids) for group in groups for row in group)

    pairs: list[tuple[Timed, Timed]] = []
    for i in range(args.pairs + 1):
        pairs.append((timed(lambda i=i: ours(i)), timed(lambda: stock(model, ids, args.k, args.limit))))
    pairs = pairs[1:]  # the first pair warms up

    ratios = sorted(mine.rate / theirs.rate for mine, theirs in pairs)
    lengths = statistics.mean(mine.tokens for mine, _ in pairs) / (args.prompts * args.k)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, fp32, 1 thread, {vars(args)}")
    print(f"mean completion {lengths:.1f} tokens")
    for name, runs in (("sampler", [p[0] for p in pairs]), ("generate", [p[1] for p in pairs])):
        rates = sorted(run.rate for run in runs)
        print(f"{name}: median {statistics.median(rates):.0f} tokens/s, {rates[0]:.0f} to {rates[-1]:.0f}")
    print(
        f"ratio: median {statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f} over {len(ratios)} pairs"
    )


if __name__ == "__main__":
    main()
