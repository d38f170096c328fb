"""Tiny policies, and an algorithm whose loss touches every output of a forward pass."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from rung.algorithm import Algorithm
from rung.batch import Batch, Denominator, Loss, Outputs, Readout
from rung.forward.policy import Policy
from rung.maths.tensors import entropy, masked_sum
from rung.models.lora import with_adapter
from rung.tiny.models import build


class WeightedSum(Algorithm):
    """A loss that touches all of a forward pass: weighted log-probs, entropy, values and verdicts."""

    name: ClassVar = "weighted_sum"

    def terms(self) -> Mapping[str, Denominator]:
        return {"all": "rows"}

    def readouts(self) -> Mapping[str, Readout]:
        return {"entropy": entropy}

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        total = masked_sum(outputs.logps * batch.extras["weights"] + outputs.readouts["entropy"], batch.loss_mask).sum()
        if outputs.values is not None and outputs.scores is not None:
            total = (
                total
                + masked_sum(outputs.values**2, batch.loss_mask).sum()
                + (outputs.scores * batch.extras["rows"]).sum()
            )
        return Loss({"all": total})


def gradient(policy: Policy) -> torch.Tensor:
    """All gradients as one float64 vector, 0 where there is none."""
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.parameters]
    return torch.cat([grad.flatten().double() for grad in grads])


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
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
        score_head=torch.nn.Linear(hidden, 1, bias=False) if heads else None,
    )
