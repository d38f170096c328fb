"""Random ragged batches, a loss that touches everything, and tiny policies: for tests of the engine."""

from typing import ClassVar

import torch

from rung.algorithm import Algorithm
from rung.batch import Batch, Loss, Outputs
from rung.maths import entropy, masked_sum
from rung.models import with_adapter
from rung.policy import Policy
from rung.tiny.models import build


def random_batch(
    generator: torch.Generator,
    *,
    prompts: int = 3,
    rows: tuple[int, int] = (1, 5),
    prompt_length: tuple[int, int] = (1, 12),
    length: tuple[int, int] = (1, 14),
    vocab: int = 100,
    group: int | None = None,
) -> Batch:
    """Prompts with a random number of rows each, ragged lengths, and a few attended tokens that are not trained.

    `group` rows make a group (rows per prompt are then its multiples); None makes each prompt's rows one group.
    """

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    prompt_lengths = [draw(*prompt_length) for _ in range(prompts)]
    counts = [draw(*rows) * (group or 1) for _ in range(prompts)]
    lengths = [draw(*length) for _ in range(sum(counts))]
    width, prompt_width = max(lengths), max(prompt_lengths)
    prompt_mask = torch.arange(prompt_width) >= prompt_width - torch.tensor(prompt_lengths)[:, None]
    completion_mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    loss_mask = completion_mask & (torch.rand(completion_mask.shape, generator=generator) < 0.85)
    loss_mask[:, 0] = completion_mask[:, 0]
    prompt_of = torch.repeat_interleave(torch.arange(prompts), torch.tensor(counts))
    return Batch(
        prompt_ids=torch.randint(5, vocab, prompt_mask.shape, generator=generator) * prompt_mask,
        prompt_mask=prompt_mask,
        prompt_of=prompt_of,
        group_of=torch.arange(sum(counts)) // group if group else prompt_of.clone(),
        completion_ids=torch.randint(5, vocab, completion_mask.shape, generator=generator) * completion_mask,
        completion_mask=completion_mask,
        loss_mask=loss_mask,
        row_ids=tuple(f"row {i}" for i in range(sum(counts))),
    )


class Weighed(Algorithm):
    """A loss that touches all of a forward pass: weighted log-probs, entropy, values and verdicts."""

    name: ClassVar = "weighed"
    terms: ClassVar = {"all": "rows"}
    readouts: ClassVar = {"entropy": entropy}

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        total = masked_sum(outputs.logps * batch.extras["weights"] + outputs.readouts["entropy"], batch.loss_mask).sum()
        if outputs.values is not None and outputs.final is not None:
            total = (
                total
                + masked_sum(outputs.values**2, batch.loss_mask).sum()
                + (outputs.final * batch.extras["rows"]).sum()
            )
        return Loss({"all": total})


def weighed(batch: Batch, generator: torch.Generator) -> Batch:
    """The batch with random weights for `Weighed`."""
    return batch.replace_extras(
        weights=torch.randn(batch.completion_ids.shape, generator=generator),
        rows=torch.randn(batch.num_rows, generator=generator),
    )


def gradient(policy: Policy) -> torch.Tensor:
    """All gradients as one float64 vector, 0 where there is none."""
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.parameters]
    return torch.cat([grad.flatten().double() for grad in grads])


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The norm of the difference over the norm of what was expected."""
    return float((actual - expected).norm() / expected.norm())


def tiny_policy(family: str, *, lora: bool = False, heads: bool = False) -> Policy:
    """A random two-layer model; under LoRA both of its matrices are random, so that it changes the outputs."""
    torch.manual_seed(0)
    model = build(family)[0]
    hidden = model.config.hidden_size
    if lora:
        model = with_adapter(model, {"r": 4, "init_lora_weights": False})
    return Policy(
        model,
        value_head=torch.nn.Linear(hidden, 1) if heads else None,
        final_head=torch.nn.Linear(hidden, 1, bias=False) if heads else None,
    )
