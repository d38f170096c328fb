"""The whole training loop on one screen: what `rung run` does, without folders, resuming or reports.

Run it with `python examples/loop.py`: a random two-layer model learns to answer with digits.
"""

import torch

from rung.algorithms.grpo import GRPO
from rung.batch import count_denominators
from rung.data.encode import encode
from rung.data.load import load_examples
from rung.distributed.ranks import Ranks
from rung.forward.policy import Policy
from rung.models.load import load_model
from rung.reward import RewardSet
from rung.rollout.generate import Generator
from rung.rollout.philox import Key
from rung.rollout.samplers import LocalSampler
from rung.rollout.source import RolloutSource
from rung.sampling import Sampling


def digits(completion: str) -> float:
    """The share of the completion that is digits."""
    return sum(character.isdigit() for character in completion) / max(len(completion), 1)


def main(num_steps: int = 30) -> float:
    """Trains and returns the mean reward of the last rollout."""
    torch.manual_seed(0)
    model, tokenizer = load_model("tiny:llama")
    examples, report = load_examples([{"prompt": f"Tell me number {i}"} for i in range(32)])
    prompts = encode(examples, tokenizer, max_prompt_length=64, max_length=None, report=report)

    algorithm = GRPO(beta=0.0)
    policy = Policy(model)
    generator = Generator(
        sampler=LocalSampler(model, tokenizer),
        sampling=Sampling(max_completion_length=8),
        key=Key(seed=0, stage="loop", purpose="rollout"),
        samples=algorithm.num_generations,
        rewards=RewardSet([digits]),
        tokenizer=tokenizer,
    )
    batches = RolloutSource(
        prompts,
        algorithm=algorithm,
        policy=policy,
        generator=generator,
        batch_size=8,
        epochs=1,
        minibatches=1,
        seed=0,
        ranks=Ranks(),
    )
    optimizer = torch.optim.AdamW(policy.parameters, lr=3e-3)

    reward = 0.0
    for step, batch in zip(range(num_steps), batches, strict=False):
        denominators = count_denominators(algorithm.terms(), batch)  # from masks, before any backward
        optimizer.zero_grad()
        for part, outputs in policy.parts(batch.select(algorithm.active_rows(batch)), algorithm):
            algorithm.loss(part, outputs).over(denominators).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters, 1.0)
        optimizer.step()
        reward = float(batch.rewards.mean()) if batch.rewards is not None else 0.0
        print(f"step {step + 1}: reward {reward:.3f}")
    return reward


if __name__ == "__main__":
    main()
